"""Settings of video classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from swin_dense.config.classification import CosineScheduleConfig
from swin_dense.config.common import OptimizerConfig, TaskConfig
from swin_dense.errors import ConfigError, check_lowest, check_positive


@dataclass(frozen=True)
class LabelledVideosConfig:
    """Where one split lies, relative to `VideoDataConfig.root`.

    Attributes:
        videos: Folder with a folder for each class, or any folder with a list.
        labels: List of the videos with their labels: lines "path label", Kinetics' csv, or Something-Something's json;
            None takes the class of each video from the folder that it lies in.
    """

    videos: str
    labels: str | None = None


@dataclass(frozen=True)
class VideoDataConfig:
    """What is read, and how much of it at a time.

    Attributes:
        root: Folder of the data set, relative to the working directory.
        train: The split that is learnt from.
        val: The split that is scored.
        batch_size: Training videos per device, one clip of each.
        frames: Frames of a clip.
        stride: From one of them to the next, counted in frames of the video; unused with `segments`.
        segments: Take one frame of each of so many equal segments of the video, as for Something-Something V2.
        classes: Text file of one class per line in the order of labels, or Something-Something's labels.json; relative
            to `root`. None takes the sorted classes of the training videos.
        eval_batch_size: Validation videos per device; the model sees `inference.view_batch_size` views at a time.
        num_workers: Loading processes per device; 0 loads in the main process.
        limit_videos: Use only the first videos of both splits, for trials; None uses all.
        skip_broken: Leave out training videos that are missing or cannot be decoded, and log them; otherwise they are
            errors.
    """

    root: str
    train: LabelledVideosConfig
    val: LabelledVideosConfig
    batch_size: int
    frames: int = 32
    stride: int = 2
    segments: bool = False
    classes: str | None = None
    eval_batch_size: int = 1
    num_workers: int = 4
    limit_videos: int | None = None
    skip_broken: bool = False

    def __post_init__(self) -> None:
        """Checks the numbers."""
        check_lowest("data", self, batch_size=1, frames=1, stride=1, eval_batch_size=1, num_workers=0, limit_videos=1)


@dataclass(frozen=True)
class VideoAugmentationConfig:
    """The official policy: a random part of the frames, mirrored or not, RandAugment and random erasing.

    Attributes:
        size: Side of the square that the model sees, in training and in evaluation.
        short_side: Shorter side to which training videos are resized before a part is cut out.
        scale: Least and greatest part of a frame's area that is seen in training.
        ratio: Least and greatest width per height of that part.
        flip_probability: How often a clip is mirrored; 0 where classes tell left from right.
        rand_augment: Number of operations and their magnitude, 0 to 30; None does without.
        erase_probability: How often a rectangle, the same of all frames, is painted over.
        label_smoothing: Part of the target that all classes share.
        extra: More transforms of training clips, applied last: settings of torchvision's v2 transforms or of a class
            of your own, such as dict(type="ColorJitter", brightness=0.2).
    """

    size: int = 224
    short_side: int = 256
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip_probability: float = 0.5
    rand_augment: tuple[int, int] | None = None
    erase_probability: float = 0.0
    label_smoothing: float = 0.0
    extra: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Checks the numbers that no transform checks."""
        check_lowest("augmentation", self, size=1, short_side=1, label_smoothing=0)
        if self.label_smoothing >= 1:
            raise ConfigError(f"augmentation.label_smoothing must be below 1, got {self.label_smoothing}")


@dataclass(frozen=True)
class VideoViewsConfig:
    """Which parts of a video are looked at: `clips` x `crops` views, whose probabilities are averaged.

    Attributes:
        clips: Clips, spread evenly over the video.
        crops: Squares cut out of each, evenly from one end of the longer side to the other; 1 is the middle.
        short_side: Shorter side to which the video is resized before; None takes `augmentation.size`.
    """

    clips: int = 1
    crops: int = 1
    short_side: int | None = None

    def __post_init__(self) -> None:
        """Checks the numbers."""
        check_lowest("views", self, clips=1, crops=1, short_side=1)


@dataclass(frozen=True)
class VideoInferenceConfig(VideoViewsConfig):
    """How a video is classified, in `evaluate` and `predict`; the rest is that of `VideoViewsConfig`.

    Attributes:
        view_batch_size: Views that the model sees at a time; changes no result.
        timeline: Whether `predict` also classifies every second of a video file, by the clip around its middle.
        top: How many of the surest classes are written for each video.
    """

    clips: int = 4
    crops: int = 3
    view_batch_size: int = 4
    timeline: bool = True
    top: int = 5

    def __post_init__(self) -> None:
        """Checks the numbers."""
        check_lowest("inference", self, clips=1, crops=1, short_side=1, view_batch_size=1, top=1)


@dataclass(frozen=True)
class VideoOptimizerConfig(OptimizerConfig):
    """AdamW, with a learning rate of its own for the backbone; the rest is that of `OptimizerConfig`.

    Attributes:
        learning_rate: The head's, for the total batch of the recipe; not scaled by the number of devices.
        backbone_factor: Factor on the learning rate of the backbone.
    """

    backbone_factor: float = 0.1

    def __post_init__(self) -> None:
        """Checks the numbers."""
        super().__post_init__()
        check_positive("optimizer", self, "backbone_factor")


@dataclass(frozen=True, kw_only=True)
class VideoConfig(TaskConfig):
    """A whole config of video classification; the rest is that of `TaskConfig`.

    Attributes:
        model: dict(type="VideoClassifier", backbone=dict(type="SwinDense", variant=...), head=dict(num_classes=...,
            dropout=...)); `backbone` takes every option of `create_classifier`.
        data: What is read.
        augmentation: What is done to clips.
        optimizer: AdamW.
        schedule: Of the learning rate.
        score_metric: What `best.ckpt` is chosen by: "top1" or "top5".
        validation: What is looked at of a video while the training runs.
        inference: How a video is classified in `evaluate` and `predict`.
        task: "video".
    """

    data: VideoDataConfig
    augmentation: VideoAugmentationConfig
    optimizer: VideoOptimizerConfig
    schedule: CosineScheduleConfig
    score_metric: str = "top1"
    validation: VideoViewsConfig = VideoViewsConfig()
    inference: VideoInferenceConfig = VideoInferenceConfig()
    task: str = "video"
