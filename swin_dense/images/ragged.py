"""Rows of different length in two flat tensors.

A million small Python objects cost memory in every worker: touching one writes its reference count, and the page it
lies on is copied. Two tensors cost it once: forked workers share their pages, and under `spawn` PyTorch hands them over
as shared memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """Rows of different length, one after another.

    Attributes:
        values: (V,) all rows joined.
        offsets: (R + 1,) int64; row r is `values[offsets[r]:offsets[r + 1]]`.
    """

    values: Tensor
    offsets: Tensor

    @classmethod
    def from_lengths(cls, values: npt.NDArray[Any], lengths: Iterable[int]) -> Ragged:
        """Cuts joined values, (V,), into rows of lengths that sum up to V."""
        offsets = np.concatenate([[0], np.cumsum(np.fromiter(lengths, dtype=np.int64))])
        assert offsets[-1] == len(values)
        return cls(torch.from_numpy(values), torch.from_numpy(offsets.astype(np.int64)))

    @classmethod
    def from_bytes(cls, rows: Iterable[bytes]) -> Ragged:
        """Joins byte strings to rows of uint8."""
        rows = list(rows)
        joined = np.frombuffer(b"".join(rows), dtype=np.uint8).copy()
        return cls.from_lengths(joined, map(len, rows))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        """One row, a view."""
        start, stop = self.offsets[row : row + 2].tolist()
        return self.values[start:stop].numpy()

    def text(self, row: int) -> str:
        """One row of `from_bytes` as the text it was encoded from (UTF-8, `surrogateescape`)."""
        return self[row].tobytes().decode("utf-8", "surrogateescape")

    def byte_strings(self) -> list[bytes]:
        """All rows of `from_bytes`, as Python objects: quicker than one by one."""
        joined, offsets = self.values.numpy().tobytes(), self.offsets.tolist()
        return [joined[start:stop] for start, stop in zip(offsets[:-1], offsets[1:], strict=True)]
