"""Turns a config into data, model, Lightning module and trainer: the one place that sees every room."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torchvision.transforms.v2 import Compose

from swin_dense.config import AugmentationConfig, DetectionConfig
from swin_dense.data.datamodules import CocoDataModule
from swin_dense.data.json_files import read_json
from swin_dense.data.samples import Detections
from swin_dense.data.transforms import (
    RandomHorizontalFlip,
    RandomShortSide,
    ResizeShortSide,
    Transform,
    short_side_or_crop,
)
from swin_dense.errors import ConfigError, nearest
from swin_dense.metrics import CocoMetric
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.training import DetectorModule
from swin_dense.training.callbacks import ProgressLines, ResumePoint, ValidationPictures
from swin_dense.training.loggers import MetricsTable
from swin_dense.visualize.detections import draw_comparison
from swin_dense.visualize.pictures import save_picture

QUIET: dict[str, Any] = {"enable_model_summary": False, "enable_progress_bar": sys.stderr.isatty()}
"""Lightning's own summary of thousands of modules helps nobody."""

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
"""Our names of precisions and Lightning's."""


def train_transform(augmentation: AugmentationConfig) -> Transform:
    """The random transform of training images.

    Args:
        augmentation: Its parameters.

    Returns:
        A callable from sample to sample.
    """
    resize: Transform = RandomShortSide(augmentation.short_sides, augmentation.max_long_side)
    if augmentation.crop_short_sides:
        resize = short_side_or_crop(
            augmentation.short_sides, augmentation.max_long_side, augmentation.crop_short_sides, augmentation.crop_range
        )
    transform: Transform = Compose([resize, RandomHorizontalFlip(augmentation.flip_probability)])
    return transform


def test_transform(augmentation: AugmentationConfig) -> Transform:
    """The fixed transform of validation and prediction images.

    Args:
        augmentation: Its parameters.

    Returns:
        A callable from sample to sample.
    """
    return ResizeShortSide(augmentation.test_short_side, augmentation.test_max_long_side)


def detection_data(config: DetectionConfig) -> CocoDataModule:
    """The data of a config.

    Args:
        config: Its `data`, `augmentation` and seed.

    Returns:
        The data module, nothing read yet.
    """
    data, root = config.data, Path(config.data.root)
    return CocoDataModule(
        train_annotations=root / data.train.annotations,
        train_images=root / data.train.images,
        val_annotations=root / data.val.annotations,
        val_images=root / data.val.images,
        train_transform=train_transform(config.augmentation),
        test_transform=test_transform(config.augmentation),
        batch_size=data.batch_size,
        eval_batch_size=data.eval_batch_size,
        num_workers=data.num_workers,
        seed=config.training.seed,
        keep_empty=data.keep_empty,
        min_side=data.min_side,
        size_divisor=data.size_divisor,
        limit_images=data.limit_images,
    )


def detector_module(config: DetectionConfig, data: CocoDataModule, engine: str = "faster-coco-eval") -> DetectorModule:
    """The detector of a config with freshly initialised weights, its metric, optimizer and schedule.

    Args:
        config: All of it but the data.
        data: Set up; gives the classes and the ground truth of the validation.
        engine: Of the metric.

    Returns:
        The Lightning module.
    """
    torch.manual_seed(config.training.seed)
    detector = OpenMMLabDetector(config.model, len(data.class_names))
    metric = CocoMetric(
        read_json(data.val_annotations),
        category_ids=data.category_ids,
        class_names=data.class_names,
        image_ids=data.val_image_ids,
        iou_types=("bbox", "segm") if detector.has_masks else ("bbox",),
        engine=engine,
    )
    return DetectorModule(
        detector, metric, **vars(config.optimizer), **vars(config.schedule), seed=config.training.seed
    )


def evaluation_trainer(precision: str, devices: int | str = "auto") -> Trainer:
    """A trainer that writes nothing, for validation alone.

    Args:
        precision: One of `PRECISIONS`.
        devices: As in `training_trainer`.

    Returns:
        The trainer.
    """
    return Trainer(
        **_placement(precision, devices), logger=False, enable_checkpointing=False, callbacks=_progress_bar(), **QUIET
    )


def training_trainer(
    config: DetectionConfig, data: CocoDataModule, run: Path, devices: int | str = "auto", resumed_step: int = 0
) -> Trainer:
    """The trainer of a config with everything that fills its run folder.

    Args:
        config: Its `training`, `schedule.epochs` and `score_metric`.
        data: Set up; gives images and ground truth to the pictures.
        run: The run folder.
        devices: Number of devices of this node, or "auto" for all.
        resumed_step: Step of the checkpoint that the run continues from.

    Returns:
        The trainer.
    """
    training = config.training
    # The average comes first: a checkpoint that is written after a step must hold that step's average.
    average = [] if training.ema_decay is None else [EMAWeightAveraging(decay=training.ema_decay)]
    callbacks: list[Callback] = [
        *average,
        ModelCheckpoint(
            dirpath=run,
            filename="best",
            monitor=f"val/{config.score_metric}",
            mode="max",
            enable_version_counter=False,
        ),
        ResumePoint(run / "last.ckpt", training.checkpoint_every),
        ValidationPictures(run / "pictures", training.pictures, partial(_draw_validation, data)),
        *(_progress_bar() or [ProgressLines(training.log_every)]),
    ]
    return Trainer(
        **_placement(training.precision, devices),
        max_epochs=config.schedule.epochs,
        accumulate_grad_batches=training.accumulate,
        gradient_clip_val=training.clip_gradient_norm,
        check_val_every_n_epoch=training.validate_every,
        log_every_n_steps=training.log_every,
        callbacks=callbacks,
        logger=[MetricsTable(run / "metrics.csv", resumed_step), TensorBoardLogger(run, name="", version="")],
        num_sanity_val_steps=0,
        default_root_dir=run,
        **QUIET,
    )


def _quiet_lightning() -> None:
    """Leaves out what Lightning says about its other products, and about what we do on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in ("Checkpoint directory .* exists and is not empty", ".*LeafSpec.* is deprecated", ".*num_workers"):
        warnings.filterwarnings("ignore", message=message)


def _placement(precision: str, devices: int | str) -> dict[str, Any]:
    _quiet_lightning()
    if precision not in PRECISIONS:
        raise ConfigError(f'training.precision: unknown "{precision}"; {nearest(precision, PRECISIONS)}')
    if precision == "16" and not torch.cuda.is_available():
        raise ConfigError("training.precision is 16, which needs a CUDA device: pass --set training.precision=32")
    return {
        "precision": PRECISIONS[precision],
        "devices": devices,
        # torchrun and Slurm say how many nodes take part; a single machine says nothing.
        "num_nodes": int(os.environ.get("GROUP_WORLD_SIZE") or os.environ.get("SLURM_NNODES") or 1),
        "use_distributed_sampler": False,
    }


def _progress_bar() -> list[Callback]:
    """A bar where somebody watches; it goes to stderr, so that stdout stays clean."""
    return [RichProgressBar(leave=True, console_kwargs={"stderr": True})] if sys.stderr.isatty() else []


def _draw_validation(data: CocoDataModule, image_id: int, detections: Detections, path: Path) -> None:
    """Ground truth beside prediction, on the image as it is on disk."""
    assert data.val_dataset is not None
    sample = data.val_dataset[data.val_image_ids.index(image_id)]
    assert sample.instances is not None
    save_picture(path, draw_comparison(sample.image, sample.instances, detections, data.class_names))
