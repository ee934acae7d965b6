"""What a call of the library leaves in its caller's process: nothing."""

from __future__ import annotations

import logging
import random
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


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
