"""Changes to sound content that a hostile or an unlucky user could make: to any bytes, to JSON, to lines of text."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

HUGE = 10**400
"""More digits than a float holds; `DIGITS` has more than Python prints or parses."""

DIGITS = "9" * 5000

CODE = "__import__('os').system('touch ../owned')"

TEXTS = (
    "",
    " ",
    ".",
    "..",
    "../secret.png",
    "/etc/hostname",
    "C:\\secret.png",
    "a\0b",
    "\ud800",
    "a\udcffb.png",
    "😀",
    "e\u0301",
    "²",
    "٣",
    "𝟛",
    "a" * 5000,
    "nan",
    "-inf",
    "1e999",
    CODE,
    "\r\n\x1b[31m",
    "%s{0}",
)
NUMBERS = (0, -1, 1, 2, 2**15, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, HUGE, -HUGE)
FLOATS = (float("nan"), float("inf"), -float("inf"), -0.0, 1e-320, 1e308, -1e308, 0.5)


def odd_value(random: Random) -> Any:
    """A JSON value that stands where another one belongs."""
    kind = random.randrange(8)
    if kind == 0:
        return random.choice((None, True, False))
    if kind == 1:
        return random.choice(NUMBERS)
    if kind == 2:
        return random.choice(FLOATS)
    if kind in (3, 4):
        return random.choice(TEXTS)
    if kind == 5:
        return random.choice(([], {}, [[]], [{}], {"": None}, [None], [[[[0]]]], [True], {"a": {"b": [1]}}))
    if kind == 6:
        return [odd_value(random) for _ in range(random.randrange(6))]
    value: Any = random.choice((0, "x", None))
    for _ in range(random.choice((3, 40, 400))):
        value = [value] if random.random() < 0.5 else {"a": value}
    return value


def _places(value: Any, above: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) in a tree of lists and dicts."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        above.append((value, key))
        _places(item, above)
    return above


def mutate_tree(random: Random, value: Any, changes: int = 0) -> Any:
    """A copy of a JSON value with one to four places deleted, doubled, replaced, swapped or renamed."""
    root = [copy.deepcopy(value)]
    for _ in range(changes or random.choice((1, 1, 1, 2, 4))):
        holder, key = random.choice(_places(root, []))
        kind = random.randrange(8)
        if kind == 0 and holder is not root:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 2 and isinstance(holder, dict):
            holder[random.choice(TEXTS)] = holder.pop(key)
        elif kind == 3:
            other, place = random.choice(_places(root, []))
            holder[key] = copy.deepcopy(other[place])
        elif kind == 4 and type(holder[key]) in (int, float):
            holder[key] = random.choice((-holder[key], holder[key] + 1, holder[key] * 1000, float(holder[key]), [key]))
        elif kind == 5 and isinstance(holder[key], list) and holder[key]:
            holder[key] = holder[key] * random.choice((0, 2, 50))
        else:
            holder[key] = odd_value(random)
        if not root:
            root = [None]
    return root[0]


def json_bytes(random: Random, value: Any) -> bytes:
    """A JSON value as some program would write it: with or without escapes, in any encoding that JSON may have."""
    text = json.dumps(value, ensure_ascii=random.random() < 0.7, indent=random.choice((None, None, 1)))
    encoding = random.choice(("utf-8",) * 8 + ("utf-8-sig", "utf-16", "utf-32"))
    return text.encode(encoding, "surrogatepass")


def mutate_json(random: Random, content: bytes) -> bytes:
    """A JSON file with another tree, and now and then with another text."""
    changed = json_bytes(random, mutate_tree(random, json.loads(content)))
    kind = random.randrange(12)
    if kind == 0:
        return mutate_bytes(random, changed)
    if kind == 1:
        place = random.randrange(len(changed) + 1)
        odd = (
            b"[" * 100_000,
            b'{"a":' * 50_000,
            DIGITS.encode(),
            b"NaN",
            b"1e99999",
            b'"\\ud800"',
            b"\xff",
            b",",
            b"-",
        )
        return changed[:place] + random.choice(odd) + changed[place:]
    return changed


def mutate_bytes(random: Random, content: bytes, changes: int = 0) -> bytes:
    """Bytes flipped, cut off, cut out, put in, doubled, zeroed, or overwritten by numbers at the limits of types."""
    data = bytearray(content)
    for _ in range(changes or random.choice((1, 1, 2, 3, 8, 30))):
        if not data:
            return bytes(random.randbytes(random.randrange(64)))
        place = random.randrange(len(data))
        end = min(len(data), place + random.choice((1, 2, 4, 8, 64, 1024)))
        kind = random.randrange(8)
        if kind < 2:
            data[place] ^= 1 << random.randrange(8)
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place:end]
        elif kind == 4:
            data[place:place] = random.randbytes(random.choice((1, 4, 100)))
        elif kind == 5:
            data[place:place] = data[place:end]
        elif kind == 6:
            data[place:end] = bytes([random.choice((0, 255))]) * (end - place)
        else:
            size = random.choice((2, 4, 8))
            number = random.choice((0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1))
            data[place : place + size] = number.to_bytes(size, random.choice(("little", "big")))
    return bytes(data)


def mutate_program(random: Random, content: bytes) -> bytes:
    """Lines changed, but for those that run a command: a program, as a config file is one, may."""
    return mutate_lines(random, content).replace(CODE.encode(), b"")


def mutate_lines(random: Random, content: bytes) -> bytes:
    """Lines of text deleted, doubled, swapped, cut, joined by odd ones, or changed as bytes."""
    kind = random.randrange(7)
    if kind == 0:
        return mutate_bytes(random, content)
    lines = content.splitlines(keepends=True)
    for _ in range(random.choice((1, 1, 2, 5))):
        place = random.randrange(len(lines) + 1)
        odd = random.choice((*TEXTS, DIGITS, '"', "a" * 200_000, ",,,,", "\t\t", "\u2028", "Idx,Name", "²,x"))
        line = odd.encode("utf-8", "surrogatepass")
        if kind == 1 and lines:
            del lines[place % len(lines)]
        elif kind == 2 and lines:
            lines.insert(place, lines[place % len(lines)])
        elif kind == 3:
            random.shuffle(lines)
        elif kind == 4 and lines:  # one cell
            cells = lines[place % len(lines)].split(b",")
            cells[random.randrange(len(cells))] = line
            lines[place % len(lines)] = b",".join(cells)
        elif kind == 5:
            lines[place:place] = [line + b"\n"] * random.choice((1, 1, 3, 2000 if len(line) < 100 else 1))
        else:
            lines.insert(place, line + random.choice((b"\n", b"\r\n", b"\r", b"")))
    return b"".join(lines)
