"""What exports of every kind share: a network whose heads do not matter, and the names of its maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from swin_dense.backbones import FeatureSpec
from swin_dense.config import Config, DetectionConfig
from swin_dense.errors import WeightsError
from swin_dense.openmmlab import detection, segmentation
from swin_dense.weights import LoadReport, load_weights

ANY_CLASSES = 80
"""Where no head is kept, their class count does not matter."""

PROBE = 256
"""Side in pixels of the blank image that tells widths and strides of a network's maps."""


def build_headless(config: Config) -> Any:
    """Builds the network of a config, whatever the classes.

    Args:
        config: Its model.

    Returns:
        The mmdet detector or mmseg segmentor in evaluation mode, with random weights.
    """
    room = detection if isinstance(config, DetectionConfig) else segmentation
    return room.build_network(config.model, ANY_CLASSES).eval()


def load_headless(network: Any, weights: Path | str, neck: bool) -> LoadReport:
    """Loads the weights of a backbone and, perhaps, its neck.

    Args:
        network: Of `build_headless`.
        weights: Checkpoint of the whole model, for any classes, or of what is wanted.
        neck: Whether the neck is wanted.

    Returns:
        What became of every tensor.

    Raises:
        WeightsError: The file cannot be read, does not fit, or lacks the neck.
    """
    kept = {"backbone", "neck"} if neck else {"backbone"}
    report = load_weights(network, weights, ignore=sorted({name.split(".")[0] for name in network.state_dict()} - kept))
    if neck and any(note.name.startswith("neck.") for note in report.missing):
        raise WeightsError(f"{weights} holds a backbone alone: do without the neck, or take weights of the whole model")
    return report


def specs_of(letter: str, maps: Sequence[Tensor]) -> tuple[FeatureSpec, ...]:
    """Names maps by their strides, if each has its own: "stage1" and "p2" have stride 4.

    Args:
        letter: "stage" or "p".
        maps: (1, C, H, W) each, of a blank image of `PROBE` pixels.

    Returns:
        One for each map.
    """
    strides = [round(PROBE / one.shape[-1]) for one in maps]
    numbers = [stride.bit_length() - 1 - (letter == "stage") for stride in strides]
    if len(set(numbers)) < len(numbers):
        numbers = list(range(1, len(maps) + 1))
    return tuple(
        FeatureSpec(f"{letter}{number}", one.shape[1], stride)
        for number, one, stride in zip(numbers, maps, strides, strict=True)
    )
