"""Semantic segmentation: from a config to data, model and Lightning module."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.transforms.v2 import Compose, Identity

from swin_dense.config import SegmentationAugmentationConfig, SegmentationConfig, SegmentationInferenceConfig
from swin_dense.data.ade20k import ADE20KDataModule
from swin_dense.data.segmentation_transforms import PhotoMetricDistortion, RandomClassCrop, RandomRatioResize
from swin_dense.data.transforms import RandomHorizontalFlip, Transform
from swin_dense.inference.segmentation import SegmentationInference
from swin_dense.inference.views import EvaluationSize
from swin_dense.metrics import MeanIoU
from swin_dense.openmmlab.segmentation import OpenMMLabSegmenter
from swin_dense.records import IGNORE_INDEX, Segmentation
from swin_dense.training import SegmenterModule
from swin_dense.visualize.pictures import save_picture
from swin_dense.visualize.segmentation import draw_segmentation_comparison


def train_transform(augmentation: SegmentationAugmentationConfig) -> Transform:
    """The random transform of training images and their label maps.

    Args:
        augmentation: Its parameters.

    Returns:
        A callable from sample to sample.
    """
    steps: list[Transform] = [
        RandomRatioResize(augmentation.scale, augmentation.ratio_range),
        RandomClassCrop(augmentation.crop_size, augmentation.cat_max_ratio),
        RandomHorizontalFlip(augmentation.flip_probability),
    ]
    if augmentation.photometric_distortion:
        steps.append(PhotoMetricDistortion())
    transform: Transform = Compose(steps)
    return transform


def inference(
    config: SegmentationInferenceConfig, test_scale: tuple[int, int] | None, probabilities: bool = False
) -> SegmentationInference:
    """How images are segmented.

    Args:
        config: Windows and test-time augmentation.
        test_scale: Most pixels of the longer and the shorter side at ratio 1; None leaves images as they are.
        probabilities: Whether every class's probability is wanted too, in half precision.

    Returns:
        The inference; it resizes images itself.
    """
    return SegmentationInference(
        EvaluationSize(*((None, None) if test_scale is None else (min(test_scale), max(test_scale)))),
        config.crop_size,
        config.stride,
        config.scales,
        config.flip,
        probabilities=torch.float16 if probabilities else None,
    )


def data_module(config: SegmentationConfig) -> ADE20KDataModule:
    """The data of a config.

    Args:
        config: Its `data`, `augmentation` and seed.

    Returns:
        The data module, nothing read yet.
    """
    data, root = config.data, Path(config.data.root)
    return ADE20KDataModule(
        train_images=root / data.train.images,
        train_labels=root / data.train.labels,
        val_images=root / data.val.images,
        val_labels=root / data.val.labels,
        classes=root / data.classes,
        label_shift=data.label_shift,
        ignore_index=data.ignore_index,
        train_transform=train_transform(config.augmentation),
        test_transform=Identity(),
        batch_size=data.batch_size,
        eval_batch_size=data.eval_batch_size,
        num_workers=data.num_workers,
        seed=config.training.seed,
        limit_images=data.limit_images,
    )


def training_module(config: SegmentationConfig, data: ADE20KDataModule) -> SegmenterModule:
    """The segmenter of a config with freshly initialised weights, its metric, optimizer and schedule.

    Args:
        config: All of it but the data.
        data: Set up; gives the classes and the images of the validation.

    Returns:
        The Lightning module.
    """
    torch.manual_seed(config.training.seed)
    return SegmenterModule(
        OpenMMLabSegmenter(config.model, len(data.class_names)),
        MeanIoU(data.class_names, data.val_image_ids, ignore_index=IGNORE_INDEX),
        inference(config.inference, config.augmentation.test_scale),
        **vars(config.optimizer),
        **{name: value for name, value in vars(config.schedule).items() if name != "steps"},
        seed=config.training.seed,
    )


def draw_validation(data: ADE20KDataModule, image_id: int, segmentation: Segmentation, path: Path) -> None:
    """Draws ground truth beside prediction.

    Args:
        data: Set up.
        image_id: Of a validation image.
        segmentation: What was predicted.
        path: The picture to write.
    """
    assert data.val_dataset is not None
    sample = data.val_dataset[image_id]
    assert sample.label_map is not None
    picture = draw_segmentation_comparison(
        sample.image,
        sample.label_map,
        segmentation.label_map,
        data.class_names,
        data.palette,
    )
    save_picture(path, picture)
