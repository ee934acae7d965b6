"""Images as users have them in memory or on disk, as (3, H, W) uint8 RGB tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from swin_dense.errors import DataError
from swin_dense.images.archive import locate
from swin_dense.images.finder import LISTS, ImageSource, find_images
from swin_dense.images.pixels import BrightnessError, decode, orientation_of
from swin_dense.images.store import ImageStore

FORMS = "a path, a PIL image, an (H, W, 3) uint8 array or a (3, H, W) uint8 tensor"


def is_single(images: object) -> bool:
    """Whether this is one image, and not a folder, zip file, list or collection of images."""
    if isinstance(images, str | PathLike):
        path = Path(images)
        place = locate(path)
        if place is not None:
            return place[1] in place[0]
        return not path.is_dir() and path.suffix.lower() not in LISTS
    return isinstance(images, Image.Image | np.ndarray | Tensor)


def each_image(images: Any) -> Iterator[Any]:
    """The single images of one image, a folder, or an iterable of these; nothing is decoded yet."""
    if isinstance(images, str | PathLike):
        yield from find_images([Path(images)])
    elif is_single(images):
        yield images
    elif isinstance(images, Iterable):
        for one in images:
            yield from each_image(one)
    else:
        raise DataError(f"{type(images).__name__} is no image: pass {FORMS}, a folder, or several of these")


def read_image(image: Any) -> Tensor:
    """Decodes or converts one image to (3, H, W) uint8 RGB on the CPU; EXIF orientations are applied."""
    if isinstance(image, str | PathLike):
        (image,) = find_images([Path(image)])
    if isinstance(image, ImageSource):
        pixels: Tensor = ImageStore(image.root).read(image.name).as_subclass(Tensor)
        return pixels
    if isinstance(image, Image.Image):
        return _from_pillow(image)
    if isinstance(image, np.ndarray):
        _check(image, channels=-1, wanted="(H, W, 3) uint8")
        return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))  # a copy: it may be read-only
    if isinstance(image, Tensor):
        _check(image, channels=0, wanted="(3, H, W) uint8")
        pixels = image.detach().cpu().as_subclass(Tensor)
        return pixels
    raise DataError(f"{type(image).__name__} is no image: pass {FORMS}")


def _from_pillow(image: Image.Image) -> Tensor:
    if 0 in image.size:
        raise DataError(f"a PIL image of {image.width} x {image.height} has no pixels")
    try:
        return torch.from_numpy(decode(image, orientation_of(image)))
    except BrightnessError as error:
        raise DataError(f"a PIL image has {error}; convert it to 8 or 16 bits per channel") from error


def _check(image: Any, channels: int, wanted: str) -> None:
    kind = "tensor" if isinstance(image, Tensor) else "array"
    if image.ndim != 3 or image.shape[channels] != 3 or image.dtype not in (np.uint8, torch.uint8):
        hint = "; scale values of 0..1 to 0..255 first" if "float" in str(image.dtype) else ""
        raise DataError(f"an image as {kind} is {wanted} RGB, not {tuple(image.shape)} {image.dtype}{hint}")
    if 0 in image.shape:
        raise DataError(f"an image of shape {tuple(image.shape)} has no pixels")
