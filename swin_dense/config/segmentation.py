"""Settings of semantic segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from swin_dense.config.common import TaskConfig
from swin_dense.errors import check_lowest, check_positive


@dataclass(frozen=True)
class LabelledSplitConfig:
    """Where one split lies, relative to `SegmentationDataConfig.root`.

    Attributes:
        images: Folder or zip file of images.
        labels: Folder or zip file of label PNGs, one for each image and named like it.
    """

    images: str
    labels: str


@dataclass(frozen=True)
class SegmentationDataConfig:
    """What is read, and how much of it at a time.

    Attributes:
        root: Folder of the data set, relative to the working directory, or its zip file.
        train: The split that is learnt from.
        val: The split that is scored.
        classes: File of class names, relative to `root`: ADE20K's objectInfo150.txt, or one name per line.
        batch_size: Training images per device.
        label_shift: Added to every value of a label file; ADE20K's 1..150 become classes 0..149 with -1.
        ignore_index: Value in label files for "no class", beside those that the shift makes negative.
        eval_batch_size: Validation images per device.
        num_workers: Loading processes per device; 0 loads in the main process.
        limit_images: Use only the first images of both splits, for trials; None uses all.
    """

    root: str
    train: LabelledSplitConfig
    val: LabelledSplitConfig
    classes: str
    batch_size: int
    label_shift: int = 0
    ignore_index: int = 255
    eval_batch_size: int = 1
    num_workers: int = 2
    limit_images: int | None = None

    def __post_init__(self) -> None:
        """Checks the numbers."""
        check_lowest("data", self, batch_size=1, eval_batch_size=1, num_workers=0, limit_images=1)


@dataclass(frozen=True)
class SegmentationAugmentationConfig:
    """The official policy: resize by a random ratio, crop, flip, distort the colours.

    Attributes:
        scale: Most pixels of the longer and of the shorter side at ratio 1; the aspect ratio is kept.
        crop_size: Height and width of the training crop; a smaller image is padded.
        test_scale: Like `scale`, for validation and prediction; None leaves images as they are.
        ratio_range: Least and greatest ratio.
        cat_max_ratio: A crop is drawn again, ten times at most, where one class takes that part or more of the pixels
            that have a class, or where there are not several classes; 1 takes the first crop.
        flip_probability: How often an image is mirrored.
        extra: More transforms of training images, applied last: settings of torchvision's v2 transforms or of a class
            of your own, such as dict(type="ColorJitter", brightness=0.2).
        photometric_distortion: Whether brightness, contrast, saturation and hue are changed at random.
    """

    scale: tuple[int, int]
    crop_size: tuple[int, int]
    test_scale: tuple[int, int] | None
    ratio_range: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    flip_probability: float = 0.5
    photometric_distortion: bool = True
    extra: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class SegmentationInferenceConfig:
    """How an image is segmented.

    Attributes:
        crop_size: Height and width of a sliding window; None sees the image whole.
        stride: Pixels from one window to the next, down and to the right.
        scales: Test-time augmentation: sizes, as parts of the test scale, whose probabilities are averaged.
        flip: Test-time augmentation: whether each size is also seen mirrored.
    """

    crop_size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False


@dataclass(frozen=True)
class PolynomialScheduleConfig:
    """Linear warm-up, then a decay to zero.

    Attributes:
        steps: Length of the training, in optimizer steps.
        power: Of the decay; 1 is a straight line.
        warmup_steps: Length of the warm-up.
        warmup_ratio: First learning rate of the warm-up, as a part of the full one.
    """

    steps: int
    power: float = 1.0
    warmup_steps: int = 1500
    warmup_ratio: float = 1e-6

    unit: ClassVar[str] = "steps"

    @property
    def length(self) -> int:
        """Length of the training in `unit`."""
        return self.steps

    def __post_init__(self) -> None:
        """Checks the numbers."""
        check_lowest("schedule", self, steps=1, warmup_steps=0, warmup_ratio=0)
        check_positive("schedule", self, "power")


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig(TaskConfig):
    """A whole segmentation config; the rest is that of `TaskConfig`.

    Attributes:
        model: mmseg model dict; its backbone is ours (`type="SwinDense"`) or any that mmseg knows.
        data: What is read.
        augmentation: What is done to images.
        schedule: Of the learning rate.
        score_metric: What `best.ckpt` is chosen by, for instance "mIoU".
        inference: How an image is segmented.
        task: "segmentation".
    """

    data: SegmentationDataConfig
    augmentation: SegmentationAugmentationConfig
    schedule: PolynomialScheduleConfig
    score_metric: str
    inference: SegmentationInferenceConfig = SegmentationInferenceConfig()
    task: str = "segmentation"
