"""What torch can compute on here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.ops import nms

from swin_dense.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """Something to compute on, as torch names it; `failure` says why it fails at a small computation."""

    name: str
    description: str
    memory_gib: float | None
    bf16: bool
    failure: str | None


def find_devices() -> tuple[Device, ...]:
    """Every device, best first, each tried with a small computation."""
    return (*_cuda_devices(), *_mps_devices(), *_other_devices(), _cpu())


def chosen_device(name: str | None) -> torch.device:
    """The device that a user asks for, tried with a small computation; None takes the best there is.

    The best is CUDA (of several processes under torchrun each its own), MPS, or else the CPU.
    """
    if name is not None:
        if (failure := failure_on(name)) is not None:
            available = ", ".join(device.name for device in find_devices() if device.failure is None)
            raise ConfigError(f'device "{name}" cannot be used: {failure.splitlines()[0]}; available: {available}')
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def usable_cores() -> int:
    """Cores that this process may use: a container or a cluster may leave it fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def nvidia_driver_is_idle() -> bool:
    """Whether this machine has an NVIDIA driver that this build of torch cannot use."""
    return Path("/proc/driver/nvidia/version").exists() and not torch.cuda.is_available()


def _cuda_devices() -> Iterator[Device]:
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        name, properties = f"cuda:{index}", torch.cuda.get_device_properties(index)
        with torch.cuda.device(index):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        yield Device(name, properties.name, round(properties.total_memory / GIB, 1), bf16, failure_on(name))


def _mps_devices() -> Iterator[Device]:
    if torch.backends.mps.is_available():
        memory = round(torch.mps.recommended_max_memory() / GIB, 1)
        yield Device("mps", "Apple GPU", memory, torch.backends.mps.is_macos_or_newer(14, 0), failure_on("mps"))


def _other_devices() -> Iterator[Device]:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None and accelerator.type not in ("cuda", "mps"):
        for index in range(torch.accelerator.device_count()):
            name = f"{accelerator.type}:{index}"
            yield Device(name, f"accelerator of type {accelerator.type}", None, bf16=True, failure=failure_on(name))


def _cpu() -> Device:
    memory = None
    if hasattr(os, "sysconf"):
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1)
    description = f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    return Device("cpu", description, memory, bf16=True, failure=failure_on("cpu"))


def failure_on(device: str) -> str | None:
    """Why a small computation fails, as it does in builds for another architecture; None where it does not."""
    try:
        boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]], device=device)
        kept = nms(boxes, (boxes @ boxes.mT).diagonal(), 0.5).tolist()
    except Exception as error:  # whatever a driver or a build raises is the finding
        return f"{type(error).__name__}: {error}"
    return None if kept == [2, 0] else f"non-maximum suppression kept boxes {kept} instead of [2, 0]"
