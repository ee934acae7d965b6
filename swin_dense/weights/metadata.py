"""The texts that a weights file may carry beside its tensors."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open


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
