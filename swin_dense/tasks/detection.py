"""Detection: from a config to data, model and Lightning module."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.transforms.v2 import Compose, Identity

from swin_dense.config import AugmentationConfig, DetectionConfig, DetectionInferenceConfig
from swin_dense.data.datamodules import CocoDataModule
from swin_dense.data.transforms import (
    RandomHorizontalFlip,
    RandomShortSide,
    Transform,
    short_side_or_crop,
)
from swin_dense.errors import ConfigError
from swin_dense.inference.detection import DetectionInference
from swin_dense.inference.merging import Merging
from swin_dense.inference.views import EvaluationSize
from swin_dense.metrics import CocoMetric
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.openmmlab.model_dicts import has_masks, has_semantic_branch
from swin_dense.records import Detections
from swin_dense.training import DetectorModule
from swin_dense.visualize.detections import draw_comparison
from swin_dense.visualize.pictures import save_picture


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


def inference(
    config: DetectionInferenceConfig, augmentation: AugmentationConfig, batch_size: int
) -> DetectionInference:
    """How objects are found in images.

    Args:
        config: Test-time augmentation, slices, and what is kept.
        augmentation: Its test size.
        batch_size: Views that the detector sees at a time.

    Returns:
        The inference; it resizes images itself.

    Raises:
        ConfigError: An option is out of range, or no image can meet the test size.
    """
    short_side, max_long_side = augmentation.test_short_side, augmentation.test_max_long_side
    if not 1 <= short_side <= max_long_side:
        raise ConfigError(
            f"augmentation.test_short_side {short_side} must be positive, and not beyond "
            f"augmentation.test_max_long_side {max_long_side}"
        )

    return DetectionInference(
        EvaluationSize(short_side, max_long_side),
        scales=config.scales,
        flip=config.flip,
        slice_size=config.slice_size,
        slice_overlap=config.slice_overlap,
        whole_image=config.whole_image,
        merging=Merging(config.merge, config.merge_overlap, config.merge_threshold, config.soft_nms_sigma),
        min_score=config.min_score,
        max_detections=config.max_detections,
        batch_size=batch_size,
    )


def data_module(config: DetectionConfig) -> CocoDataModule:
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
        test_transform=Identity(),
        batch_size=data.batch_size,
        eval_batch_size=data.eval_batch_size,
        num_workers=data.num_workers,
        masks=has_masks(config.model),
        seed=config.training.seed,
        train_stuff=root / data.train_stuff if data.train_stuff and has_semantic_branch(config.model) else None,
        keep_empty=data.keep_empty,
        min_side=data.min_side,
        size_divisor=data.size_divisor,
        limit_images=data.limit_images,
    )


def training_module(config: DetectionConfig, data: CocoDataModule, engine: str = "faster-coco-eval") -> DetectorModule:
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
        data.ground_truth,
        category_ids=data.category_ids,
        class_names=data.class_names,
        image_ids=data.val_image_ids,
        iou_types=("bbox", "segm") if detector.has_masks else ("bbox",),
        engine=engine,
    )
    return DetectorModule(
        detector,
        metric,
        inference(config.inference, config.augmentation, config.data.eval_batch_size),
        **vars(config.optimizer),
        **{name: value for name, value in vars(config.schedule).items() if name != "epochs"},
        seed=config.training.seed,
    )


def draw_validation(data: CocoDataModule, image_id: int, detections: Detections, path: Path) -> None:
    """Draws ground truth beside prediction, on the image as it is on disk.

    Args:
        data: Set up.
        image_id: Of a validation image.
        detections: What was found in it.
        path: The picture to write.
    """
    assert data.val_dataset is not None
    sample = data.val_dataset[data.val_image_ids.index(image_id)]
    assert sample.instances is not None
    save_picture(path, draw_comparison(sample.image, sample.instances, detections, data.class_names))
