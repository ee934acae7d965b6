"""Moving rows of tokens about, with gradients that are gathers or plain copies too.

The built-in gradient of a gather adds up in a scatter, which is several times slower and never needed here: no row is
gathered twice.

Shapes: R rows of C channels; `length` places for rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Permutation:
    """A reordering of rows.

    Attributes:
        index: (R,) int64, the source row of each target row.
        inverse_index: (R,) int64, the target row of each source row.
    """

    index: Tensor
    inverse_index: Tensor

    @property
    def inverse(self) -> Permutation:
        """The permutation that undoes this one."""
        return Permutation(self.inverse_index, self.index)

    def __call__(self, rows: Tensor) -> Tensor:
        """Reorders rows (R, C)."""
        permuted: Tensor = _PermuteRows.apply(rows, self.index, self.inverse_index)
        return permuted


def place_rows(rows: Tensor, places: Tensor, length: int) -> Tensor:
    """Puts rows at their places among zeros.

    Args:
        rows: (R, C).
        places: (R,) int64, all different, each below `length`.
        length: Rows of the result.

    Returns:
        (length, C).
    """
    placed: Tensor = _PlaceRows.apply(rows, places, length)
    return placed


def take_rows(placed: Tensor, places: Tensor) -> Tensor:
    """Takes the rows at some places.

    Args:
        placed: (length, C).
        places: (R,) int64, all different, each below `length`.

    Returns:
        (R, C).
    """
    rows: Tensor = _TakeRows.apply(placed, places)
    return rows


def _place(rows: Tensor, places: Tensor, length: int) -> Tensor:
    return rows.new_zeros(length, rows.shape[-1]).index_copy_(0, places, rows)


class _PermuteRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse_index: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_index)
        return rows.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inverse_index,) = ctx.saved_tensors
        return gradient.index_select(0, inverse_index), None, None


class _PlaceRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(places)
        return _place(rows, places, length)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return gradient.index_select(0, places), None, None


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, placed: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.length = len(placed)
        return placed.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return _place(gradient, places, ctx.length), None
