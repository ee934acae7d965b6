"""What every use of trained weights starts with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from swin_dense import tasks
from swin_dense.config import Config, DetectionConfig
from swin_dense.errors import DataError, WeightsError
from swin_dense.weights import load_weights
from swin_dense.weights.files import missing_file, read_class_names, read_labels, same_classes


def load_whole_model(network: nn.Module, weights: Path, class_names: Sequence[str]) -> None:
    """Loads weights that must cover every parameter: nobody wants the score of a random head.

    Args:
        network: The whole model.
        weights: Checkpoint.
        class_names: Of the data; those kept beside the weights, if any, must be the same.

    Raises:
        WeightsError: Parameters are missing, or the weights belong to other classes.
    """
    named = read_class_names(weights)
    if named is not None and not same_classes(named, class_names):
        raise WeightsError(f"{weights} was trained on {', '.join(named)}; the data has {', '.join(class_names)}")
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
        As `tasks.label_metadata`.

    Raises:
        WeightsError: The file does not exist, or is of another task.
        DataError: The data is needed and cannot be read.
    """
    if not weights.is_file():
        raise missing_file(weights)
    labels, needs_ids = read_labels(weights), isinstance(config, DetectionConfig)
    if "class_names" in labels:
        if needs_ids and "category_ids" not in labels:
            raise WeightsError(
                f"{weights} names classes without category ids, as weights of semantic segmentation do; the config "
                "is of a detector"
            )
        return labels
    data = tasks.data_module(config)
    try:
        data.setup("validate")
    except DataError as error:
        names = None if needs_ids else read_class_names(weights)
        if names is not None:
            return {"class_names": list(names)}
        raise DataError(
            f"{error}\n{weights} does not hold the {'category ids' if needs_ids else 'names'} of its classes, so they "
            "come from the data of the config: name its folder with --data"
        ) from error
    return tasks.label_metadata(data)
