"""Classifiers on images and videos: the glue around a network of logits, and how whole images become probabilities.

Of a video those of its clips and crops do, and those of every second. Shapes: B images or videos, T frames of a clip, K
classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swin_dense.records import Batch, Classification
from swin_dense.videos.clips import ClipSampling, Views
from swin_dense.videos.reader import VideoFile

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""Of ImageNet's pixels, RGB in 0..255, with which all published classifiers were trained."""


class ImageClassifier(nn.Module):
    """A network of logits behind its normalisation."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        """Takes a network from normalised images (B, 3, H, W) to logits (B, K)."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def normalised(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) RGB in 0..255 as the network takes them, float32."""
        return (images.float() - self.mean) / self.std

    def logits(self, images: Tensor) -> Tensor:
        """The logits (B, K), float32, of RGB images (B, 3, H, W) in 0..255."""
        logits: Tensor = self.network(self.normalised(images))
        return logits.float()


@dataclass(frozen=True)
class ClassificationInference:
    """How images are classified.

    Attributes:
        view: Makes of an image (3, H, W) uint8 what the model sees, of one size for all; None shows images as they are.
        flip: Whether each image is also seen mirrored; the probabilities are averaged.
    """

    view: Callable[[Tensor], Tensor] | None = None
    flip: bool = False

    @torch.inference_mode()
    def predict(self, model: Any, batch: Batch) -> list[Classification]:
        """Classifies the images of a batch with a model that has `logits`."""
        images = batch.images
        if self.view is not None:
            sizes = zip(batch.images, batch.sizes, strict=True)
            images = torch.stack([self.view(image[:, :height, :width]) for image, (height, width) in sizes])
        probabilities = model.logits(images).softmax(dim=-1)
        if self.flip:
            probabilities = (probabilities + model.logits(images.flip(-1)).softmax(dim=-1)) / 2
        return [Classification(one) for one in probabilities]


class VideoClassifier(ImageClassifier):
    """A network of logits of clips behind its normalisation."""

    def normalised(self, images: Tensor) -> Tensor:
        """Clips (B, T, 3, H, W) RGB in 0..255 as the network takes them, (B, 3, T, H, W) float32."""
        return super().normalised(images).transpose(1, 2)


@dataclass(frozen=True)
class VideoInference:
    """How videos are classified: the probabilities of all views are averaged.

    Attributes:
        sampling: Which frames make a clip.
        views: Clips and crops of a video.
        view_batch_size: Views that the model sees at a time; changes no result.
        timeline: Whether every second of a video file is classified, too.
    """

    sampling: ClipSampling = ClipSampling()
    views: Views = Views()
    view_batch_size: int = 4
    timeline: bool = False

    @torch.inference_mode()
    def predict(self, model: Any, batch: Batch) -> list[Classification]:
        """Classifies videos, (B, clips * T, 3, H, W) at the short side of the views, with a model that has `logits`.

        The seconds of a timeline are read from the files that the batch names; videos in memory have none.
        """
        found = []
        for video, (height, width), name in zip(batch.images, batch.sizes, batch.file_names, strict=True):
            views = self.views.of(video[..., :height, :width])
            probabilities = self._probabilities(model, views).mean(0)
            seconds = self._seconds(model, Path(name), video.device) if self.timeline and name else None
            found.append(Classification(probabilities, seconds))
        return found

    def _probabilities(self, model: Any, views: Iterable[Tensor]) -> Tensor:
        """(views, K) of views (T, 3, size, size)."""
        rest = iter(views)
        groups = iter(lambda: list(islice(rest, self.view_batch_size)), [])
        return torch.cat([model.logits(torch.stack(group)).softmax(dim=-1) for group in groups])

    def _seconds(self, model: Any, path: Path, device: torch.device) -> Tensor:
        """(S, K) of the seconds of a file: the middle of the clip around the middle of each, read as it is needed."""
        return self._probabilities(model, (clip.to(device) for clip in self._clips_of_seconds(VideoFile(path))))

    def _clips_of_seconds(self, video: VideoFile) -> Iterator[Tensor]:
        single = Views(1, 1, self.views.size, self.views.short_side)
        reach = (np.arange(self.sampling.frames) - self.sampling.frames // 2) * self.sampling.stride
        for second in range(max(1, round(video.duration))):
            middle = video.index_at(second + 0.5)
            indices = np.clip(middle + reach, 0, len(video) - 1)
            yield from single.of(video.read(indices, self.views.short_side))
