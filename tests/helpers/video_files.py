"""Small video files of any codec and container, written by PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest


def write_frames(
    path: Path,
    codec: str = "libx264",
    *,
    count: int = 40,
    size: tuple[int, int] = (48, 64),
    times: Sequence[float] | None = None,
    turned: int = 0,
    seed: int = 0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Writes `count` frames of coarse noise, at 25 a second or at `times` in seconds."""
    rng = np.random.default_rng(seed)
    height, width = size
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        unit = Fraction(1, 25) if times is None else Fraction(1, 1000)
        stream.codec_context.time_base = unit
        if turned:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("PyAV 17, the newest for Python 3.10, cannot write a turned video")
            stream.set_display_rotation(turned)
        for place in range(count):
            coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(coarse.repeat(8, 0).repeat(8, 1), format="rgb24")
            frame.pts, frame.time_base = place if times is None else round(times[place] * 1000), unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def all_frames(path: Path) -> list[np.ndarray[Any, Any]]:
    """Every frame that decoding the file from its beginning to its end gives, (H, W, 3), as it is stored."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
