"""Videos of drawn frames: H.264 in MP4, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace
from numpy.typing import NDArray

from swin_dense.files import atomic_write
from swin_dense.videos.reader import VideoFile

QUALITY = {"preset": "veryfast", "crf": "20"}
"""Options of x264: text stays sharp, and encoding takes less time than a small detector."""


@contextmanager
def video_like(original: VideoFile, path: Path) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Lets pictures, (H, W, 3) RGB of one size, be added as the frames of a new video with the times of the original.

    Pictures of odd sides, which the usual 4:2:0 cannot hold, are written as 4:4:4.
    """
    with atomic_write(path) as unfinished, av.open(str(unfinished), "w") as container:
        rate = Fraction(original.rate).limit_denominator(1001) or 1  # says how long the last frame is shown
        stream: Any = container.add_stream("libx264", rate=rate, options=QUALITY)
        stream.codec_context.time_base = original.time_base
        stream.codec_context.colorspace = Colorspace.ITU601  # what RGB becomes; of large videos players assume another
        stamps = iter(np.rint(original.times / float(original.time_base)).astype(int).tolist())

        def add(picture: NDArray[np.uint8]) -> None:
            if not stream.codec_context.is_open:
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv444p" if stream.height % 2 or stream.width % 2 else "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = next(stamps), original.time_base
            container.mux(stream.encode(frame))

        yield add
        container.mux(stream.encode())
