"""Runs a command on a device that is not there: `python tools/pretended_device.py doctor --device pretended`.

The device, pretended_device.cpp, is one of PyTorch's that the CPU computes for. What a GPU would refuse is refused:
tensors of two devices in one operator, a generator of another device. With `--like CUDA`, or MPS for Apple's GPUs, it
also lacks the operators that have no kernel there in PyTorch's table, and Apple's float64. With --waits it counts the
places where the CPU would wait for a GPU. It takes a C++ compiler and half a minute, once.
"""

from __future__ import annotations

import argparse
import atexit
import sys
import traceback
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torchgen
import yaml
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from torch.utils import cpp_extension

NAME = "pretended"
WITH_GRADIENTS = ("deform_conv2d", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")
"""Operators of torchvision that have kernels for both, backward ones, too; as of torchvision 0.29."""


class PretendedAccelerator(Accelerator):
    """What Lightning asks of a device."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing to do."""

    def get_device_stats(self, device: torch.device | str | int) -> dict[str, Any]:
        """None."""
        return {}

    def teardown(self) -> None:
        """Nothing to do."""

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        """The one device, whatever was asked for."""
        return [0]

    @staticmethod
    def get_parallel_devices(devices: Any) -> Any:
        """The one device."""
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count() -> int:
        """One."""
        return 1

    @staticmethod
    def is_available() -> bool:
        """Always."""
        return True

    @staticmethod
    def name() -> str:
        """As torch names it."""
        return NAME


def pretend() -> Any:
    """Registers the device with PyTorch and Lightning; the extension that has its switches."""
    torch.utils.rename_privateuse1_backend(NAME)
    module = ModuleType(f"torch.{NAME}")
    vars(module).update(
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        set_device=lambda device: None,
        synchronize=lambda device=None: None,
        manual_seed_all=lambda seed: None,
        get_rng_state=lambda device=None: torch.get_rng_state(),
        set_rng_state=lambda state, device=None: torch.set_rng_state(state),
        get_amp_supported_dtype=lambda: [torch.float16, torch.bfloat16],
        _is_in_bad_fork=lambda: False,
    )
    torch._register_device_module(NAME, module)
    source = Path(__file__).with_suffix(".cpp")
    extension = cpp_extension.load(NAME, [str(source)], extra_cflags=["-O1"])
    torch.utils.generate_methods_for_privateuse1_backend()
    AcceleratorRegistry.register(NAME, PretendedAccelerator, description="computed by the CPU")
    return extension


def kernels_for(device: str) -> set[str]:
    """The operators that have a kernel for a device of PyTorch's table, or one for every device."""
    table = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    entries = {one["func"].partition("(")[0]: one for one in yaml.safe_load(table.read_text(encoding="utf-8"))}
    found = {"torchvision::nms", *(f"torchvision::{name}" for name in WITH_GRADIENTS)}
    found |= {f"torchvision::_{name}_backward" for name in WITH_GRADIENTS}
    for name, one in entries.items():
        kernels = entries[one.get("structured_delegate", name)]
        devices = [one.strip() for several in kernels.get("dispatch", ["Composite"]) for one in several.split(",")]
        devices += ["CUDA"] if "ufunc_inner_loop" in kernels else []
        if any(one == device or one.startswith("Composite") for one in devices):
            found.add(f"aten::{name}")
    return found


def count_waits(extension: Any) -> None:
    """Prints at the exit how often which lines of Python, outside PyTorch, made the CPU wait."""
    places: Counter[str] = Counter()

    def note(operator: str) -> None:
        frames = [one for one in traceback.extract_stack()[:-1] if "/torch/" not in one.filename]
        lines = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in frames[:-4:-1])
        places[f"{operator}: {lines}"] += 1

    def report() -> None:
        for place, count in places.most_common():
            print(f"{count:6} {place}", file=sys.stderr)

    extension.call_on_wait(note)
    atexit.register(report)


def main() -> None:
    """Pretends, and runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", choices=("CUDA", "MPS"), help="lack the operators that such devices lack")
    parser.add_argument("--waits", action="store_true", help="count where the CPU would wait for a GPU")
    options, command = parser.parse_known_args()
    extension = pretend()
    if options.like:
        extension.restrict(kernels_for(options.like), options.like != "MPS")
    if options.waits:
        count_waits(extension)
    from swin_dense.cli import main as run

    run(command)


if __name__ == "__main__":
    main()
