"""What can be wrong with a data set, one record per finding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]

Progress = Callable[[Iterable[Any], int], Iterable[Any]]
"""Passes the items of a check on while it shows how many of a total have gone by."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: The rule that is broken, such as "box-outside"; the same for all findings of one rule.
        file: The annotation file or the image that it is about.
        message: What is wrong.
        fix: What to do about it.
        image_id: The image concerned, if there is one.
        annotation_id: The annotation concerned, if there is one.
        severity: An error stops training. A warning is what official COCO has too, and is safe to train on.
    """

    kind: str
    file: str
    message: str
    fix: str
    image_id: int | None = None
    annotation_id: int | None = None
    severity: Severity = "error"

    def __str__(self) -> str:
        """One line that names the item and the fix; the file is named only where it is an image."""
        items = [
            f"{name} {number}"
            for name, number in (("image", self.image_id), ("annotation", self.annotation_id))
            if number is not None
        ]
        return f"{', '.join(items) or self.file}: {self.message}; {self.fix}"

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self)
