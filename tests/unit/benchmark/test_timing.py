"""Statistics and limits, by a clock that the test winds."""

from __future__ import annotations

import itertools

import pytest
import torch

from swin_dense.benchmark.timing import Spread, TimeLimit, calls_per_round, seconds_per_call, take_turns

CPU = torch.device("cpu")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_call_takes_the_mean_of_those_in_a_row() -> None:
    clock, durations = Clock(), itertools.cycle((1.0, 2.0, 6.0))

    def call() -> None:
        clock.now += next(durations)

    assert seconds_per_call(call, 3, CPU, clock) == 3.0
    assert seconds_per_call(call, 2, CPU, clock) == 1.5


def test_the_spread_is_the_median_between_the_extremes() -> None:
    assert Spread.of([3.0, 1.0, 9.0, 2.0]) == Spread(median=2.5, lowest=1.0, highest=9.0, rounds=4)


def test_a_round_is_filled_with_calls() -> None:
    assert calls_per_round(0.01, 0.1) == 10
    assert calls_per_round(5.0, 0.1) == 1
    assert calls_per_round(0.0, 0.1, most=50) == 50


def test_all_take_part_in_every_round_and_another_one_begins() -> None:
    turns: list[str] = []

    def turn(name: str) -> float:
        turns.append(name)
        return float(len(turns))

    seconds = take_turns({name: lambda name=name: turn(name) for name in "abc"}, rounds=2)
    assert turns == ["a", "b", "c", "b", "c", "a"]
    assert seconds == {"a": [1.0, 6.0], "b": [2.0, 4.0], "c": [3.0, 5.0]}


@pytest.mark.parametrize(("passed", "left"), [(0.0, 5.0), (3.0, 2.0), (8.0, 0.0)])
def test_a_limit_counts_down_to_zero(passed: float, left: float) -> None:
    clock = Clock()
    limit, none = TimeLimit(5.0, clock), TimeLimit(None, clock)
    clock.now += passed
    assert (limit.left(), limit.spent(), none.left()) == (left, passed, None)
