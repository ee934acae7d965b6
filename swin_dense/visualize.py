"""Pictures of detections, for people to look at.

Pictures are (H, W, 3) uint8 RGB arrays. Small images are enlarged until labels are legible on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import matplotlib
import numpy as np
import supervision as sv
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as rle_codec
from torch import Tensor

from swin_dense.files import atomic_write

Picture = NDArray[np.uint8]

_MOST_OBJECTS = 50  # more detections than this hide the image
_LEAST_LONG_SIDE = 640  # pixels; a smaller image is enlarged, by a whole factor, to at least this
_FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
_WHITE, _BLACK = "#ffffff", "#000000"
_COLOURS = {  # of the objects of a class, and of the text on it
    "#e6194b": _WHITE, "#4363d8": _WHITE, "#2a9d3a": _WHITE, "#f58231": _BLACK, "#911eb4": _WHITE, "#42d4f4": _BLACK,
    "#f032e6": _WHITE, "#9a6324": _WHITE, "#ffe119": _BLACK, "#008080": _WHITE, "#800000": _WHITE, "#bfef45": _BLACK,
    "#000075": _WHITE, "#808000": _WHITE, "#fabed4": _BLACK, "#aaffc3": _BLACK, "#dcbeff": _BLACK, "#ffd8b1": _BLACK,
}  # fmt: skip
_PALETTE = sv.ColorPalette.from_hex(list(_COLOURS))
_TEXT_PALETTE = sv.ColorPalette.from_hex(list(_COLOURS.values()))


class DrawnTruth(Protocol):
    """The annotated objects of one image."""

    @property
    def boxes(self) -> Tensor:
        """(N, 4) XYXY in pixels."""

    @property
    def masks(self) -> Tensor:
        """(N, H, W) bool."""

    @property
    def labels(self) -> Tensor:
        """(N,) integers, contiguous 0..K-1."""

    @property
    def crowd(self) -> Tensor:
        """(N,) bool."""


class DrawnDetections(Protocol):
    """What a detector found in one image, in pixels of the image that is drawn on."""

    @property
    def boxes(self) -> Tensor:
        """(N, 4) XYXY."""

    @property
    def scores(self) -> Tensor:
        """(N,)."""

    @property
    def labels(self) -> Tensor:
        """(N,) integers, contiguous 0..K-1."""

    @property
    def masks(self) -> Sequence[Mapping[str, Any]] | None:
        """N compressed RLE masks of the image's size; None for a box-only detector."""


@dataclass(frozen=True)
class _Overlay:
    """Objects to draw: (N, 4) XYXY boxes and (N, H, W) masks in pixels of the canvas, a class and a text for each."""

    boxes: NDArray[np.float64]
    masks: NDArray[np.bool_] | None
    labels: NDArray[np.int64]
    texts: list[str]


def draw_detections(
    image: Tensor | Picture,
    detections: DrawnDetections,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.3,
) -> Picture:
    """Draws boxes, masks, classes and scores onto an image.

    Args:
        image: (3, H, W) uint8 RGB.
        detections: What a detector found, of which the best are drawn.
        class_names: Name of every label.
        score_threshold: Detections below it are left out.

    Returns:
        (H', W', 3) picture, enlarged by a whole factor where the image is small.
    """
    canvas = _canvas(image)
    scale = _scale(canvas, image.shape[-2:])
    return _draw(canvas, _overlay_of(detections, class_names, score_threshold, canvas, scale))


