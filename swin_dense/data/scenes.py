"""Draws the scenes of the embedded data set `shapes`: textured shapes that overlap on a textured ground.

Outlines are polygons in pixels, drawn with soft edges into the picture and rasterised by COCO's own rules into the
masks, so that picture, COCO annotation and label map agree. The outline tells the class. As in photographs, colour is a
cue too, though not a sure one: the hues of a class scatter around its own. Textures are the same for every class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

OBJECTS = (1, 4)
"""Fewest and most objects that are tried per scene; those that would hide another one are left out."""
RADIUS = (0.08, 0.45)
"""Circumradius as a fraction of the picture's side: at 128 pixels all three COCO sizes occur."""
EMPTY = 0.02
"""Fraction of scenes without objects, as real data has them."""
TILT = 0.2
"""Most rotation to either side in radians: like most things in photographs, shapes stand upright."""
MIN_VISIBLE = 0.6
"""Fraction of an object that has to stay in view; what would cover more is not drawn."""
MIN_AREA = 0.003
"""Smallest visible area of an object, as a fraction of the picture (49 pixels at 128x128)."""
GROUND_SATURATION = (0.0, 0.2)
"""The ground is drab and things are colourful, so that separating the two is the easy part of the task."""
OBJECT_SATURATION = (0.5, 1.0)
HUE_SPREAD = 0.05
"""Standard deviation of the hues of a class, as a part of the colour circle, on which six classes lie 1/6 apart."""
SUPERSAMPLING = 4


def _regular(corners: int, radius: float = 1.0) -> Floats:
    """Corners of a regular polygon around the origin, (corners, 2)."""
    angles = 2 * np.pi * np.arange(corners) / corners
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star(points: int, inner: float) -> Floats:
    """Outline of a star, (2 * points, 2): every second corner of a regular polygon drawn in to `inner`."""
    outline = _regular(2 * points)
    outline[1::2] *= inner
    return outline


def _cross(arm: float) -> Floats:
    """Outline of an upright cross with arms of half width `arm`, scaled to circumradius 1, (12, 2)."""
    corner = np.array([[1, arm], [arm, arm], [arm, 1]])
    quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
    outline = np.concatenate([corner @ np.linalg.matrix_power(quarter, turn) for turn in range(4)])
    cross: Floats = outline / np.hypot(1, arm)
    return cross


OUTLINES: dict[str, tuple[Floats, ...]] = {
    "circle": (_regular(40),),
    "square": (_regular(4),),
    "triangle": (_regular(3),),
    "star": (_star(5, inner=0.45),),
    "ring": (_regular(40), _regular(40, radius=0.55)),
    "cross": (_cross(arm=0.36),),
}
"""Unit outlines by class name: the outer one, then holes."""


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Attributes:
        name: Class name, a key of `OUTLINES`.
        contours: Outer outline, then holes; (P, 2) XY in pixels each, possibly reaching out of the picture.
        area: Pixels that it covers in the picture when nothing lies before it.
        visible: (size, size) bool, the pixels of it that are seen.
    """

    name: str
    contours: tuple[Floats, ...]
    area: int
    visible: Bools

    def is_whole(self) -> bool:
        """Whether its outline alone describes what is seen: nothing before it, no hole, nothing out of the picture."""
        inside = bool(0 <= self.contours[0].min() and self.contours[0].max() <= len(self.visible))
        return inside and len(self.contours) == 1 and self.area == np.count_nonzero(self.visible)


def draw_scene(rng: np.random.Generator, size: int) -> tuple[Pixels, list[SceneObject]]:
    """Draws one scene: the (size, size, 3) uint8 RGB picture and its objects, back to front."""
    ground = _contrasting_colours(rng, [], rng.random(5), GROUND_SATURATION)
    used = [ground.mean(axis=0)]
    picture = _texture(rng, ground, size, size, period=size / 4)
    objects: list[SceneObject] = []
    count = 0 if rng.random() < EMPTY else int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
    radii = np.exp(rng.uniform(np.log(RADIUS[0]), np.log(RADIUS[1]), size=count)) * size
    # Mostly large before small, as a large one drawn late would hide the others and be left out.
    for radius in radii[np.argsort(-radii * rng.uniform(0.5, 2.0, size=count))]:
        candidate = _place(rng, float(radius), size)
        behind = _cover(objects, candidate)
        if behind is None:
            continue
        own_hue = list(OUTLINES).index(candidate.name) / len(OUTLINES)
        colours = _contrasting_colours(rng, used, rng.normal(own_hue, HUE_SPREAD, size=5), OBJECT_SATURATION)
        used.append(colours.mean(axis=0))
        _paint(rng, picture, candidate, colours, period=float(radius))
        objects = [*behind, candidate]
    noise = rng.normal(0, rng.uniform(2, 8), size=picture.shape)
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8), objects


def _place(rng: np.random.Generator, radius: float, size: int) -> SceneObject:
    """An object of a random class, place and rotation, cut by the picture's edge at most by half a radius."""
    name = list(OUTLINES)[rng.integers(len(OUTLINES))]
    turned = rotation(rng.uniform(-TILT, TILT))
    centre = rng.uniform(radius / 2, size - radius / 2, size=2)
    contours = tuple(np.round(radius * outline @ turned + centre, 2) for outline in OUTLINES[name])
    rles = coco_mask.frPyObjects([contour.ravel().tolist() for contour in contours], size, size)
    masks: Bools = coco_mask.decode(rles).astype(bool)  # (size, size, contours)
    visible = masks[..., 0] & ~masks[..., 1:].any(axis=-1)
    return SceneObject(name, contours, int(np.count_nonzero(visible)), visible)


