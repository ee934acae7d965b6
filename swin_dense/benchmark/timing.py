"""Clocks and statistics: time of calls on any device, contestants in turn, and a limit that ends a benchmark."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Clock = Callable[[], float]
"""Seconds since some moment."""


@dataclass(frozen=True)
class Spread:
    """The seconds of several rounds.

    Attributes:
        median: Of all rounds.
        lowest: The fastest round.
        highest: The slowest round.
        rounds: How many there were.
    """

    median: float
    lowest: float
    highest: float
    rounds: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """That of the seconds of each round."""
        return cls(statistics.median(seconds), min(seconds), max(seconds), len(seconds))

    def milliseconds(self, ending: str = "") -> dict[str, float]:
        """The median, the lowest and the highest in milliseconds, under names that end so, for JSON."""
        return {f"{what}{ending}": 1000 * getattr(self, what) for what in ("median", "lowest", "highest")}


class TimeLimit:
    """Seconds that a benchmark may take; None is no limit."""

    def __init__(self, seconds: float | None, clock: Clock = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._start = clock()

    def spent(self) -> float:
        """Seconds so far."""
        return self._clock() - self._start

    def left(self) -> float | None:
        """Seconds that are left, 0 at least; None without a limit."""
        return None if self._seconds is None else max(0.0, self._seconds - self.spent())


def seconds_per_call(
    call: Callable[[], object], count: int, device: torch.device, clock: Clock = time.perf_counter
) -> float:
    """Seconds of one call, the mean of `count` calls in a row; on CUDA between two events on its stream."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch says no types
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(count):
            call()
        end.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end)) / 1000 / count
    begin = clock()
    for _ in range(count):
        call()
    return (clock() - begin) / count


def calls_per_round(seconds: float, round_seconds: float, most: int = 1000) -> int:
    """Calls of so many seconds that fill a round; one at least."""
    return max(1, min(most, round(round_seconds / max(seconds, 1e-9))))


def take_turns(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The seconds that each contestant returns in each round.

    All take part in every round, so that a disturbance meets all alike; the one that begins is another in each round.
    """
    names, seconds = list(contestants), {name: list[float]() for name in contestants}
    for number in range(rounds):
        first = number % max(len(names), 1)
        for name in names[first:] + names[:first]:
            seconds[name].append(contestants[name]())
    return seconds


def log(text: str) -> None:
    """Tells about progress, beside the results on stdout."""
    print(text, file=sys.stderr, flush=True)
