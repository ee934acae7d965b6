"""Whether a device computes what the CPU computes: checks, of which a failed one hides no other, and a report."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from swin_dense.devices import chosen_device, find_devices
from swin_dense.doctor.installation import installed_versions
from swin_dense.errors import ConfigError, TrainingInterruptedError

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Float32 computes everything in it; the other two are autocast's, or those of an operator's inputs."""

LINES = 4
"""Lines of a traceback that are kept, the innermost ones."""

LIBRARIES = ("torch", "torchvision", "triton", "numpy", "lightning", "mmdet", "mmsegmentation", "mmcv-lite")
"""Whose versions are reported."""


class Measured(NamedTuple):
    """How far a device is from the reference, how far it may be, and what else is worth knowing."""

    difference: float
    tolerance: float
    detail: str = ""


Measurement = Callable[[], Measured]
"""Computes something on the device and compares it; whatever it raises is a failure."""


@dataclass(frozen=True)
class Check:
    """The outcome of a check.

    Attributes:
        name: Area, what is checked, and how: "operators: roi_align, bfloat16".
        difference: Measured; None where something was raised.
        tolerance: The largest difference that passes.
        detail: What else was seen; the error and the end of its traceback where something was raised.
    """

    name: str
    passed: bool
    difference: float | None
    tolerance: float | None
    seconds: float
    detail: str

    def __str__(self) -> str:
        """One line."""
        state = "passed" if self.passed else "FAILED"
        measured = "" if self.difference is None else f", {self.difference:.2g} of {self.tolerance:.2g}"
        return (
            f"{state} {self.name} ({self.seconds:.1f} s{measured}) {self.detail.splitlines()[0] if self.detail else ''}"
        )


def run_checks(measurements: Iterable[tuple[str, Measurement]], only: Sequence[str] = ()) -> Iterator[Check]:
    """Runs those whose name holds one of `only`, or all; says on stderr how each came out."""
    for name, measure in measurements:
        if only and not any(word in name for word in only):
            continue
        with exact_products():
            check = _run(name, measure)
        print(check, file=sys.stderr, flush=True)
        yield check


def _run(name: str, measure: Measurement) -> Check:
    start = time.perf_counter()
    try:
        difference, tolerance, detail = measure()
    except TrainingInterruptedError:  # by the user, or by a cluster
        raise
    except Exception as error:  # whatever is raised is the finding
        frames = traceback.format_exception(error)
        detail = "\n".join([f"{type(error).__name__}: {error}"[:2000], *"".join(frames[-LINES - 1 : -1]).splitlines()])
        return Check(name, False, None, None, time.perf_counter() - start, detail)
    return Check(name, difference <= tolerance, difference, tolerance, time.perf_counter() - start, detail)


@contextmanager
def exact_products() -> Iterator[None]:
    """Float32 products in float32: TF32 keeps ten bits of them."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of any two values, as part of the largest expected one of their tensor.

    Raises:
        ArithmeticError: Numbers, shapes or finite values differ.
    """
    largest = 0.0
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        one, other = one.detach().cpu().double(), other.detach().cpu().double()
        if one.shape != other.shape:
            raise ArithmeticError(f"result {place} has shape {tuple(one.shape)} instead of {tuple(other.shape)}")
        if not bool(one.isfinite().all()):
            raise ArithmeticError(f"result {place} holds NaN or infinity")
        if other.numel():
            scale = float(other.abs().max()) or 1.0
            largest = max(largest, float((one - other).abs().max()) / scale)
    return largest


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
            "checks": [asdict(check) for check in self.checks],
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
    installed = installed_versions()
    return DeviceReport(
        device=str(device),
        description=known[device.index or 0],
        versions={name: installed[name] for name in LIBRARIES if name in installed},
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
