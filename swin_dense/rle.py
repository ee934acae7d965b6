"""Writes compressed COCO run-length masks, and checks them before the C code of the scoring engines reads them.

A mask of H x W pixels is a list of run lengths in column order that begins with background. Run j is written as its
difference to run j - 2 (the first three as they are), in little-endian groups of 5 bits: one ASCII character per group,
48 + bits, plus 32 where another group follows, and bit 4 of the last group is the sign. The C readers trust that a
string ends where a number ends and that its runs fill the image; a string that breaks this makes them read beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_FIRST_CHARACTER = 48
_MORE = 32
_SIGN = 16
_MOST_GROUPS = 7  # 35 bits hold any run of an image of up to 2**32 pixels
_MASKS_AT_ONCE = 8192  # bounds the memory of the arrays below

Integers = NDArray[np.int64]


def compress_runs(runs: Integers, lengths: Integers) -> list[bytes]:
    """The `counts` strings of N masks, whose run lengths (R,) lie one after another, so many (N,) of each."""
    stops = np.cumsum(lengths)
    later = np.flatnonzero(np.arange(len(runs)) - np.repeat(stops - lengths, lengths) > 2)
    values = runs.copy()
    values[later] -= runs[later - 2]
    characters = np.zeros((len(runs), _MOST_GROUPS), dtype=np.uint8)  # 0 beyond the last of a run
    going = np.arange(len(runs))
    for place in range(_MOST_GROUPS):
        groups = values & (_MORE - 1)
        values >>= 5
        has_more = values != np.where(groups & _SIGN, -1, 0)
        characters[going, place] = _FIRST_CHARACTER + groups + _MORE * has_more
        going, values = going[has_more], values[has_more]
    ends = np.cumsum(np.count_nonzero(characters, axis=1))[stops - 1]
    joined = characters[characters > 0].tobytes()
    return [joined[start:end] for start, end in pairwise([0, *ends.tolist()])]


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
    areas = np.zeros(len(encoded), dtype=np.int64)
    lengths = np.array([len(one) for one in encoded], dtype=np.int64)
    stops = np.cumsum(lengths)
    groups = np.frombuffer(b"".join(encoded), dtype=np.uint8) - np.uint8(_FIRST_CHARACTER)  # wraps below it

    ends = groups & _MORE == 0
    foreign = np.searchsorted(stops, np.flatnonzero(groups >= 2 * _MORE), side="right")
    filled = np.flatnonzero(lengths)
    _note(problems, foreign, "its counts hold characters that no compressed RLE has")
    _note(problems, filled[~ends[stops[filled] - 1]], "its counts break off in the middle of a number")
    if problems:
        # Numbers of broken strings would run into their neighbours: the sound ones are decoded alone.
        sound = np.setdiff1d(np.arange(len(encoded)), list(problems))
        areas[sound], found = _check_some([encoded[index] for index in sound], pixels[sound])
        return areas, problems | {int(sound[index]): problem for index, problem in found.items()}

    last = np.flatnonzero(ends)
    first_run = np.searchsorted(last, stops - lengths)
    mask_of_run = np.repeat(np.arange(len(encoded)), np.diff(first_run, append=len(last)))
    is_foreground = (np.arange(len(last)) - first_run[mask_of_run]) % 2 == 1
    runs, overlong = _decode(groups, last, first_run, is_foreground)
    _note(problems, mask_of_run[(runs < 0) | overlong], "its counts hold run lengths that are negative or too large")
    totals = np.add.reduceat(runs, first_run)
    for index in np.flatnonzero(totals != pixels).tolist():
        problems.setdefault(index, f"its runs cover {int(totals[index])} pixels, the image has {pixels[index]}")
    areas = np.add.reduceat(np.where(is_foreground, runs, 0), first_run)
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
    groups: NDArray[np.uint8], last: Integers, first_run: Integers, is_foreground: NDArray[np.bool_]
) -> tuple[Integers, NDArray[np.bool_]]:
    """Turns groups of 5 bits, given the last of each run, into run lengths, and tells which have too many bits."""
    width = np.diff(last, prepend=-1)
    first = last - width + 1
    runs = (groups[first] & (_MORE - 1)).astype(np.int64)
    longer = np.flatnonzero(width > 1)  # few
    for place in range(1, _MOST_GROUPS):
        runs[longer] |= (groups[first[longer] + place] & (_MORE - 1)).astype(np.int64) << 5 * place
        longer = longer[width[longer] > place + 1]
    runs -= np.where(groups[last] & _SIGN, 1 << 5 * np.minimum(width, _MOST_GROUPS), 0)
    of_first = runs[first_run]
    runs[first_run] = 0
    # Sums over all masks, less what had been summed up before each mask.
    counts = np.diff(first_run, append=len(last))
    for kind in (is_foreground, ~is_foreground):
        sums = np.cumsum(np.where(kind, runs, 0))
        np.copyto(runs, sums - np.repeat(sums[first_run], counts), where=kind)
    runs[first_run] = of_first
    return runs, width > _MOST_GROUPS


def _note(problems: dict[int, str], masks: Integers, problem: str) -> None:
    for index in np.unique(masks).tolist():
        problems.setdefault(index, problem)
