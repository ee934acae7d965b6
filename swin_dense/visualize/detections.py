"""Pictures of detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from pycocotools import mask as rle_codec
from torch import Tensor

from swin_dense.records import Detections, Instances
from swin_dense.visualize.pictures import (
    Picture,
    as_colour,
    as_picture,
    beside,
    captioned,
    class_colours,
    enlarged,
    font_size,
    ink_on,
    text_of,
)

_MOST_OBJECTS = 50  # more detections than this hide the image
_OPACITY = 0.4

Place = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Overlay:
    """Objects to draw, the most important one first.

    Attributes:
        boxes: (N, 4) XYXY in pixels of the canvas.
        masks: N (H, W) masks of any size, 0 or 1.
        labels: N classes.
        texts: N.
    """

    boxes: NDArray[np.float64]
    masks: list[NDArray[np.uint8]] | None
    labels: list[int]
    texts: list[str]


def draw_detections(
    image: Tensor | Picture | Image.Image,
    detections: Detections,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.3,
    as_frame: bool = False,
) -> Picture:
    """Draws boxes, masks, classes and scores of the best detections onto an image.

    The image is a (3, H, W) uint8 RGB tensor, an (H, W, 3) array or a Pillow image. The picture (H', W', 3) is enlarged
    by a whole factor where the image is small, but not `as_frame` of a video.
    """
    picture = as_picture(image)
    canvas = picture if as_frame else enlarged(picture)
    return _draw(canvas, _overlay_of(detections, class_names, score_threshold, _scale(canvas, picture)))


def draw_instances(image: Tensor | Picture | Image.Image, truth: Instances, class_names: Sequence[str]) -> Picture:
    """Draws the annotated objects of an image likewise."""
    picture = as_picture(image)
    canvas = enlarged(picture)
    return _draw(canvas, _overlay_of_truth(truth, class_names, _scale(canvas, picture)))


def draw_comparison(
    image: Tensor | Picture | Image.Image,
    truth: Instances,
    detections: Detections,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.3,
) -> Picture:
    """Draws the annotated objects on the left and the best detections on the right, with a caption over each side."""
    picture = as_picture(image)
    canvas = enlarged(picture)
    scale = _scale(canvas, picture)
    wanted = _overlay_of_truth(truth, class_names, scale)
    found = _overlay_of(detections, class_names, score_threshold, scale)
    left = captioned(_draw(canvas, wanted), f"ground truth: {len(wanted.texts)}")
    right = captioned(_draw(canvas, found), f"predicted: {len(found.texts)} with score \u2265 {score_threshold:g}")
    return beside(left, right)


def _scale(canvas: Picture, picture: Picture) -> float:
    return len(canvas) / len(picture)


def _overlay_of(detections: Detections, class_names: Sequence[str], score_threshold: float, scale: float) -> _Overlay:
    scores = detections.scores.detach().float().cpu().numpy()
    best = np.argsort(-scores, kind="stable")
    kept = best[scores[best] >= score_threshold][:_MOST_OBJECTS]
    labels = detections.labels.cpu().numpy()[kept].tolist()
    masks = None
    if detections.masks is not None:
        masks = [rle_codec.decode(detections.masks[index]) for index in kept]
    texts = [f"{class_names[label]} {scores[index]:.2f}" for index, label in zip(kept, labels, strict=True)]
    return _Overlay(_scaled(detections.boxes, scale)[kept], masks, labels, texts)


def _overlay_of_truth(truth: Instances, class_names: Sequence[str], scale: float) -> _Overlay:
    labels = truth.labels.tolist()
    texts = [
        f"{class_names[label]} (crowd)" if crowd else class_names[label]
        for label, crowd in zip(labels, truth.crowd.tolist(), strict=True)
    ]
    masks = None if truth.masks is None else list(truth.masks.cpu().numpy().astype(np.uint8))
    return _Overlay(_scaled(truth.boxes, scale), masks, labels, texts)


def _scaled(boxes: Tensor, scale: float) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = boxes.detach().double().cpu().numpy().reshape(-1, 4) * scale
    return scaled


def _draw(canvas: Picture, overlay: _Overlay) -> Picture:
    """Paints the objects, large ones first, so that they do not hide small ones; then the texts."""
    canvas = canvas.copy()
    thickness = max(2, min(canvas.shape[:2]) // 300)
    colours = [as_colour(rgb) for rgb in class_colours(max(overlay.labels, default=-1) + 1)[overlay.labels]]
    sizes = (overlay.boxes[:, 2] - overlay.boxes[:, 0]) * (overlay.boxes[:, 3] - overlay.boxes[:, 1])
    order = np.argsort(-sizes, kind="stable").tolist()
    if overlay.masks is not None:
        for index in order:
            _paint(canvas, overlay.masks[index], np.array(colours[index]), thickness)
    scene = Image.fromarray(canvas)
    draw = ImageDraw.Draw(scene)
    for index in order:
        width = thickness if overlay.masks is None else max(1, thickness // 2)
        left, top, right, bottom = overlay.boxes[index].round().tolist()
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colours[index], width=width)
    taken: list[Place] = []
    for box, text, colour in zip(overlay.boxes.tolist(), overlay.texts, colours, strict=True):
        line = text_of(text, font_size(canvas))
        size = (line.width + 6, int(1.4 * font_size(canvas)))
        place = _free_place(box, size, (canvas.shape[1], canvas.shape[0]), taken)
        taken.append(place)
        draw.rectangle(place, fill=colour)
        draw.text(
            (place[0] + 3, (place[1] + place[3]) / 2), line.text, fill=ink_on(colour), font=line.font, anchor="lm"
        )
    return np.asarray(scene)


def _paint(canvas: Picture, mask: NDArray[np.uint8], colour: NDArray[np.int64], thickness: int) -> None:
    """Blends a colour into a mask's pixels and draws its outline, on the part of the canvas that it covers."""
    height, width = canvas.shape[:2]
    shape = Image.fromarray(mask * np.uint8(255))
    if shape.size != (width, height):  # with smooth rather than stepped edges
        shape = shape.resize((width, height), Image.Resampling.BILINEAR).point(lambda value: 255 if value > 127 else 0)
    area = shape.getbbox()
    if area is None:
        return
    left, top, right, bottom = area
    around = shape.crop((left - thickness, top - thickness, right + thickness, bottom + thickness))  # zeros outside
    inner = np.asarray(around.filter(ImageFilter.MinFilter(2 * thickness - 1)))
    inner = inner[thickness:-thickness, thickness:-thickness] > 0
    inside = np.asarray(shape.crop(area)) > 0
    part = canvas[top:bottom, left:right]
    part[inside] = ((1 - _OPACITY) * part[inside] + _OPACITY * colour).round()
    part[inside & ~inner] = colour  # separates neighbours of one class


def _free_place(box: Sequence[float], size: Sequence[int], canvas: Sequence[int], taken: Sequence[Place]) -> Place:
    """Where a label of some width and height hides the least of the labels before it: above its box, in it, below."""
    (left, top, right, bottom), (width, height) = box, size
    corners = [(left, top - height), (left, top), (left, bottom), (left, bottom - height), (right - width, top)]
    places = []
    for x, y in corners:
        x, y = max(0.0, min(x, canvas[0] - width)), max(0.0, min(y, canvas[1] - height))
        places.append((x, y, x + width, y + height))
    return min(places, key=lambda place: sum(_overlap(place, other) for other in taken))


def _overlap(one: Place, other: Place) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
