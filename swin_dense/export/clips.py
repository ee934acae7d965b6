"""Clips of videos as what features are computed of: cut one after another, each with the times of its frames."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from swin_dense.errors import DataError
from swin_dense.export.compute import ImageReader, LoadedImage, TargetSize
from swin_dense.files import sha256_of
from swin_dense.videos.clips import ClipSampling
from swin_dense.videos.finder import find_videos
from swin_dense.videos.reader import VideoError, VideoFile


class ClipSource(NamedTuple):
    """One clip of a video file, or a file that has none."""

    file: Path
    path: str  # with the seconds in which it begins and ends: "dog.mp4#t=2.133,4.267" (W3C Media Fragments)
    number: int  # of the clip in the video
    error: str | None = None


def find_clips(inputs: Sequence[Path], sampling: ClipSampling) -> list[ClipSource]:
    """Lists the clips of videos, one after another in each; reads the packets of every file, and decodes nothing.

    A video that cannot be opened is listed with its error.
    """
    sources = []
    for file in find_videos(inputs):
        try:
            video = VideoFile(file)
        except VideoError as error:
            sources.append(ClipSource(file, str(file), 0, str(error)))
            continue
        for number, indices in enumerate(sampling.covering(len(video)).tolist()):
            end = indices[-1] + (1 if sampling.segments else sampling.stride)
            stop = video.duration if end >= len(video) else float(video.times[end])
            begin = float(video.times[indices[0]])
            sources.append(ClipSource(file, f"{file}#t={begin:.3f},{stop:.3f}", number))
    return sources


class ClipReader(ImageReader):
    """Reads, hashes, decodes and resizes clips; may be used in worker processes."""

    def __init__(self, sources: Sequence[ClipSource], target: TargetSize, sampling: ClipSampling) -> None:
        super().__init__(sources, target)
        self.sampling = sampling

    def _read(self, number: int, source: Any) -> LoadedImage:
        if source.error is not None:
            raise DataError(source.error)
        video = VideoFile(source.file)
        indices = self.sampling.covering(len(video))[source.number]
        try:
            size = self.target.of(video.size)
        except DataError as error:
            raise DataError(f"{source.path}: {error}") from error
        pixels: Tensor = video.read(indices, size=size).as_subclass(Tensor)
        spanned = len(video) if self.sampling.segments else self.sampling.length
        seconds = torch.from_numpy(video.times[indices]).float()
        return LoadedImage(number, source.path, _digest(source.file), (spanned, *video.size), pixels, seconds=seconds)


_digest = lru_cache(maxsize=16)(sha256_of)  # the clips of a file are read one after another
