"""Turns a config into data, model, Lightning module and trainer: the one place that sees every room.

Each task has a file; the functions here choose it by the config.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from swin_dense.config import Config, DetectionConfig
from swin_dense.data import ADE20KDataModule, CocoDataModule
from swin_dense.openmmlab.detection import build_network as build_detector
from swin_dense.openmmlab.model_dicts import class_dependent_tensors
from swin_dense.openmmlab.segmentation import build_network as build_segmenter
from swin_dense.tasks import detection, segmentation
from swin_dense.tasks.paths import path_notes
from swin_dense.training import DetectorModule, SegmenterModule
from swin_dense.training.trainer import check_validation, evaluation_trainer, training_trainer

__all__ = [
    "check_validation",
    "class_layers",
    "data_module",
    "evaluation_trainer",
    "label_metadata",
    "picture_drawer",
    "training_module",
    "training_trainer",
]

DataModule = CocoDataModule | ADE20KDataModule
TrainingModule = DetectorModule | SegmenterModule


def data_module(config: Config) -> DataModule:
    """The data of a config.

    Args:
        config: Its `data`, `augmentation` and seed.

    Returns:
        The data module, nothing read yet.
    """
    data: DataModule
    data = detection.data_module(config) if isinstance(config, DetectionConfig) else segmentation.data_module(config)
    data.path_notes = path_notes(config)
    return data


def training_module(config: Config, data: DataModule, engine: str = "faster-coco-eval") -> TrainingModule:
    """The model of a config with freshly initialised weights, its metric, optimizer and schedule.

    Args:
        config: All of it but the data.
        data: Of `data_module`, set up; gives the classes and the ground truth of the validation.
        engine: Of the detection metric.

    Returns:
        The Lightning module.
    """
    if isinstance(config, DetectionConfig):
        assert isinstance(data, CocoDataModule)
        return detection.training_module(config, data, engine)
    assert isinstance(data, ADE20KDataModule)
    return segmentation.training_module(config, data)


def class_layers(config: Config) -> list[str]:
    """The tensors that weights of other classes cannot fill.

    Args:
        config: Its `model`.

    Returns:
        Names in the state dict of the network, in its order.
    """
    return class_dependent_tensors(
        config.model, build_detector if isinstance(config, DetectionConfig) else build_segmenter
    )


def picture_drawer(data: DataModule) -> Callable[[int, Any, Path], None]:
    """Draws validation images with what was predicted beside what is there.

    Args:
        data: Of `data_module`, set up.

    Returns:
        A function of an image's id, what was predicted in it, and the file to write.
    """
    if isinstance(data, CocoDataModule):
        return partial(detection.draw_validation, data)
    return partial(segmentation.draw_validation, data)


def label_metadata(data: DataModule) -> dict[str, Any]:
    """What the numbers that a model predicts mean, to be kept beside its weights.

    Args:
        data: Of `data_module`, set up.

    Returns:
        "class_names", and "category_ids" or, if the data set brings colours, "palette"; ready for JSON.
    """
    names = {"class_names": list(data.class_names)}
    if isinstance(data, CocoDataModule):
        return {**names, "category_ids": list(data.category_ids)}
    return names if data.palette is None else {**names, "palette": data.palette.tolist()}
