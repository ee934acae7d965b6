"""Settings of detection and instance segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from swin_dense.config.common import TaskConfig
from swin_dense.errors import ConfigError, check_lowest, check_positive


@dataclass(frozen=True)
class SplitConfig:
    """Where one split of a COCO-format data set lies, relative to `DataConfig.root`.

    Attributes:
        annotations: JSON file, or `archive.zip/member.json`.
        images: Image folder, or a zip file of images.
    """

    annotations: str
    images: str


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how much of it at a time.

    Attributes:
        root: Folder of the data set, relative to the working directory.
        train: The split that is learnt from.
        val: The split that is scored.
        batch_size: Training images per device.
        eval_batch_size: Validation images per device.
        num_workers: Loading processes per device; 0 loads in the main process.
        train_stuff: Folder or zip file of COCO's stuffthingmaps of the training images, relative to `root`, for models
            with a semantic branch; None for none.
        keep_empty: Whether images without annotations are trained on.
        min_side: Images whose shorter side is below this many pixels are left out of training.
        size_divisor: Padded sides are multiples of this many pixels.
        limit_images: Use only the first images of both splits, for trials; None uses all.
    """

    root: str
    train: SplitConfig
    val: SplitConfig
    batch_size: int
    eval_batch_size: int = 1
    num_workers: int = 2
    train_stuff: str | None = None
    keep_empty: bool = False
    min_side: int = 32
    size_divisor: int = 32
    limit_images: int | None = None

    def __post_init__(self) -> None:
        """Checks the numbers."""
        check_lowest("data", self, batch_size=1, eval_batch_size=1, num_workers=0, limit_images=1)
        check_lowest("data", self, min_side=0, size_divisor=1)


@dataclass(frozen=True)
class AugmentationConfig:
    """The official multi-scale policy: resize, or with equal chance resize, crop and resize again; then flip.

    Attributes:
        short_sides: Shorter sides in pixels, one of which is drawn for each image.
        max_long_side: The longer side never exceeds this many pixels.
        crop_short_sides: Shorter sides before the crop; None never crops.
        crop_range: Least and greatest side of the crop in pixels.
        flip_probability: How often an image is mirrored.
        extra: More transforms of training images, applied last: settings of torchvision's v2 transforms or of a class
            of your own, such as dict(type="ColorJitter", brightness=0.2).
        test_short_side: Shorter side for validation and prediction.
        test_max_long_side: Cap of the longer side for validation and prediction.
    """

    short_sides: tuple[int, ...]
    max_long_side: int
    test_short_side: int
    test_max_long_side: int
    crop_short_sides: tuple[int, ...] | None = None
    crop_range: tuple[int, int] = (384, 600)
    flip_probability: float = 0.5
    extra: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class DetectionInferenceConfig:
    """How objects are found in an image; by default it is seen once, and the detector has the last word.

    Attributes:
        scales: Test-time augmentation: sizes, as parts of the test size, whose detections are merged.
        flip: Test-time augmentation: whether each size is also seen mirrored.
        slice_size: Height and width of overlapping slices of a large image, each of which is seen at the test size like
            an image of its own; in pixels of the image on disk. None shows no slices.
        slice_overlap: Part of a slice, in 0..1, that its neighbours see too.
        whole_image: Whether a sliced image is seen as a whole, too.
        merge: What becomes of detections of one class that overlap, where an image is seen more than once: "nms",
            "vote", which averages them and suits test-time augmentation, "linear_soft_nms", "gaussian_soft_nms", or
            "nmm", which unites the parts of an object that slices cut.
        merge_overlap: "iou", or "ios", intersection over the smaller box, which suits slices.
        merge_threshold: Overlap above which two detections are one object.
        soft_nms_sigma: Width of "gaussian_soft_nms".
        min_score: Detections with a lower score are left out.
        max_detections: Most detections of an image, the best ones; None keeps all.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    slice_size: tuple[int, int] | None = None
    slice_overlap: float = 0.2
    whole_image: bool = True
    merge: str = "nms"
    merge_overlap: str = "iou"
    merge_threshold: float = 0.5
    soft_nms_sigma: float = 0.5
    min_score: float = 0.0
    max_detections: int | None = None


@dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up, then steps down.

    Attributes:
        epochs: Length of the training.
        milestones: Epochs after which the learning rate is multiplied by `gamma`.
        gamma: The factor.
        warmup_steps: Optimizer steps of the warm-up.
        warmup_ratio: First learning rate of the warm-up, as a part of the full one.
    """

    epochs: int
    milestones: tuple[int, ...]
    gamma: float = 0.1
    warmup_steps: int = 500
    warmup_ratio: float = 0.001

    unit: ClassVar[str] = "epochs"

    @property
    def length(self) -> int:
        """Length of the training in `unit`."""
        return self.epochs

    def __post_init__(self) -> None:
        """Checks the numbers."""
        check_lowest("schedule", self, epochs=1, warmup_steps=0, warmup_ratio=0)
        check_positive("schedule", self, "gamma")
        if any(epoch < 1 for epoch in self.milestones):
            raise ConfigError(f"schedule.milestones are epochs from 1, got {self.milestones}")


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(TaskConfig):
    """A whole detection config; the rest is that of `TaskConfig`.

    Attributes:
        model: mmdet model dict; its backbone is ours (`type="SwinDense"`) or any that mmdet knows.
        data: What is read.
        augmentation: What is done to images.
        schedule: Of the learning rate.
        inference: How objects are found in an image.
        task: "detection".
        score_metric: What `best.ckpt` is chosen by, for instance "segm_AP".
    """

    data: DataConfig
    augmentation: AugmentationConfig
    schedule: ScheduleConfig
    score_metric: str
    inference: DetectionInferenceConfig = DetectionInferenceConfig()
    task: str = "detection"

    @property
    def annotation_file(self) -> Path:
        """The COCO instances of the training images."""
        return Path(self.data.root) / self.data.train.annotations
