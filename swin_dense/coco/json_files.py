"""Reads JSON files, also straight from a zip file."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swin_dense.errors import DataError
from swin_dense.images.archive import read_bytes

MAX_BYTES = 2**33
"""Largest JSON file taken from a zip file; LVIS, the largest set of instances in use, has 2**30."""


def read_json(path: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """What a JSON file holds; `NaN` and `Infinity` come through as floats, for the caller to refuse with their place.

    The path may be that of a member of a zip file, written as if the zip file were a folder:
    `annotations_trainval2017.zip/annotations/instances_val2017.json`. `object_hook` is called as in `json.loads`.
    """
    text = _read_text(Path(path))
    was_enabled = gc.isenabled()
    gc.disable()  # millions of new objects set off full collections again and again, and there are no cycles to find
    try:
        return json.loads(text, object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        hint = "; this looks like XML (Pascal VOC?), convert it to COCO" if text[:99].lstrip()[:1] == "<" else ""
        raise DataError(f"{path}: not a JSON file ({error}){hint}") from error
    finally:
        if was_enabled:
            gc.enable()


def _read_text(path: Path) -> str:
    """Text of a file or of a member of a zip file; the bytes, half a gigabyte for COCO, are gone when it returns."""
    content = read_bytes(path, MAX_BYTES)
    try:
        return content.decode(json.detect_encoding(content))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a JSON file ({error})") from error
