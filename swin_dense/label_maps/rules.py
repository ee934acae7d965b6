"""What the labels that occur in a whole split say about it; the same for `check-data` and for training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from swin_dense.errors import Finding
from swin_dense.label_maps.conversion import LabelConversion

ADE20K = (150, "wall", "flag")
"""How many classes ADE20K has, the first and the last; its own label maps never hold 255."""

MOST_IGNORED = 0.5
"""A larger part of the pixels without a class is worth a warning; ADE20K has 8 %."""

EXPLAINS_BY_INDEX, EXPLAINS_BY_SHIFT = 0.01, 0.2
"""Least part of the pixels that an ignored label needs to explain a class without any; "other" has 8 % in ADE20K."""


def coverage_findings(
    pixels: Mapping[int, int], conversion: LabelConversion, class_names: Sequence[str], labels: Path, where: str
) -> Iterator[Finding]:
    """Classes without a pixel, and pixels without a class, with the number in the files that explains it.

    Args:
        pixels: Pixels by stored label, of one split or of a part of it.
        conversion: From stored labels to classes.
        class_names: Names by class.
        labels: Where the label maps lie.
        where: What was counted, such as "8 label maps".
    """
    total = sum(pixels.values())
    if not total:
        return
    stored = np.array(sorted(pixels))
    ignored = {label: pixels[label] / total for label in stored[conversion.is_ignored(stored)].tolist()}
    share, most = sum(ignored.values()), max(ignored, key=ignored.__getitem__, default=-1)
    reason = "it is ignore_index" if most == conversion.ignore_index else f"label_shift is {conversion.label_shift}"
    explanation = f"label {most} is ignored on {ignored.get(most, 0):.1%} of the pixels, because {reason}"
    classes = range(conversion.first_label, conversion.last_label + 1)
    names = [class_names[label - conversion.first_label] for label in classes if not pixels.get(label)]
    restore = (
        f"if label {most} stands for a class, store the number of that class instead ({classes[0]}..{classes[-1]})"
    )
    if len(names) == len(classes):
        message = f"no pixel of {where} has a class" + (f": {explanation}" if ignored else "")
        yield Finding("no-classes", str(labels), message, f"{restore}, or correct label_shift and ignore_index")
        return
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        message = f"{len(names)} of {len(classes)} classes have no pixel in {where}: {shown}"
        fix = "check that the class list belongs to the label maps"
        if ignored.get(most, 0) >= (EXPLAINS_BY_INDEX if most == conversion.ignore_index else EXPLAINS_BY_SHIFT):
            message, fix = f"{message}; {explanation}", f"{restore}; else {fix}"
        yield Finding("unseen-classes", str(labels), message, fix, severity="warning")
    if share > MOST_IGNORED:
        message = f"{share:.1%} of the pixels of {where} have no class: {explanation}"
        fix = f"{restore}, or correct label_shift and ignore_index; else nothing is learnt there"
        yield Finding("mostly-ignored", str(labels), message, fix, severity="warning")


def conversion_findings(
    seen: Iterable[int], class_names: Sequence[str], conversion: LabelConversion, files: str
) -> Iterator[Finding]:
    """Whether the labels `seen` in all splits look converted already: a shift would move every class a second time.

    A converted ADE20K map has 0..149, and 255 where there was 0. Two signs together give it away: pixels of 255, and
    in no split a pixel of the last class, 150. Label maps of other classes may have a background, a void of 255 and a
    last class that is rare; they get a warning.
    """
    labels = np.array(sorted(seen))
    if conversion.first_label == 0 or not len(labels):
        return
    last, ignore_index = conversion.last_label, conversion.ignore_index
    if ignore_index in labels and last not in labels:
        is_ade20k = (len(class_names), class_names[0], class_names[-1]) == ADE20K
        look = "" if is_ade20k else f", unless the last class, {class_names[-1]}, is just rare"
        message = (
            f"label {ignore_index} occurs and the last label {last} does not: the labels look converted already, and "
            f"label_shift={conversion.label_shift} would move every class once more{look}"
        )
        fix = "use label_shift=0 for files that hold 0..K-1, or restore the original label maps"
        if not is_ade20k:
            fix = f"look where label {conversion.first_label} lies: if that is no {class_names[0]}, {fix}"
        yield Finding("converted-twice", files, message, fix, severity="error" if is_ade20k else "warning")
    elif not conversion.is_ignored(labels).any():
        message = f"no pixel is without a class: neither label 0 nor {ignore_index} occurs"
        fix = "expected only of label maps that name every pixel; else check label_shift"
        yield Finding("nothing-ignored", files, message, fix, severity="warning")
