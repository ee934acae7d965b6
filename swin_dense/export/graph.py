"""From a module to a graph that runs without this package: raw RGB images in, maps out, sizes left open.

Shapes: B images, (H, W) pixels, C channels.
"""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config
from torch.nn import functional

from swin_dense.errors import ConfigError
from swin_dense.files import atomic_write

AXES = {0: "batch", 2: "height", 3: "width"}
"""Axes of the input (B, 3, H, W) that may be left open, by position."""

INPUT = "images"

TRACED_SIZE = (864, 992)
"""Height and width while open axes are traced: larger than one window in every stage, so that no size is taken for 1.
Nothing of this size is computed."""

OTHER_SHAPE = (1, 3, 67, 93)
"""A shape to try open axes with."""


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects to have been done to RGB images in 0..255.

    Attributes:
        mean: Subtracted from red, green and blue.
        std: Red, green and blue are divided by it.
        bgr: Whether the colours are then put in the order blue, green, red.
        divisor: Images are then zero-padded at the bottom and the right to multiples of this many pixels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False
    divisor: int = 1


class RawImages(nn.Module):
    """What is exported: a model with its preprocessing before it, so that no user can get that wrong."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, preprocessing: Preprocessing) -> None:
        """Puts the preprocessing before a model.

        Args:
            body: Takes preprocessed images (B, 3, H, W), and returns maps.
            preprocessing: What `body` expects.
        """
        super().__init__()
        self.body, self.preprocessing = body, preprocessing
        self.register_buffer("mean", torch.tensor(preprocessing.mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std, dtype=torch.float32).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes the maps of images (B, 3, H, W), RGB, float32 in 0..255."""
        normalised = (images - self.mean) / self.std
        if self.preprocessing.bgr:
            normalised = normalised.flip(1)
        if self.preprocessing.divisor > 1:
            side = self.preprocessing.divisor
            (height, width) = images.shape[2:]
            bottom, right = ((size + side - 1) // side * side - size for size in (height, width))
            normalised = functional.pad(normalised, (0, right, 0, bottom))
        return tuple(self.body(normalised))


class PlainAdaptivePool(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two matrix products, which a tracer can follow with height and width left open."""

    def __init__(self, size: tuple[int, int]) -> None:
        """Creates the pooling.

        Args:
            size: Rows and columns of the result.
        """
        super().__init__()
        self.size = size

    def forward(self, maps: Tensor) -> Tensor:
        """Averages maps (B, C, H, W) to (B, C, *size)."""
        down, across = (_bins(cells, length, maps) for cells, length in zip(self.size, maps.shape[2:], strict=True))
        return down @ maps @ across.t()


def _bins(cells: int, length: int, like: Tensor) -> Tensor:
    """(cells, length), the weights with which each cell averages over positions."""
    cell = torch.arange(cells, device=like.device)[:, None]
    position = torch.arange(length, device=like.device)
    first = (cell * length).div(cells, rounding_mode="floor")
    stop = ((cell + 1) * length + cells - 1).div(cells, rounding_mode="floor")
    inside = ((position >= first) & (position < stop)).to(like.dtype)
    return inside / (stop - first)


@dataclass(frozen=True)
class Graph:
    """A traced model.

    Attributes:
        program: Takes images as `RawImages` does.
        shape: (B, 3, H, W) of the images that it was traced with.
        open_axes: Names of those axes that may have any size.
        why_fixed: What kept other axes from being open; None where nothing did.
    """

    program: ExportedProgram
    shape: tuple[int, int, int, int]
    open_axes: tuple[str, ...]
    why_fixed: str | None


def trace(model: RawImages, size: tuple[int, int], *, fixed: bool = False) -> Graph:
    """Traces a model with as many open axes as it allows: batch, height and width; else batch; else none.

    Args:
        model: In evaluation mode.
        size: Height and width where they cannot stay open.
        fixed: Leave nothing open: one image of `size`.

    Returns:
        The graph.

    Raises:
        ConfigError: The model cannot be traced at all.
    """
    attempts = (((2, 3, *TRACED_SIZE), tuple(AXES)), ((2, 3, *size), (0,)), ((1, 3, *size), ()))
    why_fixed, error = None, None
    for shape, axes in attempts[2:] if fixed else attempts:
        try:
            return Graph(_traced(model, shape, axes), shape, tuple(AXES[axis] for axis in axes), why_fixed)
        except Exception as failure:  # a tracer raises whatever the model's own code raises on its stand-ins
            error = failure
            why_fixed = why_fixed or _first_line(failure)
    raise ConfigError(f"the model cannot be traced: {why_fixed}") from error


def _traced(model: RawImages, shape: tuple[int, ...], axes: tuple[int, ...]) -> ExportedProgram:
    images = torch.zeros(shape, device=model.mean.device)
    # Torch puts `patch` into this module while it is imported, which its source does not tell.
    shape_tracing: ModuleType = _config
    # A size that is 1 today, such as a batch of one image, must not be taken for one that is always 1. A failing trace
    # would print its whole graph.
    with torch.no_grad(), shape_tracing.patch(backed_size_oblivious=True), redirect_stderr(io.StringIO()):
        program = torch.export.export(model, (images,), dynamic_shapes=({axis: Dim.DYNAMIC for axis in axes},))
        # Open axes may yet be bound to each other or to a range; the program then refuses other sizes.
        other = [OTHER_SHAPE[axis] if axis in axes else size for axis, size in enumerate(shape)]
        program.module()(torch.zeros(other, device=model.mean.device))
    return program


def _first_line(error: Exception) -> str:
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "specialized" in line or "Guard failed" in line), (lines or [""])[0])
    return f"{type(error).__name__}: {said}"


def write_program(graph: Graph, path: Path, metadata: dict[str, str]) -> None:
    """Writes a graph as a program of torch.export, whole or not at all.

    `torch.export.load(path).module()` runs it, on the device that the model was on when it was traced.

    Args:
        graph: What to write.
        path: The file, of suffix .pt2.
        metadata: Texts that the file keeps; `torch.export.load` fills in `extra_files` with them.
    """
    with atomic_write(path) as unfinished:
        torch.export.save(graph.program, unfinished, extra_files=dict(metadata))


def load_program(path: Path) -> nn.Module:
    """Reads a program of torch.export back as a module that maps images to a tuple of maps.

    Args:
        path: A file of `write_program`; only read what you wrote or trust.
    """
    module: nn.Module = torch.export.load(path).module()
    return module
