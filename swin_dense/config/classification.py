"""Settings of image classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from swin_dense.config.common import TaskConfig
from swin_dense.errors import ConfigError, check_lowest, check_positive


@dataclass(frozen=True)
class LabelledImagesConfig:
    """Where one split lies, relative to `ClassificationDataConfig.root`.

    Attributes:
        images: Folder with a folder or an uncompressed tar file for each class; or a zip file.
        labels: Text file of lines "path label" below `images`, whose labels are numbers or names of classes; None takes
            the class of each image from the folder that it lies in.
    """

    images: str
    labels: str | None = None


@dataclass(frozen=True)
class ClassificationDataConfig:
    """What is read, and how much of it at a time.

    Attributes:
        root: Folder of the data set, relative to the working directory.
        train: The split that is learnt from.
        val: The split that is scored.
        batch_size: Training images per device.
        classes: Text file of one class per line in the order of labels, a name, or a folder and a name; relative to
            `root`. None takes the sorted folders of the training images.
        eval_batch_size: Validation images per device.
        num_workers: Loading processes per device; 0 loads in the main process.
        limit_images: Use only the first images of both splits, those of the first classes, for trials; None uses all.
        class_map: Text file of one number per line, relative to `root`: for each class of the data its place, from 0,
            among the classes of the weights that a training starts from, whose head is then used again.
    """

    root: str
    train: LabelledImagesConfig
    val: LabelledImagesConfig
    batch_size: int
    classes: str | None = None
    eval_batch_size: int = 64
    num_workers: int = 4
    limit_images: int | None = None
    class_map: str | None = None

    def __post_init__(self) -> None:
        """Checks the numbers."""
        check_lowest("data", self, batch_size=1, eval_batch_size=1, num_workers=0, limit_images=1)


@dataclass(frozen=True)
class ClassificationAugmentationConfig:
    """The official policy: a random part of the image, mirrored or not, RandAugment, random erasing, Mixup and CutMix.

    Attributes:
        size: Side of the square that the model sees, in training and in evaluation.
        test_resize: In evaluation, the shorter side before the middle is cut out; None resizes the whole image.
        scale: Least and greatest part of the image's area that is seen in training.
        ratio: Least and greatest width per height of that part.
        flip_probability: How often an image is mirrored.
        rand_augment: RandAugment in timm's notation; None does without.
        erase_probability: How often a rectangle of an image is replaced by noise.
        mixup: Alpha of Mixup; 0 does without.
        cutmix: Alpha of CutMix; 0 does without.
        mix_probability: How often a batch is mixed.
        switch_probability: How often CutMix is taken where both are there.
        label_smoothing: Part of the target that all classes share.
        extra: More transforms of training images, applied last: settings of torchvision's v2 transforms or of a class
            of your own, such as dict(type="ColorJitter", brightness=0.2).
    """

    size: int
    test_resize: int | None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip_probability: float = 0.5
    rand_augment: str | None = None
    erase_probability: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    switch_probability: float = 0.5
    label_smoothing: float = 0.0
    extra: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Checks the numbers that no transform checks."""
        check_lowest("augmentation", self, size=1, label_smoothing=0)
        if self.label_smoothing >= 1:
            raise ConfigError(f"augmentation.label_smoothing must be below 1, got {self.label_smoothing}")


@dataclass(frozen=True)
class ClassificationInferenceConfig:
    """How an image is classified.

    Attributes:
        flip: Test-time augmentation: whether each image is also seen mirrored.
        top: How many of the surest classes are written for each image.
    """

    flip: bool = False
    top: int = 5

    def __post_init__(self) -> None:
        """Checks the number."""
        check_lowest("inference", self, top=1)


@dataclass(frozen=True)
class CosineScheduleConfig:
    """Linear warm-up, then half a cosine.

    Attributes:
        epochs: Length of the training.
        warmup_epochs: Length of the warm-up; may be a part of an epoch.
        warmup_ratio: First learning rate of the warm-up, as a part of the full one.
        min_ratio: Last learning rate, likewise.
    """

    epochs: int
    warmup_epochs: float = 20.0
    warmup_ratio: float = 1e-3
    min_ratio: float = 1e-2

    unit: ClassVar[str] = "epochs"

    @property
    def length(self) -> int:
        """Length of the training in `unit`."""
        return self.epochs

    def __post_init__(self) -> None:
        """Checks the numbers."""
        check_positive("schedule", self, "epochs")
        check_lowest("schedule", self, warmup_epochs=0, warmup_ratio=0, min_ratio=0)


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig(TaskConfig):
    """A whole classification config; the rest is that of `TaskConfig`.

    Attributes:
        model: dict(type="ImageClassifier", backbone=dict(type="SwinDense", variant=...), head=dict(num_classes=...));
            `backbone` takes every option of `create_classifier`.
        data: What is read.
        augmentation: What is done to images.
        schedule: Of the learning rate.
        score_metric: What `best.ckpt` is chosen by: "top1" or "top5".
        inference: How an image is classified.
        task: "classification".
    """

    data: ClassificationDataConfig
    augmentation: ClassificationAugmentationConfig
    schedule: CosineScheduleConfig
    score_metric: str = "top1"
    inference: ClassificationInferenceConfig = ClassificationInferenceConfig()
    task: str = "classification"
