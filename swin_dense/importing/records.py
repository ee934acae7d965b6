"""What is read from a data set of another format, before it is written as ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from swin_dense.errors import Finding
from swin_dense.images.store import ImageError
from swin_dense.records import Rle, Size

BACKGROUND = "background"
"""The class of what is no object, where the source has no name for it."""

IN_TWO_SPLITS = "images that are in two splits, kept in the first"
"""What `Imported.changed` counts them as."""


class UnusableError(Exception):
    """One object or image cannot be imported; `Imported.dropping` makes a finding of it, and of an `ImageError`."""

    def __init__(self, kind: str, fault: str, fix: str) -> None:
        super().__init__(fault)
        self.kind, self.fault, self.fix = kind, fault, fix


@dataclass(frozen=True)
class ImportedObject:
    """One annotated object, inside its image.

    Attributes:
        class_name: Its class.
        box: x, y, width and height in pixels.
        area: Of the outline, or of the box where there is none, in pixels.
        outline: Polygons x0, y0, x1, y1, ..., or a run-length mask; empty for a box alone.
        crowd: COCO's `iscrowd`.
        extra: More keys of the COCO annotation, such as `difficult` of Pascal VOC.
    """

    class_name: str
    box: tuple[float, float, float, float]
    area: float
    outline: list[list[float]] | Rle = field(default_factory=list)
    crowd: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportedImage:
    """One image with its objects.

    Attributes:
        path: The image file; where it is embedded, what it is called.
        name: What it is called in its split, with "/" between folders.
        size: Height and width that the annotations are made for.
        objects: Its objects.
        split: The split that the source puts it in; None where it has no splits.
        label_map: Reads its labels (H, W), of a source of semantic segmentation.
        embedded: Reads the bytes of an image that lies inside an annotation file.
    """

    path: Path
    name: str
    size: Size
    objects: tuple[ImportedObject, ...] = ()
    split: str | None = None
    label_map: Callable[[], npt.NDArray[np.integer]] | None = None
    embedded: Callable[[], bytes] | None = None


@dataclass
class Imported:
    """What a reader has found, and all that it had to leave out.

    Attributes:
        format: The format's name.
        classes: Class names in the order of the source.
        images: The images.
        dropped: What was left out, and why.
        changed: How many objects were changed in which way, such as "clipped to the image".
        notes: Decisions about the whole source that a user should know of.
        void: Labels of the label maps that stand for no class.
    """

    format: str
    classes: list[str] = field(default_factory=list)
    images: list[ImportedImage] = field(default_factory=list)
    dropped: list[Finding] = field(default_factory=list)
    changed: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    void: tuple[int, ...] = (255,)

    @contextmanager
    def dropping(self, file: Path | str, item: str = "") -> Iterator[None]:
        """Leaves out what the block reads if it cannot be used, and takes note of it."""
        try:
            yield
        except (UnusableError, ImageError) as error:
            self.drop(error.kind, file, f"{item}: {error.fault}" if item else error.fault, error.fix)

    def drop(self, kind: str, file: Path | str, message: str, fix: str) -> None:
        """Notes one thing that is left out."""
        self.dropped.append(Finding(kind, str(file), message, fix, severity="warning"))
