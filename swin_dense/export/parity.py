"""How far an exported model is from the one it was made of.

Shapes: B images, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Model = Callable[[Tensor], Sequence[Tensor]]
"""Maps images (B, 3, H, W), float32 in 0..255, to maps."""


@dataclass(frozen=True)
class Deviation:
    """Of one output on one batch of images.

    Attributes:
        shape: (B, 3, H, W) of the images.
        output: Name of the output.
        absolute: Largest difference; infinite where a shape differs, or a value of one side is not finite.
        relative: That, as a part of the largest value.
    """

    shape: tuple[int, ...]
    output: str
    absolute: float
    relative: float


def deviations(
    reference: Model, exported: Model, batches: Iterable[Tensor], output_names: Sequence[str]
) -> list[Deviation]:
    """Runs two models on the same images and compares each output.

    Args:
        reference: What is right.
        exported: What is to be the same.
        batches: Images (B, 3, H, W), float32 in 0..255.
        output_names: Names of the outputs of both.

    Returns:
        One row per batch and output.
    """
    rows = []
    for images in batches:
        with torch.no_grad():
            pairs = zip(output_names, reference(images), exported(images), strict=True)
            rows += [Deviation(tuple(images.shape), name, *_distance(right, ours)) for name, right, ours in pairs]
    return rows


def _distance(right: Tensor, ours: Tensor) -> tuple[float, float]:
    if right.shape != ours.shape or not bool(right.isfinite().all() and ours.isfinite().all()):
        return float("inf"), float("inf")
    absolute = float((right.double() - ours.double()).abs().max())
    largest = float(right.abs().max())
    return absolute, absolute / largest if largest else absolute and float("inf")
