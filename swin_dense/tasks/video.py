"""Video classification: all that is said of the task beside what it shares with that of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from swin_dense.backbones import SwinClassifier
from swin_dense.config.video import VideoConfig, VideoViewsConfig
from swin_dense.errors import ConfigError
from swin_dense.images.finder import VIDEOS
from swin_dense.inference.classification import VideoClassifier, VideoInference
from swin_dense.records import Classification
from swin_dense.tasks.base import Demo, Inputs, Labels, below
from swin_dense.tasks.classification import ClassificationResult, ClassificationTask, build_classifier
from swin_dense.videos.clips import ClipSampling, Views

if TYPE_CHECKING:
    from swin_dense.data.transforms import Transform
    from swin_dense.data.video import VideoDataModule
    from swin_dense.images.labelled import ClassList
    from swin_dense.training import VideoClassifierModule

MODEL = "VideoClassifier"
"""Type of a model dict."""


@dataclass(frozen=True, repr=False)
class VideoResult(ClassificationResult):
    """How sure each class is in one video.

    Attributes:
        image: (T, 3, H, W) uint8 RGB, the frames that were looked at.
        probabilities: (K,) float32 in 0..1, adding up to 1.
        class_names: By label.
        seconds: (S, K), the same for every second of the file; None where that was not asked for.

    Example:
        >>> import torch
        >>> frames, seconds = torch.zeros(8, 3, 16, 16).byte(), torch.tensor([[0.9, 0.1], [0.2, 0.8]])
        >>> found = VideoResult(frames, torch.tensor([0.55, 0.45]), ("run", "jump"), seconds)
        >>> found, found.timeline(1)
        (VideoResult(run 55%, jump 45%), [[('run', 0.9)], [('jump', 0.8)]])
    """

    seconds: Tensor | None = None

    def timeline(self, count: int = 5) -> list[list[tuple[str, float]]]:
        """Names and probabilities of the surest classes of each second, surest first; empty without seconds."""
        rows = () if self.seconds is None else self.seconds
        return [
            [(name, round(share, 4)) for name, share in replace(self, probabilities=row, seconds=None).top(count)]
            for row in rows
        ]


class VideoTask(ClassificationTask):
    """Video classification."""

    demo = Demo(
        "swin3d-nano_moving-shapes", ".", "top-1 accuracy", "swin3d-t_32x2_k400", "KINETICS_FOLDER", moving=True
    )
    items = "videos"
    predicts = "the classes of {rows} videos in {output}/predictions.csv, pictures and timelines beside it"

    def data_module(self, config: Any) -> VideoDataModule:  # type: ignore[override]  # another data module
        from swin_dense.data.video import VideoDataModule

        data, root = config.data, Path(config.data.root)
        return VideoDataModule(
            train_videos=root / data.train.videos,
            train_labels=below(root, data.train.labels),
            val_videos=root / data.val.videos,
            val_labels=below(root, data.val.labels),
            classes=below(root, data.classes),
            sampling=sampling(config),
            views=views(config, config.validation),
            short_side=config.augmentation.short_side,
            train_transform=train_transform(config),
            skip_broken=data.skip_broken,
            batch_size=data.batch_size,
            eval_batch_size=data.eval_batch_size,
            num_workers=data.num_workers,
            seed=config.training.seed,
            limit_images=data.limit_videos,
        )

    def _class_list(self, config: Any) -> ClassList:
        from swin_dense.videos.labelled import find_video_classes

        return find_video_classes((), Path(config.data.root) / config.data.classes)

    def for_evaluation(self, config: Any) -> Any:
        return replace(config, validation=config.inference)

    def build_model(self, model: Mapping[str, Any], num_classes: int) -> VideoClassifier:
        return VideoClassifier(self.build_network(model, num_classes))

    def build_network(self, model: Mapping[str, Any], num_classes: int) -> SwinClassifier:
        network = build_classifier(model, num_classes, MODEL)
        if len(network.window) != 3:
            raise ConfigError(
                "model.backbone: a classifier of videos has windows of (frames, rows, columns); name a variant such as "
                "swin3d_tiny, or set window_size and patch_size"
            )
        return network

    def initial_weights(self, config: Any, weights: Path) -> Path:
        return weights

    def lightning_module(self, config: Any, model: Any, **settings: Any) -> VideoClassifierModule:
        from swin_dense.training import VideoClassifierModule

        inference = self._inference(config, config.validation)
        smoothing = config.augmentation.label_smoothing
        return VideoClassifierModule(model, None, inference, label_smoothing=smoothing, **settings)

    def inference(self, config: Any, batch_size: int, **options: Any) -> VideoInference:  # type: ignore[override]  # another record
        return replace(self._inference(config, config.inference), timeline=config.inference.timeline)

    def _inference(self, config: VideoConfig, wanted: VideoViewsConfig) -> VideoInference:
        return VideoInference(sampling(config), views(config, wanted), config.inference.view_batch_size)

    def inputs(self, config: Any) -> Inputs:
        from swin_dense.videos.finder import VideoFiles, each_video, is_single_video, read_video

        clips, short_side = config.inference.clips, views(config, config.inference).short_side
        options = {"sampling": sampling(config), "clips": clips, "short_side": short_side}
        return Inputs(
            is_single_video,
            each_video,
            lambda video: read_video(video, **options),
            lambda paths, output: VideoFiles(paths, output, **options),
            VIDEOS,
        )

    def test_size(self, config: Any) -> dict[str, int]:
        return {"short_side": views(config, config.inference).short_side, "max_long_side": 2**15}

    def clip(self, config: Any) -> dict[str, int]:
        data = config.data
        return {"frames": data.frames, "stride": data.stride, "segments": data.segments}

    def result(self, image: Any, found: Classification, labels: Labels, threshold: float | None) -> VideoResult:
        if threshold is not None:
            raise ConfigError("threshold: every class of a video has a probability; take as many as you want with top")
        seconds = None if found.seconds is None else found.seconds.cpu()
        return VideoResult(image, found.probabilities.cpu(), labels.class_names, seconds)

    def write(  # type: ignore[override]  # of another result
        self, result: VideoResult, output: Path, stem: str, config: Any
    ) -> list[dict[str, Any]]:
        from swin_dense.visualize.classification import draw_timeline

        (row,) = super().write(result, output, stem, config)
        if result.seconds is not None:
            draw_timeline(result.seconds.numpy(), result.class_names, output / f"{stem}_timeline.png")
            row["seconds"] = [
                {"second": second, "classes": [name for name, _ in best], "probabilities": [share for _, share in best]}
                for second, best in enumerate(result.timeline(config.inference.top))
            ]
        return [row]

    def check_data(self, config: Any, progress: Any) -> dict[str, Any]:
        from swin_dense.videos.check import check_videos

        data, root = config.data, Path(config.data.root)
        places = {
            name: (root / split.videos, below(root, split.labels))
            for name, split in (("train", data.train), ("val", data.val))
        }
        classes = below(root, data.classes)
        reports: dict[str, Any] = check_videos(places, classes, sampling=sampling(config), progress=progress)
        return reports

    def inspected_reader(self, config: Any) -> Callable[[Path], Tensor]:
        from swin_dense.videos.finder import read_video

        single = Views(1, 1, config.augmentation.size, views(config, config.inference).short_side)
        clips = sampling(config)
        return lambda path: next(
            single.of(read_video(path, sampling=clips, clips=1, short_side=single.short_side).image)
        )

    def whole_size(self, config: Any) -> tuple[int, ...]:
        return config.data.frames, config.augmentation.size, config.augmentation.size

    def count_forward(self, network: Any, height: int, width: int, config: Any) -> None:
        network(torch.zeros(1, 3, config.data.frames, height, width, device=next(network.parameters()).device))


TASK = VideoTask()


def sampling(config: VideoConfig) -> ClipSampling:
    """Which frames make a clip."""
    return ClipSampling(config.data.frames, config.data.stride, config.data.segments)


def views(config: VideoConfig, wanted: VideoViewsConfig) -> Views:
    """Which views of a video are looked at."""
    size = config.augmentation.size
    return Views(wanted.clips, wanted.crops, size, wanted.short_side or size)


def train_transform(config: VideoConfig) -> Transform:
    """The random transform of training clips."""
    from swin_dense.data.classification_transforms import random_clip_view
    from swin_dense.data.user_transforms import with_user_transforms

    augmentation = config.augmentation
    part = random_clip_view(
        augmentation.size,
        augmentation.scale,
        augmentation.ratio,
        augmentation.flip_probability,
        augmentation.rand_augment,
        augmentation.erase_probability,
    )
    return with_user_transforms([part], augmentation.extra)
