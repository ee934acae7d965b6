"""What is asked of single tensors, and how they are written in messages."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    return not tensor.is_floating_point() or bool(tensor.float().isfinite().all())


def dtype_name(tensor: Tensor) -> str:
    """Such as "float32"."""
    return str(tensor.dtype).removeprefix("torch.")


def listed(names: Sequence[str], shown: int = 4) -> str:
    """The first names, and how many more there are."""
    return "; ".join(names[:shown]) + (f"; and {len(names) - shown} more" if len(names) > shown else "")
