"""Which frames of a video make a clip, and which parts of them a model sees.

The arithmetic is the official Video Swin's. Indices are of frames as they are shown, whatever their times (see
`reader`); a video that is shorter than a clip begins again at its first frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swin_dense.errors import ConfigError
from swin_dense.records import Size

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class ClipSampling:
    """How the frames of a clip are chosen.

    Attributes:
        frames: Frames of a clip.
        stride: From one of them to the next, counted in frames of the video; unused with `segments`.
        segments: Cut the whole video into `frames` equal segments and take a frame of each, as for Something-Something;
            otherwise a clip is consecutive frames, `stride` apart.

    Example:
        >>> from swin_dense.videos.clips import ClipSampling
        >>> ClipSampling(frames=4, stride=2).centred(20, clips=2).tolist()
        [[3, 5, 7, 9], [9, 11, 13, 15]]
        >>> ClipSampling(frames=4, segments=True).centred(20).tolist()
        [[2, 7, 12, 16]]
    """

    frames: int = 32
    stride: int = 2
    segments: bool = False

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if self.frames < 1 or self.stride < 1:
            raise ConfigError(f"a clip needs frames and stride of at least 1, not {self.frames} and {self.stride}")

    @property
    def length(self) -> int:
        """Frames of a video that it must have for a clip without repeats."""
        return self.frames if self.segments else self.frames * self.stride

    def draw(self, count: int) -> Indices:
        """Draws a clip of a video of `count` frames for training, (frames,) indices; from torch's generator."""
        if self.segments:
            bounds = self._segment_bounds(count)
            spread = bounds[1:] - bounds[:-1] + 1
            drawn: Indices = bounds[:-1] + (torch.rand(self.frames).double().numpy() * spread).astype(np.int64)
            return drawn
        start = int(torch.randint(max(count - self.length + 1, 1), ()))
        clip: Indices = (start + np.arange(self.frames) * self.stride) % count
        return clip

    def centred(self, count: int, clips: int = 1) -> Indices:
        """The clips that are seen in evaluation, spread evenly over a video of `count` frames, (clips, frames)."""
        if self.segments:
            if clips != 1:
                raise ConfigError("segments cover the whole video: there is one such clip, so clips must be 1")
            bounds = self._segment_bounds(count)
            return ((bounds[:-1] + bounds[1:]) // 2)[None]
        spread = max(count - self.length + 1, 0) / clips
        starts = (np.arange(clips) * spread + spread / 2).astype(np.int64)
        found: Indices = (starts[:, None] + np.arange(self.frames) * self.stride) % count
        return found

    def covering(self, count: int) -> Indices:
        """Clips one after another from the first frame on, (clips, frames); the last may repeat its last frame.

        With `segments` the one clip that covers the video.
        """
        if self.segments:
            return self.centred(count)
        starts = np.arange(0, count, self.length)
        clips: Indices = np.minimum(starts[:, None] + np.arange(self.frames) * self.stride, count - 1)
        return clips

    def _segment_bounds(self, count: int) -> Indices:
        """First frame of each segment, and the last frame of the video, (frames + 1,)."""
        return np.round(np.arange(self.frames + 1) * ((count - 1) / self.frames)).astype(np.int64)


@dataclass(frozen=True)
class Views:
    """Which parts of a video are looked at in evaluation: `clips` x `crops` views, whose scores are averaged.

    Attributes:
        clips: Clips, spread evenly over the video.
        crops: Squares cut out of each, evenly from one end of the longer side to the other; 1 is the middle.
        size: Side of the squares in pixels.
        short_side: Pixels of the shorter side to which the video is resized before.

    Example:
        >>> from swin_dense.videos.clips import Views
        >>> Views(clips=4, crops=3, size=224, short_side=224).boxes((224, 400))
        ((0, 0, 224, 224), (0, 88, 224, 224), (0, 176, 224, 224))
    """

    clips: int = 4
    crops: int = 3
    size: int = 224
    short_side: int = 224

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if min(self.clips, self.crops, self.size) < 1 or self.short_side < self.size:
            raise ConfigError(
                f"views need clips, crops and size of at least 1 and a short side of at least the size, not {self}"
            )

    def __len__(self) -> int:
        """Number of views."""
        return self.clips * self.crops

    def boxes(self, size: Size) -> tuple[tuple[int, int, int, int], ...]:
        """Top, left, height and width of the crops of frames of this height and width."""
        top, left = (side - self.size for side in size)
        if self.crops == 1:
            return ((top // 2, left // 2, self.size, self.size),)
        upright = size[0] > size[1]
        step = (top if upright else left) // (self.crops - 1)
        along = (place * step for place in range(self.crops))
        corners = ((start, left // 2) if upright else (top // 2, start) for start in along)
        return tuple((*corner, self.size, self.size) for corner in corners)

    def of(self, video: Tensor) -> Iterator[Tensor]:
        """The views (T, 3, size, size) of the frames of all clips in a row, (clips * T, 3, H, W), clip by clip."""
        boxes = self.boxes((int(video.shape[-2]), int(video.shape[-1])))
        for clip in video.chunk(self.clips):
            for top, left, height, width in boxes:
                yield clip[..., top : top + height, left : left + width]
