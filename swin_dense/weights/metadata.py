"""What a weights file may say about itself beside its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from swin_dense.errors import WeightsError
from swin_dense.weights.files import read_checkpoint


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
    names: object = None
    if "class_names" in (metadata := read_metadata(path)):
        names = _parsed(metadata["class_names"])
    elif isinstance(content, Mapping) and isinstance(meta := content.get("meta"), Mapping):
        described = meta.get("dataset_meta", meta)
        described = described if isinstance(described, Mapping) else {}
        names = described.get("classes", described.get("CLASSES"))
    if names is None:
        return None
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise WeightsError(f"{path}: what it holds as names of its classes is no list of names: {names!r:.100}")
    return tuple(names)


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
