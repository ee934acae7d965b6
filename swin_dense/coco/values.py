"""Small checks of values that come out of JSON files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeGuard

from swin_dense.errors import DataError


def read_json(path: Path) -> Any:
    """Reads a whole JSON file.

    Args:
        path: The file.

    Returns:
        What it holds; `NaN` and `Infinity` come through as floats, for the caller to refuse with their place.

    Raises:
        DataError: If the file is missing, unreadable or not JSON.
    """
    try:
        with path.open("rb") as file:
            return json.load(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error}); write the file anew") from error


def is_id(value: object) -> TypeGuard[int]:
    """Says whether a JSON value is an integer (JSON's true and false are not)."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Says whether a JSON value is a number that a float holds: no NaN, infinity, true or false."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_box(value: object) -> TypeGuard[list[int | float]]:
    """Says whether a JSON value is a COCO box: finite x, y, width, height with no negative width or height."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 4
        and all(is_number(number) for number in value)
        and value[2] >= 0
        and value[3] >= 0
    )
