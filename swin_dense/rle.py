"""Checks compressed COCO run-length masks before the C code of the scoring engines reads them.

A mask of H x W pixels is a list of run lengths in column order that begins with background. Run j is written as its
difference to run j - 2 (the first three as they are), in little-endian groups of 5 bits: one ASCII character per group,
48 + bits, plus 32 where another group follows, and bit 4 of the last group is the sign. The C readers trust that a
string ends where a number ends and that its runs fill the image; a string that breaks this makes them read beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_FIRST_CHARACTER = 48
_MORE = 32
_SIGN = 16
_MOST_GROUPS = 7  # 35 bits hold any run of an image of up to 2**32 pixels
_MASKS_AT_ONCE = 8192  # bounds the memory of the arrays below

Integers = NDArray[np.int64]


def check_rles(counts: Sequence[object], pixels: Integers) -> tuple[Integers, dict[int, str]]:
    """The areas (N,) of N compressed masks, 0 where malformed, and what is wrong with each malformed one by its index.

    A mask is the `counts` string of an RLE as str or bytes; its runs have to fill as many `pixels` (N,) as H * W says.
    No pixel is painted.
    """
    areas = np.zeros(len(counts), dtype=np.int64)
    problems: dict[int, str] = {}
    for start in range(0, len(counts), _MASKS_AT_ONCE):
        stop = start + _MASKS_AT_ONCE
        areas[start:stop], found = _check_some(counts[start:stop], pixels[start:stop])
        problems |= {start + index: problem for index, problem in found.items()}
    return areas, problems


def _check_some(counts: Sequence[object], pixels: Integers) -> tuple[Integers, dict[int, str]]:
    encoded, problems = _as_bytes(counts)
    lengths = np.array([len(one) for one in encoded], dtype=np.int64)
    groups = np.frombuffer(b"".join(encoded), dtype=np.uint8).astype(np.int64) - _FIRST_CHARACTER
    mask_of_group = np.repeat(np.arange(len(encoded)), lengths)

    ends = groups & _MORE == 0
    ends_in_number = np.ones(len(encoded), dtype=bool)
    filled = lengths > 0
    ends_in_number[filled] = ends[np.cumsum(lengths)[filled] - 1]
    foreign = np.bincount(mask_of_group, weights=(groups < 0) | (groups >= 64), minlength=len(encoded)) > 0
    _note(problems, foreign, "its counts hold characters that no compressed RLE has")
    _note(problems, ~ends_in_number, "its counts break off in the middle of a number")
    if foreign.any() or not ends_in_number.all():
        # Numbers of broken strings would run into their neighbours: the sound ones are decoded alone.
        sound = np.flatnonzero(~foreign & ends_in_number)
        areas = np.zeros(len(encoded), dtype=np.int64)
        areas[sound], found = _check_some([encoded[index] for index in sound], pixels[sound])
        for index, problem in found.items():
            problems.setdefault(int(sound[index]), problem)
        return areas, problems

    runs, mask_of_run, overlong = _decode(groups, ends, mask_of_group)
    negative = np.bincount(mask_of_run, weights=(runs < 0) | overlong, minlength=len(encoded)) > 0
    _note(problems, negative, "its counts hold run lengths that are negative or too large")
    totals = np.bincount(mask_of_run, weights=runs, minlength=len(encoded))
    for index in np.flatnonzero((totals != pixels) & ~negative).tolist():
        problems.setdefault(index, f"its runs cover {int(totals[index])} pixels, the image has {pixels[index]}")
    foreground = _index_in_mask(mask_of_run) % 2 == 1
    areas = np.bincount(mask_of_run[foreground], weights=runs[foreground], minlength=len(encoded)).astype(np.int64)
    areas[list(problems)] = 0
    return areas, problems


def _as_bytes(counts: Sequence[object]) -> tuple[list[bytes], dict[int, str]]:
    encoded: list[bytes] = []
    problems: dict[int, str] = {}
    for index, one in enumerate(counts):
        if isinstance(one, str) and one.isascii():
            one = one.encode("ascii")
        if isinstance(one, bytes) and one:
            encoded.append(one)
        else:
            encoded.append(b"")
            problems[index] = "its counts are not a compressed RLE string"
    return encoded, problems


def _decode(
    groups: Integers, ends: NDArray[np.bool_], mask_of_group: Integers
) -> tuple[Integers, Integers, NDArray[np.bool_]]:
    """Turns groups of 5 bits into run lengths, the mask that each run belongs to, and whether it has too many bits."""
    last = np.flatnonzero(ends)
    first = np.concatenate(([0], last[:-1] + 1)) if len(last) else last
    width = last - first + 1
    overlong = width > _MOST_GROUPS
    place = np.minimum(np.arange(len(groups)) - np.repeat(first, width), _MOST_GROUPS)
    values = np.add.reduceat((groups & 31) << 5 * place, first) if len(first) else first
    values = values - np.where(groups[last] & _SIGN, 1 << 5 * np.minimum(width, _MOST_GROUPS), 0)
    mask_of_run = mask_of_group[last]
    index = _index_in_mask(mask_of_run)
    for differences in (index % 2 == 1, (index % 2 == 0) & (index > 0)):
        values[differences] = _running_sum(values[differences], mask_of_run[differences])
    return values, mask_of_run, overlong


def _index_in_mask(mask_of_run: Integers) -> Integers:
    """(R,) position of every run among the runs of its own mask."""
    return _running_sum(np.ones_like(mask_of_run), mask_of_run) - 1


def _running_sum(values: Integers, owners: Integers) -> Integers:
    """Cumulative sum that restarts wherever the sorted `owners` change."""
    total = np.cumsum(values)
    first = np.flatnonzero(np.diff(owners, prepend=-1))
    before = total[first] - values[first]
    return total - np.repeat(before, np.diff(first, append=len(values)))


def _note(problems: dict[int, str], wrong: NDArray[np.bool_], problem: str) -> None:
    for index in np.flatnonzero(wrong).tolist():
        problems.setdefault(index, problem)
