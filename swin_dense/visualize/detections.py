"""Pictures of detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as rle_codec
from torch import Tensor

from swin_dense.visualize.palette import COLOURS
from swin_dense.visualize.pictures import FONT, Picture, canvas_of, captioned, font_size

_MOST_OBJECTS = 50  # more detections than this hide the image


class DrawnTruth(Protocol):
    """The annotated objects of one image."""

    @property
    def boxes(self) -> Tensor:
        """(N, 4) XYXY in pixels."""

    @property
    def masks(self) -> Tensor | None:
        """(N, H, W) bool; None where there are boxes alone."""

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
    canvas = canvas_of(image)
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
    canvas = canvas_of(image)
    scale = _scale(canvas, image.shape[-2:])
    wanted = _overlay_of_truth(truth, class_names, canvas, scale)
    found = _overlay_of(detections, class_names, score_threshold, canvas, scale)
    left = captioned(_draw(canvas, wanted), f"ground truth: {len(wanted.texts)}")
    right = captioned(_draw(canvas, found), f"predicted: {len(found.texts)} with score \u2265 {score_threshold:g}")
    gap = np.full((left.shape[0], 6, 3), 255, dtype=np.uint8)
    return np.concatenate([left, gap, right], axis=1)


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
    masks = None
    if truth.masks is not None:
        masks = _resized(list(truth.masks.cpu().numpy().astype(np.uint8)), canvas)
    return _Overlay(_scaled(truth.boxes, scale), masks, labels, texts)


def _scaled(boxes: Tensor, scale: tuple[float, float]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = boxes.detach().double().cpu().numpy() * np.array([*scale, *scale])
    return scaled.reshape(-1, 4)


def _resized(masks: Sequence[NDArray[np.uint8]], canvas: Picture) -> NDArray[np.bool_]:
    """(N, H, W) masks in pixels of the canvas, with smooth rather than stepped edges."""
    height, width = canvas.shape[:2]
    images = [Image.fromarray(mask * np.uint8(255)) for mask in masks]
    resized = [np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)) > 127 for image in images]
    return np.array(resized, dtype=bool).reshape(-1, height, width)


def _draw(canvas: Picture, overlay: _Overlay) -> Picture:
    if not overlay.texts:
        return canvas
    import supervision as sv  # needs OpenCV

    palette = sv.ColorPalette.from_hex(list(COLOURS))
    objects = sv.Detections(xyxy=overlay.boxes, mask=overlay.masks, class_id=overlay.labels)
    thickness = sv.calculate_optimal_line_thickness((canvas.shape[1], canvas.shape[0]))
    labels = sv.RichLabelAnnotator(
        palette,
        text_color=sv.ColorPalette.from_hex(list(COLOURS.values())),
        font_path=str(FONT),
        font_size=font_size(canvas),
        text_padding=3,
        smart_position=True,
    )
    scene = np.ascontiguousarray(canvas[:, :, ::-1])  # supervision draws BGR
    scene = sv.MaskAnnotator(palette, opacity=0.4).annotate(scene, objects)
    scene = sv.PolygonAnnotator(palette, thickness=thickness).annotate(
        scene, objects
    )  # tells neighbours of a class apart
    scene = sv.BoxAnnotator(palette, thickness=thickness if overlay.masks is None else max(1, thickness // 2)).annotate(
        scene, objects
    )
    scene = labels.annotate(scene, objects, overlay.texts)
    return np.ascontiguousarray(scene[:, :, ::-1])
