"""What is measured of a backbone: variants, shapes, precisions and modes, and their cells in order of importance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch

from swin_dense.backbones import VARIANTS
from swin_dense.benchmark.peers import PEERS, check_names
from swin_dense.errors import ConfigError

VARYING = ((800, 1088), (640, 960), (480, 640), (736, 1120), (544, 832), (1216, 800), (672, 672), (800, 1344))
"""Sizes of batches as multi-scale training of detectors meets them."""

EXAMPLES = {"IMAGESxHEIGHTxWIDTH": "8x224x224", "CLIPSxFRAMESxHEIGHTxWIDTH": "1x32x224x224"}
"""Shapes, by their form."""

MODES = ("inference", "training")


class Precision(NamedTuple):
    """The type of products; whether the whole model has it, or autocast brings it; whether float32 may be TF32."""

    dtype: torch.dtype
    whole: bool = False
    tf32: bool = False


PRECISIONS = {
    "bf16": Precision(torch.bfloat16),
    "bf16-whole": Precision(torch.bfloat16, whole=True),
    "fp16": Precision(torch.float16),
    "fp16-whole": Precision(torch.float16, whole=True),
    "tf32": Precision(torch.float32, whole=True, tf32=True),
    "fp32": Precision(torch.float32, whole=True),
}
"""By name: "bf16" and "fp16" are autocast's, on float32 weights; "-whole" is a model converted as a whole."""


class Shape(NamedTuple):
    """A batch at one size, (H, W) or (T, H, W), or at each of several; one call runs all."""

    batch: int
    sizes: tuple[tuple[int, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Reads "8x224x224", "1x32x224x224" of clips, or "2xvarying" for `VARYING`."""
        batch, *sides = text.split("x")
        numbers = [int(part) for part in (batch, *sides) if part.isascii() and part.isdigit() and int(part) > 0]
        if sides == ["varying"] and len(numbers) == 1:
            return cls(numbers[0], VARYING)
        if len(numbers) not in (3, 4) or len(sides) != len(numbers) - 1:
            raise ConfigError(
                "--shapes takes IMAGESxHEIGHTxWIDTH, CLIPSxFRAMESxHEIGHTxWIDTH or IMAGESxvarying, e.g. 8x224x224, not "
                f'"{text}"'
            )
        return cls(numbers[0], (tuple(numbers[1:]),))

    def fits(self, variant: str) -> bool:
        """Whether these are images, or clips, as the variant takes them."""
        return len(self.sizes[0]) == len(VARIANTS[variant].window)


class Cell(NamedTuple):
    """What is measured at a time."""

    variant: str
    shape: str
    precision: str
    mode: str
    compiled: bool

    def __str__(self) -> str:
        """Such as "swin_tiny 8x224x224 bf16 inference, compiled"."""
        return f"{self.variant} {self.shape} {self.precision} {self.mode}, {'compiled' if self.compiled else 'eager'}"


@dataclass(frozen=True)
class BackboneSettings:
    """What is measured; `cells` puts it in order. The most important comes first in every list.

    Attributes:
        device: Where; None takes the best there is.
        variants: Names of backbones.
        shapes: Such as "8x224x224", or "2xvarying": eight sizes in each call.
        precisions: Keys of `PRECISIONS`.
        modes: "inference", "training" (forward and backward pass, without an optimizer).
        compile: Whether each cell is measured a second time with `torch.compile`.
        compile_mode: That of `torch.compile`.
        compile_limit: Seconds that a cell waits for contestants to compile; one that takes longer has failed there.
        peers: Keys of `PEERS`.
        repeats: Rounds.
        seconds_limit: After so many seconds no further cell is begun, and none waits for a contestant.
        threads: Of each contestant on a CPU; None leaves that to torch.
    """

    device: str | None = None
    variants: Sequence[str] = ("swin_tiny",)
    shapes: Sequence[str] = ("8x224x224", "1x800x1344")
    precisions: Sequence[str] = ("fp32", "bf16")
    modes: Sequence[str] = MODES
    compile: bool = False
    compile_mode: str = "default"
    compile_limit: float | None = None
    peers: Sequence[str] = tuple(PEERS)
    repeats: int = 5
    seconds_limit: float | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuses what there is not."""
        check_names(self, variants=VARIANTS, precisions=PRECISIONS, modes=MODES, peers=PEERS)
        shapes = [Shape.parse(shape) for shape in self.shapes]
        for variant in self.variants:
            if VARIANTS[variant].mixing != "attention":
                raise ConfigError(f"--variants: no peer has {variant}; name variants with attention")
            if not any(shape.fits(variant) for shape in shapes):
                form = "CLIPSxFRAMESxHEIGHTxWIDTH" if len(VARIANTS[variant].window) == 3 else "IMAGESxHEIGHTxWIDTH"
                raise ConfigError(f"--shapes: {variant} takes {form}, for instance {EXAMPLES[form]}")
        if self.repeats < 1:
            raise ConfigError("--repeats must be at least 1")

    def cells(self) -> list[Cell]:
        """All that fit together, the most important first: those that take the earliest of every list.

        Compiled cells take long to get ready, and count like those that take the third of a list.
        """
        compiled = (False, True) if self.compile else (False,)
        axes: list[Sequence[Any]] = [self.variants, self.shapes, self.precisions, self.modes, compiled]
        places = sorted(product(*(range(len(axis)) for axis in axes)), key=lambda place: sum(place) + place[-1])
        cells = [Cell(*(axis[place] for axis, place in zip(axes, one, strict=True))) for one in places]
        return [cell for cell in cells if Shape.parse(cell.shape).fits(cell.variant)]


GPU_DEFAULTS = {
    "variants": ("swin_tiny", "swin_base", "swin_small", "swin_large"),
    "shapes": ("64x224x224", "2x800x1344", "2xvarying", "256x224x224"),
    "precisions": ("bf16", "bf16-whole", "fp16", "tf32", "fp32"),
    "compile": True,
    "compile_limit": 75.0,
    "seconds_limit": 200.0,
}
"""What `BackboneSettings` are on a GPU unless said otherwise."""
