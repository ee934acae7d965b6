"""Which images are trained on and which are validated on: seeded, and with near-duplicates on one side."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from swin_dense.errors import ConfigError, DataError, option

NAMES = ("train", "val", "test")
DEFAULT = {"train": 0.8, "val": 0.2}

DUPLICATES = "duplicates"
"""As `group_by`: images that look alike stay together."""


def parse_split(text: str) -> dict[str, float]:
    """Fractions by split of a text such as "train=0.8,val=0.2"; their sum is 1."""
    found: dict[str, float] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)\s*=\s*(\d*\.?\d+)\s*", part)
        if match is None or match[1] not in NAMES or match[1] in found:
            raise ConfigError(f"{option('split', text)}: write fractions of {', '.join(NAMES)}, as train=0.8,val=0.2")
        found[match[1]] = float(match[2])
    if abs(sum(found.values()) - 1) > 1e-6 or min(found.values()) <= 0:
        raise ConfigError(f"{option('split', text)}: the fractions sum to {sum(found.values()):g}, and not to 1")
    return found


def group_names(names: Sequence[str], pattern: str) -> tuple[list[str], int]:
    """A group for each name: the first group of a regular expression found in it, or all that it matches.

    A name that does not match is a group of its own; the second value says how many these are.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{option('group_by', pattern)}: no regular expression ({error})") from None
    found = [compiled.search(name) for name in names]
    groups = [
        f"alone {name}" if match is None else f"group {(match.groups() and match[1]) or match[0]}"
        for name, match in zip(names, found, strict=True)
    ]
    return groups, found.count(None)


def assign(groups: Sequence[str], fractions: Mapping[str, float], seed: int) -> list[str]:
    """The split of each image: whole groups in a seeded order, each to the split that most lacks images."""
    members: dict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    order = sorted(members)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda group: -len(members[group]))  # large groups first, or the fractions would be missed
    found, counts = [""] * len(groups), dict.fromkeys(fractions, 0)
    for group in order:
        split = max(counts, key=lambda name: fractions[name] * len(groups) - counts[name])
        counts[split] += len(members[group])
        for place in members[group]:
            found[place] = split
    empty = [name for name, count in counts.items() if not count]
    if empty:
        raise DataError(
            f"{len(groups)} images in {len(members)} groups do not fill {', '.join(fractions)}: nothing is left for "
            f"{', '.join(empty)}; add images, or choose other fractions with {option('split', 'train=0.5,val=0.5')}"
        )
    return found
