"""What a call of the library leaves in its caller's process: nothing."""

from __future__ import annotations

import ctypes
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

_ALLOCATION = {-1: (64 * 2**20, -1), -2: (2**17, 64 * 2**20), -3: (2**25, 2**25), -4: (65_536, 0)}
"""By number of an option of `mallopt`, what it is left at and what keeps freed memory: M_TRIM_THRESHOLD, beyond which
free memory is handed back, or never; M_TOP_PAD, bytes that are taken at once beyond what is needed; M_MMAP_THRESHOLD,
from which a block may be the system's own; M_MMAP_MAX, how many blocks may be.

Once an option is set, glibc no longer moves the two thresholds, so they are left where freed tensors would have moved
them: at their highest."""

_OPTIONS_OF_USERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")


@contextmanager
def isolated() -> Iterator[None]:
    """Leaves random generators, warning filters, loggers and signals as they were, whatever is imported inside."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    levels = [(one, one.level) for one in loggers if isinstance(one, logging.Logger)]
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    on_devices = torch.cuda.get_rng_state_all() if initialized else []
    with warnings.catch_warnings():
        try:
            yield
        finally:
            for logger, level in levels:
                if logger.level != level:  # setting a level clears the caches of all loggers
                    logger.setLevel(level)
            if threading.current_thread() is threading.main_thread():  # no other may set handlers
                for number, handler in handlers.items():
                    if handler is not None:  # it was set outside Python
                        signal.signal(number, handler)
            torch.set_rng_state(states[0])
            np.random.set_state(states[1])
            random.setstate(states[2])
            if on_devices:
                torch.cuda.set_rng_state_all(on_devices)


@contextmanager
def left_as_it_is(model: nn.Module) -> Iterator[None]:
    """Leaves a caller's model on its device, and its parts in their modes, wherever it computes inside."""
    device = next((one.device for one in model.parameters()), None)
    modes = [(part, part.training) for part in model.modules()]
    try:
        yield
    finally:
        if device is not None:
            model.to(device)
        for part, training in modes:
            part.training = training


@contextmanager
def keeping_freed_memory(device: torch.device) -> Iterator[None]:
    """Lets the process keep the memory that tensors free, for those that come next, where they are on the CPU.

    glibc hands large blocks back at once, so that each step of a training gets its activations from the system page by
    page: of Mask R-CNN's steps that took a quarter. Other C libraries are left as they are, and so are options that a
    user has set by the environment.
    """
    is_set = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(map(os.environ.get, _OPTIONS_OF_USERS))
    serves = device.type == "cpu" and sys.platform == "linux" and not is_set
    library = ctypes.CDLL(None) if serves else None
    set_option, hand_back = getattr(library, "mallopt", None), getattr(library, "malloc_trim", None)
    if set_option is None or hand_back is None:
        yield
        return
    for option, (_, kept) in _ALLOCATION.items():
        set_option(option, kept)
    try:
        yield
    finally:
        for option, (left, _) in _ALLOCATION.items():
            set_option(option, left)
        hand_back(0)


@contextmanager
def seeded(*place: int, device: torch.device | None = None) -> Iterator[None]:
    """Draws random numbers, on the CPU and a device, that depend on a place alone, such as (seed, epoch, index); >= 0.

    The generators (torch's, numpy's and Python's: a user's own transform may draw from any) are given back to the
    caller as they were. Those of other devices are left alone, which is why `torch.manual_seed` is for devices only.
    """
    words = np.random.SeedSequence(place).generate_state(3).tolist()
    states = np.random.get_state(), random.getstate()
    devices = [] if device is None or device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=devices[0].type if devices else "cuda"):
        (torch.manual_seed if devices else torch.default_generator.manual_seed)(words[0])
        np.random.seed(words[1])
        random.seed(words[2])
        try:
            yield
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])