def _cover(objects: list[SceneObject], front: SceneObject) -> list[SceneObject] | None:
    """The objects as seen behind `front`; None where too little would be left of one of them, or of `front` itself."""
    smallest = MIN_AREA * front.visible.size
    if front.area < smallest:
        return None
    behind = []
    for one in objects:
        visible = one.visible & ~front.visible
        if np.count_nonzero(visible) < max(smallest, MIN_VISIBLE * one.area):
            return None
        behind.append(SceneObject(one.name, one.contours, one.area, visible))
    return behind


def _contrasting_colours(
    rng: np.random.Generator, used: list[Floats], hues: Floats, saturation: tuple[float, float]
) -> Floats:
    """Two shades of one of five hues, (2, 3): the pair whose mean is furthest from all means in `used`."""
    full = np.clip(np.abs((hues[:, None, None] * 6 + (0, 4, 2)) % 6 - 3) - 1, 0, 1)
    white = 1 - rng.uniform(*saturation, size=(5, 1, 1))
    brightness = rng.uniform(0.45, 1, size=(5, 1, 1)) * [[1.0], [0.7]]
    pairs = 245 * brightness * (white + (1 - white) * full)
    best = 0
    if used:
        distances = np.linalg.norm(pairs.mean(axis=1)[:, None] - np.stack(used)[None], axis=-1)
        best = int(distances.min(axis=1).argmax())
    colours: Floats = pairs[best]
    return colours


def _paint(rng: np.random.Generator, picture: Floats, thing: SceneObject, colours: Floats, period: float) -> None:
    """Paints one object into the (size, size, 3) picture, in place, with soft edges."""
    size = len(picture)
    left, top = np.maximum(np.floor(thing.contours[0].min(axis=0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(thing.contours[0].max(axis=0)).astype(int) + 1, size)
    shape = [contour - (left, top) for contour in thing.contours]
    opacity = covered([shape], right - left, bottom - top)[..., None]
    window = picture[top:bottom, left:right]
    window += opacity * (_texture(rng, colours, bottom - top, right - left, period) - window)


def covered(shapes: Iterable[Sequence[Floats]], width: int, height: int) -> Floats:
    """How much of each pixel shapes cover, 0..1, (height, width); each is an outline (n, 2) and its holes."""
    canvas = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    for contours in shapes:
        for contour, shade in zip(contours, (255, *(0 for _ in contours[1:])), strict=True):
            pen.polygon((contour * SUPERSAMPLING).ravel().tolist(), fill=shade)
    return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float64) / 255


def rotation(angle: float) -> Floats:
    """The matrix that turns points (n, 2), multiplied from the right, by an angle in radians."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _texture(rng: np.random.Generator, colours: Floats, height: int, width: int, period: float) -> Floats:
    """A random texture of two colours (2, 3) under a slant of light: RGB (height, width, 3) in about 0..255.

    The pattern repeats after about `period` pixels.
    """
    y, x = np.mgrid[:height, :width]
    angle = rng.uniform(0, np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wave = 2 * np.pi / (period * rng.uniform(0.3, 0.9))
    pattern = rng.integers(4)
    if pattern == 0:  # plain
        mix = np.full((height, width), 0.5)
    elif pattern == 1:  # stripes
        mix = 0.5 + 0.5 * np.clip(3 * np.sin(wave * along), -1, 1)
    elif pattern == 2:  # checks
        mix = 0.5 + 0.5 * np.clip(4 * np.sin(wave * along) * np.sin(wave * across), -1, 1)
    else:  # clouds
        grid = Image.fromarray(rng.random((6, 6), dtype=np.float32))
        mix = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    light = 1 + rng.uniform(-0.3, 0.3) * (along - along.mean()) / max(height, width)
    texture: Floats = (colours[0] + mix[..., None] * (colours[1] - colours[0])) * light[..., None]
    return texture
