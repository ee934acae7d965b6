"""Instance masks as PNGs: one for each image, with a number (or colour) for each object, or one for each object.

Found are, below folders named like `masks`, `IMAGE.png` and `IMAGE_mask.png` (numbers), `CLASS/IMAGE.png` (numbers, of
one class), `IMAGE/CLASS_1.png` and `IMAGE_CLASS_1.png` (an object each), and `ID/masks/*.png` beside `ID/images/*`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swin_dense.errors import DataError, option
from swin_dense.images.files import list_files
from swin_dense.images.store import ImageStore
from swin_dense.importing.files import SPLITS, SourceImages, by_stem, closest, folder_of, split_of
from swin_dense.importing.geometry import Pixels, mask_object
from swin_dense.importing.layouts import CLASS_TABLE, MASK_FOLDERS
from swin_dense.importing.records import Imported, ImportedImage, ImportedObject, UnusableError

NAMELESS = "object"
"""The class where the names of folders and files give none."""

OF_NUMBERS = {"mask", "masks", "instance", "instances", "instanceids", "label", "labels", "ids"}
"""What follows the name of an image in that of a mask with many objects."""

OF_COLOUR = np.array([2**16, 2**8, 1], dtype=np.int32)
"""What red, green and blue count in the number of a colour."""

MOST_OBJECTS = 10_000
"""Values in a mask beyond which it is a picture."""


class _Mask(NamedTuple):
    name: str
    class_name: str
    is_one: bool  # object


def read_masks(source: Path) -> Imported:
    """Reads the masks of every image below a folder."""
    root, imported = folder_of(source), Imported("masks")
    images, masks = SourceImages(root), set(mask_files(root))
    if not masks and any(root.rglob(CLASS_TABLE)):
        raise DataError(
            f"{root}: its masks are label maps, of classes and not of objects; add {option('to', 'label-maps')}"
        )
    pictures = [name for name in images.names if name not in masks]
    by_image: dict[str, list[_Mask]] = defaultdict(list)
    stems = by_stem(pictures)
    for name in sorted(masks):
        found = _image_of(name, stems, pictures)
        if found is None:
            message = "no image, or more than one, belongs to this mask"
            imported.drop("missing-image", root / name, message, "name it like its image")
        else:
            by_image[found[0]].append(found[1])
    for name in pictures:
        if name not in by_image:
            fix = "add an empty mask, if there is nothing on it"
            imported.drop("not-annotated", root / name, "no mask belongs to this image", fix)
            continue
        with imported.dropping(root / name):
            size = images.size(name)
            objects, usable = [], True
            for mask in by_image[name]:
                known = len(imported.dropped)
                with imported.dropping(root / mask.name):
                    objects += _objects(root / mask.name, mask, size)
                usable &= mask.is_one or len(imported.dropped) == known
            if not usable:
                raise UnusableError("not-annotated", "a mask of all its objects cannot be used", "repair the mask")
            imported.images.append(ImportedImage(root / name, Path(name).name, size, tuple(objects), split_of(name)))
    if any(one.class_name == NAMELESS for image in imported.images for one in image.objects):
        imported.notes.append(f"masks whose names give no class are of the class {NAMELESS!r}")
    return imported


def mask_files(root: Path) -> list[str]:
    """PNGs that lie in a folder of masks."""
    return [
        name for name in list_files(root, (".png",)) if MASK_FOLDERS & {part.lower() for part in name.split("/")[:-1]}
    ]


def pixels_of(path: Path) -> Pixels:
    """(H, W) values of a mask; colours become numbers, black is 0."""
    with ImageStore(path.parent).open(path.name, ("PNG",)) as image:
        if image.mode in ("1", "L", "P", "I", "I;16", "I;16B"):
            return np.array(image, dtype=np.int32)
        colours = np.asarray(image.convert("RGB"), dtype=np.int32)
    return colours @ OF_COLOUR


def _image_of(name: str, stems: Mapping[str, list[str]], pictures: list[str]) -> tuple[str, _Mask] | None:
    """The image that a mask belongs to, by their names; of images with one name, the one that lies closest."""
    parts = name.split("/")
    place = next(place for place, part in enumerate(parts) if part.lower() in MASK_FOLDERS)
    stem, inner = Path(name).stem, parts[place + 1 : -1]
    inner = [part for part in inner if part.lower() not in SPLITS]
    if inner and (image := closest(name, stems.get(inner[-1], []))):
        return image, _Mask(name, _class_in(stem), True)
    if image := closest(name, stems.get(stem, [])):
        return image, _Mask(name, inner[-1] if inner else NAMELESS, False)
    above = "/".join(parts[:place])
    own = [one for one in pictures if above and one.startswith(f"{above}/")]
    if len(own) == 1:
        return own[0], _Mask(name, NAMELESS, True)
    for end in range(len(stem) - 1, 0, -1):
        if stem[end] in "_-." and (image := closest(name, stems.get(stem[:end], []))):
            rest = stem[end + 1 :]
            if rest.lower() in OF_NUMBERS:
                return image, _Mask(name, inner[-1] if inner else NAMELESS, False)
            return image, _Mask(name, _class_in(rest), True)
    return None


def _class_in(text: str) -> str:
    """The class in a name such as `cup_3`."""
    return re.sub(r"[\W_]*\d*$", "", text) or NAMELESS


def _objects(path: Path, mask: _Mask, size: tuple[int, int]) -> list[ImportedObject]:
    pixels = pixels_of(path)
    if pixels.shape != size:
        message = f"is {pixels.shape[1]} x {pixels.shape[0]}, its image {size[1]} x {size[0]}"
        raise UnusableError("mask-size", message, "export it again")
    if mask.is_one:
        return [mask_object(mask.class_name, pixels)]
    values = np.unique(pixels)
    values = values[values != 0]
    if len(values) > MOST_OBJECTS:
        fix = "give each object one number"
        raise UnusableError("not-a-mask", f"has {len(values)} values, more than objects", fix)
    return [mask_object(mask.class_name, pixels == value) for value in values]
