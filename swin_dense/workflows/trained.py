"""What every use of trained weights starts with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from swin_dense import build
from swin_dense.config import Config
from swin_dense.errors import WeightsError
from swin_dense.weights import load_weights
from swin_dense.weights.metadata import read_metadata


def load_whole_model(network: nn.Module, weights: Path, class_names: Sequence[str]) -> None:
    """Loads weights that must cover every parameter: nobody wants the score of a random head.

    Args:
        network: The whole model.
        weights: Checkpoint.
        class_names: Of the data; those kept beside the weights, if any, must be the same.

    Raises:
        WeightsError: Parameters are missing, or the weights belong to other classes.
    """
    named = read_metadata(weights).get("class_names")
    if named is not None and json.loads(named) != list(class_names):
        raise WeightsError(
            f"{weights} was trained on {', '.join(json.loads(named))}; the data has {', '.join(class_names)}"
        )
    report = load_weights(network, weights)
    if report.missing:
        raise WeightsError(
            f"{weights} does not hold the whole model: {len(report.missing)} parameters are missing, for instance "
            f"{next(iter(report.missing))}; train it first"
        )


def labels_of(weights: Path, config: Config) -> dict[str, Any]:
    """What the numbers mean that a model predicts, without any data where the weights say it themselves.

    Args:
        weights: Checkpoint; those that a training writes hold the answer.
        config: Names the data that says it otherwise.

    Returns:
        As `build.label_metadata`.

    Raises:
        SwinDenseError: The file does not exist, or the data cannot be read.
    """
    if not weights.is_file():
        raise WeightsError(f"there is no file {weights}")
    metadata = read_metadata(weights)
    if "class_names" in metadata:
        return {
            name: json.loads(metadata[name]) for name in ("class_names", "category_ids", "palette") if name in metadata
        }
    data = build.data_module(config)
    data.setup("validate")
    return build.label_metadata(data)
