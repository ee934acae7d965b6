"""How models are run on images; models are handed to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from swin_dense.errors import ConfigError
from swin_dense.records import Size, rescaled_size


@dataclass(frozen=True)
class EvaluationSize:
    """The size at which a model sees an image, at a ratio of the test scale; a side that is None has no limit."""

    short_side: int | None
    max_long_side: int | None

    def __call__(self, size: Size, ratio: float = 1.0) -> Size:
        """The largest size within both sides."""
        short_side, max_long_side = self.short_side or min(size), self.max_long_side or max(size)
        return rescaled_size(size, round(short_side * ratio), round(max_long_side * ratio))


def check_scales(scales: tuple[float, ...]) -> None:
    """Refuses ratios of the test scale at which no image can be seen, and none at all."""
    if not scales or not all(0 < ratio < math.inf for ratio in scales):
        raise ConfigError(f"inference.scales must be positive ratios, at least one, got {scales}")


@dataclass(frozen=True)
class Windows:
    """A grid of equal windows over a view, by the first rows and the first columns of the windows."""

    size: Size
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def over(cls, view: Size, crop_size: Size | None, stride: Size | None) -> Windows:
        """The windows that cover a view; None takes the whole view. The last ones are moved back into it."""
        size = view if crop_size is None else (min(view[0], crop_size[0]), min(view[1], crop_size[1]))
        tops, lefts = (_starts(*one) for one in zip(view, size, stride or view, strict=True))
        return cls(size, tops, lefts)


def _starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """First pixels of the windows along one axis."""
    count = 1 + math.ceil((length - window) / stride)
    return tuple(min(i * stride, length - window) for i in range(count))