def draw_comparison(
    image: Tensor | Picture,
    truth: DrawnTruth,
    detections: DrawnDetections,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.3,
) -> Picture:
    """Draws the annotated objects on the left and the detections on the right of one picture.

    Args:
        image: (3, H, W) uint8 RGB.
        truth: The annotated objects, in pixels of `image`.
        detections: What a detector found, of which the best are drawn.
        class_names: Name of every label.
        score_threshold: Detections below it are left out.

    Returns:
        (H', W', 3) picture with a caption over each side.
    """
    canvas = _canvas(image)
    scale = _scale(canvas, image.shape[-2:])
    wanted = _overlay_of_truth(truth, class_names, canvas, scale)
    found = _overlay_of(detections, class_names, score_threshold, canvas, scale)
    left = _captioned(_draw(canvas, wanted), f"ground truth: {len(wanted.texts)}")
    right = _captioned(_draw(canvas, found), f"predicted: {len(found.texts)} with score \u2265 {score_threshold:g}")
    gap = np.full((left.shape[0], 6, 3), 255, dtype=np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def save_picture(path: Path, picture: Picture) -> None:
    """Writes a picture whole or not at all, creating its folder.

    Args:
        path: Where to; the suffix names the format, such as .png or .jpg.
        picture: (H, W, 3) uint8 RGB.
    """
    with atomic_write(path) as unfinished:
        Image.fromarray(picture).save(unfinished, quality=92)


def _canvas(image: Tensor | Picture) -> Picture:
    array = image.cpu().numpy() if isinstance(image, Tensor) else image
    if array.ndim != 3 or array.shape[0] != 3 or array.dtype != np.uint8:
        raise ValueError(f"an image to draw on is (3, H, W) uint8, not {array.shape} {array.dtype}")
    factor = max(1, math.ceil(_LEAST_LONG_SIDE / max(array.shape[1:])))
    size = (array.shape[2] * factor, array.shape[1] * factor)
    pixels = np.ascontiguousarray(array.transpose(1, 2, 0))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def _scale(canvas: Picture, size: Sequence[int]) -> tuple[float, float]:
    """Factors (x, y) from pixels of an image of this (H, W) to those of the canvas."""
    return canvas.shape[1] / size[1], canvas.shape[0] / size[0]


def _overlay_of(
    detections: DrawnDetections,
    class_names: Sequence[str],
    score_threshold: float,
    canvas: Picture,
    scale: tuple[float, float],
) -> _Overlay:
    scores = detections.scores.detach().float().cpu().numpy()
    best = np.argsort(-scores, kind="stable")
    kept = best[scores[best] >= score_threshold][:_MOST_OBJECTS][::-1]  # the best is drawn last, on top
    labels = detections.labels.cpu().numpy()[kept]
    masks = None
    if detections.masks is not None:
        masks = _resized([rle_codec.decode(dict(detections.masks[index])) for index in kept], canvas)
    texts = [f"{class_names[label]} {scores[index]:.2f}" for index, label in zip(kept, labels, strict=True)]
    return _Overlay(_scaled(detections.boxes, scale)[kept], masks, labels, texts)


def _overlay_of_truth(
    truth: DrawnTruth, class_names: Sequence[str], canvas: Picture, scale: tuple[float, float]
) -> _Overlay:
    labels = truth.labels.cpu().numpy()
    crowd = truth.crowd.cpu().numpy()
    texts = [
        f"{class_names[label]} (crowd)" if many else class_names[label]
        for label, many in zip(labels, crowd, strict=True)
    ]
    masks = _resized(list(truth.masks.cpu().numpy().astype(np.uint8)), canvas)
    return _Overlay(_scaled(truth.boxes, scale), masks, labels, texts)


def _scaled(boxes: Tensor, scale: tuple[float, float]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = boxes.detach().double().cpu().numpy() * np.array([*scale, *scale])
    return scaled.reshape(-1, 4)


def _resized(masks: Sequence[NDArray[np.uint8]], canvas: Picture) -> NDArray[np.bool_]:
    """(N, H, W) masks in pixels of the canvas, with smooth rather than stepped edges."""
    height, width = canvas.shape[:2]
    resized = [cv2.resize(mask * 255, (width, height), interpolation=cv2.INTER_LINEAR) > 127 for mask in masks]
    return np.array(resized, dtype=bool).reshape(-1, height, width)


def _draw(canvas: Picture, overlay: _Overlay) -> Picture:
    if not overlay.texts:
        return canvas
    objects = sv.Detections(xyxy=overlay.boxes, mask=overlay.masks, class_id=overlay.labels)
    thickness = sv.calculate_optimal_line_thickness((canvas.shape[1], canvas.shape[0]))
    labels = sv.RichLabelAnnotator(
        _PALETTE,
        text_color=_TEXT_PALETTE,
        font_path=str(_FONT),
        font_size=_font_size(canvas),
        text_padding=3,
        smart_position=True,
    )
    scene = np.ascontiguousarray(canvas[:, :, ::-1])  # supervision draws BGR
    scene = sv.MaskAnnotator(_PALETTE, opacity=0.4).annotate(scene, objects)
    scene = sv.PolygonAnnotator(_PALETTE, thickness=thickness).annotate(
        scene, objects
    )  # tells neighbours of a class apart
    scene = sv.BoxAnnotator(
        _PALETTE, thickness=thickness if overlay.masks is None else max(1, thickness // 2)
    ).annotate(scene, objects)
    scene = labels.annotate(scene, objects, overlay.texts)
    return np.ascontiguousarray(scene[:, :, ::-1])


def _font_size(canvas: Picture) -> int:
    return max(12, int(min(canvas.shape[:2])) // 40)


def _captioned(picture: Picture, caption: str) -> Picture:
    size = _font_size(picture) + 2
    strip = Image.new("RGB", (picture.shape[1], 2 * size), "white")
    font = ImageFont.truetype(str(_FONT), size)
    ImageDraw.Draw(strip).text((size // 2, size), caption, fill="black", font=font, anchor="lm")
    return np.concatenate([np.asarray(strip), picture])
