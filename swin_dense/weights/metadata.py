"""What a weights file may say about itself beside its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from swin_dense.errors import WeightsError
from swin_dense.weights.files import read_checkpoint

SPELLINGS = {"bed ": "bed", "television receiver": "television"}
"""Names in mmseg's list of ADE20K's classes, and what ADE20K's own list calls them first."""


def read_metadata(path: Path) -> dict[str, str]:
    """Reads what `save_weights` was given as metadata.

    Args:
        path: A weights file of any format.

    Returns:
        The texts by name; nothing for formats other than safetensors, and for files that `load_weights` will refuse.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def read_class_names(path: Path) -> tuple[str, ...] | None:
    """Reads which classes the weights in a file were trained on.

    Args:
        path: A weights file of any format. Ours hold the names as metadata, those of mmdet and mmseg under "meta".

    Returns:
        Names of the classes 0..K-1; None where the file does not tell.

    Raises:
        WeightsError: The file cannot be read safely, or what it says is no list of names.
    """
    content = read_checkpoint(path)
    names: Any = None
    if "class_names" in (metadata := read_metadata(path)):
        names = _parsed(metadata["class_names"])
    elif isinstance(content, Mapping) and isinstance(meta := content.get("meta"), Mapping):
        described = meta.get("dataset_meta", meta)
        described = described if isinstance(described, Mapping) else {}
        names = described.get("classes", described.get("CLASSES"))
    if names is None:
        return None
    _check_names(path, names)
    return tuple(names)


def same_classes(theirs: Sequence[str], ours: Sequence[str]) -> bool:
    """Whether two lists name the same classes in the same order.

    Args:
        theirs: Of weights, as `read_class_names` gives them.
        ours: Of data.

    Returns:
        True also where nothing but the known `SPELLINGS` differ.
    """
    return len(theirs) == len(ours) and all(
        their == our or SPELLINGS.get(their) == our for their, our in zip(theirs, ours, strict=True)
    )


def read_labels(path: Path) -> dict[str, Any]:
    """Reads what the numbers mean that a model predicts, as a training writes it beside the weights.

    Args:
        path: A weights file of any format.

    Returns:
        Those that the file holds of "class_names" (K names), "category_ids" (K integers) and "palette" (K colours of
        three integers 0..255).

    Raises:
        WeightsError: One of them is something else.
    """
    metadata = read_metadata(path)
    known = ("class_names", "category_ids", "palette")
    labels: dict[str, Any] = {name: _parsed(metadata[name]) for name in known if name in metadata}
    if "class_names" in labels:
        _check_names(path, labels["class_names"])
        ids, palette, count = labels.get("category_ids"), labels.get("palette"), len(labels["class_names"])
        if ids is not None and not (_is_list(ids, count) and all(type(one) is int for one in ids)):
            raise WeightsError(f"{path}: what it holds as category ids is no list of {count} integers: {ids!r:.100}")
        if palette is not None and not (_is_list(palette, count) and all(_is_colour(one) for one in palette)):
            raise WeightsError(f"{path}: what it holds as palette is no list of {count} colours: {palette!r:.100}")
    return labels


def _check_names(path: Path, names: Any) -> None:
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise WeightsError(f"{path}: what it holds as names of its classes is no list of names: {names!r:.100}")


def _is_list(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count


def _is_colour(value: Any) -> bool:
    return _is_list(value, 3) and all(type(one) is int and 0 <= one <= 255 for one in value)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
