"""Videos as users have them: as files, in folders and lists, or in memory; finding them, and reading their clips."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as kernels

from swin_dense.errors import DataError
from swin_dense.files import is_there
from swin_dense.images.files import list_files
from swin_dense.images.finder import LISTS, VIDEOS, ImageFiles
from swin_dense.records import Sample
from swin_dense.videos.clips import ClipSampling
from swin_dense.videos.reader import VideoFile

FORMS = "a path, a (T, 3, H, W) uint8 tensor or a (T, H, W, 3) uint8 array"


def find_videos(inputs: Sequence[Path]) -> list[Path]:
    """Lists videos in the order given, each once; nothing is opened yet.

    Args:
        inputs: Video files; folders, which are searched to the bottom, in the order of names, hidden files left out;
            text files (.txt, .lst) with the path of one video per line, relative to the folder of the text file.
    """
    if not inputs:
        raise DataError("no video is named")
    if absent := [str(path) for path in inputs if not is_there(path)]:
        raise DataError("there is no such video, folder or list", absent)
    found: dict[str, Path] = {}
    for path in inputs:
        if path.is_dir():
            files = [path / name for name in list_files(path, VIDEOS)]
        elif path.suffix.lower() in LISTS:
            lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
            files = [path.parent / os.fsdecode(line.strip()) for line in lines if line.strip()]
        else:
            files = [path]
        if not files:
            raise DataError(f"{path}: no video in it ({', '.join(VIDEOS)})")
        for file in files:
            found.setdefault(str(file), file)
    return list(found.values())


def is_single_video(videos: object) -> bool:
    """Whether this is one video, and not a folder, list or collection of videos."""
    if isinstance(videos, str | PathLike):
        path = Path(videos)
        return not path.is_dir() and path.suffix.lower() not in LISTS
    return isinstance(videos, np.ndarray | Tensor)


def each_video(videos: Any) -> Iterator[Any]:
    """The single videos of one video, a folder, or an iterable of these; nothing is opened yet."""
    if isinstance(videos, str | PathLike):
        yield from find_videos([Path(videos)])
    elif is_single_video(videos):
        yield videos
    elif isinstance(videos, Iterable):
        for one in videos:
            yield from each_video(one)
    else:
        raise DataError(f"{type(videos).__name__} is no video: pass {FORMS}, a folder, or several of these")


def read_video(video: Any, *, sampling: ClipSampling, clips: int, short_side: int) -> Sample:
    """The frames of so many clips of one video, one clip after another, (clips * T, 3, H, W) at this short side."""
    if isinstance(video, str | PathLike):
        file = VideoFile(Path(video))
        frames = file.read(sampling.centred(len(file), clips).ravel(), short_side)
        return _sample(frames, 0, str(video))
    if isinstance(video, np.ndarray) and video.ndim == 4 and video.dtype == np.uint8 and video.shape[3] == 3:
        video = torch.from_numpy(np.array(video)).permute(0, 3, 1, 2)
    if not isinstance(video, Tensor) or video.ndim != 4 or video.shape[1] != 3 or video.dtype != torch.uint8:
        shown = (
            f"{tuple(video.shape)} {video.dtype}" if isinstance(video, Tensor | np.ndarray) else type(video).__name__
        )
        raise DataError(f"{shown} is no video: pass {FORMS}, all RGB")
    if 0 in video.shape:
        raise DataError(f"a video of shape {tuple(video.shape)} has no pixels")
    wanted = torch.from_numpy(sampling.centred(len(video), clips).ravel())
    size = [short_side * side // min(video.shape[2:]) for side in video.shape[2:]]
    frames = kernels.resize(video.detach().cpu()[wanted], size, antialias=False)
    return _sample(tv_tensors.Video(frames), 0, "")


class VideoFiles(ImageFiles):
    """Found videos as samples of the clips that are looked at; ids are positions."""

    def __init__(
        self, inputs: Sequence[Path], output: Path | None, *, sampling: ClipSampling, clips: int, short_side: int
    ) -> None:
        self.paths = find_videos(inputs)
        self._stems_differ = len({path.stem for path in self.paths}) == len(self.paths)
        self._options: dict[str, Any] = {"sampling": sampling, "clips": clips, "short_side": short_side}

    def __getitem__(self, index: int) -> Sample:
        path = self.paths[index]
        return _sample(read_video(path, **self._options).image, index, str(path))


def _sample(frames: Any, index: int, name: str) -> Sample:
    return Sample(frames, index, name, (int(frames.shape[-2]), int(frames.shape[-1])))
