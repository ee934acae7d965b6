"""The embedded videos: a bright shape that moves over a dark ground, of which the kind of motion is the class.

    root/train/CLASS/000001.mp4, root/val/CLASS/000001.mp4           videos, in folders by class
    root/frames/train/CLASS/000001_1.jpg, ...                        single frames of the same videos, likewise
    root/moving_shapes.json                                          the parameters: the folder is complete

One frame tells nothing. In every frame of every class, place, size and rotation of the shape have the same
distribution: it moves around a torus (what leaves on one side comes in on the other), and what grows begins again with
the smallest size after the largest. Every video has its own random generator, made from (seed, split, number).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from swin_dense.data.scenes import OUTLINES, Floats, Pixels, covered, rotation
from swin_dense.data.shapes import JPEG_QUALITY, written_once
from swin_dense.errors import DataError

MOTIONS = {
    "still": (0, 0, 0),
    "horizontal": (1, 0, 0),
    "vertical": (0, 1, 0),
    "zoom": (0, 0, 1),
}
"""By class: whether place along x, place along y, and size change; which way, is drawn for each video."""

FORMAT = 3
"""Raised whenever the same parameters begin to give other files."""

MARKER = "moving_shapes.json"
FRAMES, RATE = 24, 12
"""Of a video; the rate in frames per second."""
SPEED = (0.03, 0.05)
"""Slowest and fastest in parts of the picture's side per frame."""
GROWTH = (0.04, 0.07)
"""Slowest and fastest in parts of the way from the smallest to the largest size per frame."""
RADIUS = (0.16, 0.34)
"""Smallest and largest circumradius, as a part of the picture's side."""
GROUND, SHAPE = (0.0, 0.25), (0.5, 1.0)
"""Darkest and lightest colours, in each of red, green and blue."""
NOISE = 2.0
"""Standard deviation of the noise of each pixel, in grey levels."""
SINGLE_FRAMES = (4, 19)
"""Of each video, the frames that are also written as pictures."""


def write_moving_shapes(root: Path | str, *, train: int, val: int, size: int = 64, seed: int = 0) -> Path:
    """Writes the videos to `root`, or keeps them where they are there already with the same parameters; returns `root`.

    The folder must be absent, empty, or hold earlier moving shapes, which are then replaced; it appears at once.

    Args:
        root: The folder.
        train: Number of training videos of each class.
        val: Likewise, for validation.
        size: Side of the square frames in pixels, even.
        seed: Of everything random.

    Raises:
        DataError: A number is out of range, or the folder holds something else.
    """
    if train < 1 or val < 1 or size < 32 or size % 2 or seed < 0:
        raise DataError(
            f"moving shapes need train >= 1, val >= 1, an even size >= 32 and seed >= 0, not train={train}, val={val}, "
            f"size={size}, seed={seed}"
        )
    parameters = {"format": FORMAT, "train": train, "val": val, "size": size, "seed": seed}

    def write(fresh: Path) -> None:
        for number, (split, count) in enumerate((("train", train), ("val", val))):
            for place, name in enumerate(MOTIONS):
                seeds = np.random.SeedSequence([seed, number, place]).spawn(count)
                for video, video_seed in enumerate(seeds, start=1):
                    frames = draw_motion(np.random.default_rng(video_seed), name, size)
                    _write(fresh, split, name, f"{video:06d}", frames)

    return written_once(Path(root), MARKER, parameters, write)


def draw_motion(rng: np.random.Generator, name: str, size: int) -> Pixels:
    """Draws one video of a class of `MOTIONS`, (FRAMES, size, size, 3) uint8 RGB."""
    ground, colour = (255 * rng.uniform(*light, 3) for light in (GROUND, SHAPE))
    outline = OUTLINES[list(OUTLINES)[rng.integers(len(OUTLINES))]]
    turned = rotation(rng.uniform(0, 2 * np.pi))
    direction = np.array(MOTIONS[name]) * rng.choice([-1, 1], 3)
    begin, speed = rng.random(3), np.array([rng.uniform(*SPEED)] * 2 + [rng.uniform(*GROWTH)])
    frames = []
    for time in range(FRAMES):
        across, along, growth = (begin + direction * speed * time) % 1
        radius = size * RADIUS[0] * (RADIUS[1] / RADIUS[0]) ** growth
        contours = [radius * contour @ turned + size * np.array([across, along]) for contour in outline]
        picture = ground + _opacity(contours, size)[..., None] * (colour - ground)
        picture += NOISE * rng.standard_normal(picture.shape)
        frames.append(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
    return np.stack(frames)


def _opacity(contours: Sequence[Floats], size: int) -> Floats:
    """How much of each pixel a shape covers, 0..1, (size, size); contours that lead out come in on the other side."""
    low, high = contours[0].min(axis=0), contours[0].max(axis=0)
    shifts = product(
        *([step for step in (-size, 0, size) if low[axis] + step < size and high[axis] + step > 0] for axis in (0, 1))
    )
    return covered(([contour + shift for contour in contours] for shift in shifts), size, size)


def _write(root: Path, split: str, name: str, stem: str, frames: Pixels) -> None:
    folder, pictures = root / split / name, root / "frames" / split / name
    folder.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    write_video(folder / f"{stem}.mp4", frames, RATE)
    for number, frame in enumerate(SINGLE_FRAMES, start=1):
        picture = Image.fromarray(frames[frame])
        picture.save(pictures / f"{stem}_{number}.jpg", quality=JPEG_QUALITY, subsampling=0)


def write_video(path: Path, frames: Pixels, rate: int) -> None:
    """Writes frames (T, H, W, 3) RGB of even sides as a video (MPEG-4), whatever container its suffix means."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        for place, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = place, Fraction(1, rate)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
