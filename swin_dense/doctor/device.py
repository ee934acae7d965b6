"""Whether a device computes what the CPU computes: all checks, and a report of them."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from swin_dense.devices import chosen_device, find_devices
from swin_dense.doctor.checks import Check, Measurement, run_checks
from swin_dense.errors import ConfigError

LIBRARIES = ("torch", "torchvision", "triton", "numpy", "lightning", "mmdet", "mmsegmentation", "mmcv-lite")
"""Whose versions are reported."""


@dataclass(frozen=True)
class DeviceReport:
    """The outcome of all checks of a device."""

    device: str
    description: str
    versions: dict[str, str]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check has passed."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists and strings, for JSON."""
        return {
            "ok": self.ok,
            "device": self.device,
            "description": self.description,
            "versions": self.versions,
            "seconds": sum(check.seconds for check in self.checks),
            "checks": [check.to_dict() for check in self.checks],
        }


def check_device(name: str, only: Sequence[str] = ()) -> DeviceReport:
    """Runs the checks of a device, or those whose names hold one of `only`; nothing is downloaded.

    Raises:
        ConfigError: The device cannot be used, or no check has such a name.
    """
    device = chosen_device(name)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        checks = tuple(run_checks(all_checks(device, Path(folder)), only))
    if not checks:
        raise ConfigError(f"no check has {' or '.join(only)} in its name")
    known = [one.description for one in find_devices() if one.name.partition(":")[0] == device.type]
    installed = {name: _version(name) for name in LIBRARIES}
    return DeviceReport(
        device=str(device),
        description=known[device.index or 0],
        versions={name: version for name, version in installed.items() if version is not None},
        checks=checks,
    )


def all_checks(device: torch.device, folder: Path) -> Iterator[tuple[str, Measurement]]:
    """What is checked of a device, the quick things first; each room is imported when its turn comes."""
    from swin_dense.doctor.operators import operator_checks

    yield from operator_checks(device)
    from swin_dense.doctor.backbone import backbone_checks, compiled_checks

    yield from backbone_checks(device)
    from swin_dense.doctor.systems import step_checks, training_checks
    from swin_dense.doctor.usage import usage_checks

    yield from chain(
        usage_checks(device, folder / "usage"),
        step_checks(device, folder / "steps"),
        training_checks(device, folder / "training"),
        compiled_checks(device),
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
