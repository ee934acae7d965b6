"""Pictures of classifications: an image with its surest classes below it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from swin_dense.visualize.pictures import (
    LegendEntry,
    Picture,
    as_picture,
    captioned,
    enlarged,
    font_size,
    with_legend,
)

_SURE, _OTHER = (31, 119, 180), (199, 217, 233)


def draw_classification(image: Tensor, best: Sequence[tuple[str, float]], truth: str | None = None) -> Picture:
    """An image (3, H, W) uint8 RGB with the names and probabilities of its surest classes, surest first, below it.

    The picture (H', W', 3) is enlarged by a whole factor where the image is small; a caption names the true class, and
    whether the surest one is right.
    """
    picture = enlarged(as_picture(image))
    entries = [
        LegendEntry(_OTHER if place else _SURE, (f"{100 * share:.1f} %",), name)
        for place, (name, share) in enumerate(best)
    ]
    drawn = with_legend(np.array(picture), entries, font_size(picture))
    if truth is None:
        return drawn
    return captioned(drawn, f"{truth}: {'right' if best[0][0] == truth else 'wrong'}")
