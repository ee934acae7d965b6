"""Classifiers on videos: how clips and crops of a video become probabilities, and how every second of it does.

Shapes: B videos, T frames of a clip, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swin_dense.inference.classification import ImageClassifier
from swin_dense.records import Batch, Classification
from swin_dense.videos.clips import ClipSampling, Views
from swin_dense.videos.reader import VideoFile


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
