"""Write a model as an ONNX file or a torch.export program, and compare what was written with the model.

Shapes: B images, (H, W) pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional

from swin_dense.errors import ConfigError, nearest, option
from swin_dense.export.detections import OUTPUTS, DetectionDeviation, ExportedDetector, detection_deviations
from swin_dense.export.graph import (
    INPUT,
    OPSET,
    Graph,
    OnnxModel,
    load_program,
    shape_of,
    trace,
    write_onnx,
    write_program,
)
from swin_dense.export.models import ModelPart, RawImages, WholeDetector, traceable, weights_hash
from swin_dense.files import check_output_file
from swin_dense.images.finder import ImageFiles
from swin_dense.records import Size

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
"""What a model can be exported to, and how the file is called."""

CHECKED_SIZES = ((224, 224), (250, 310))
"""Height and width of the first two images that an export is checked on; the third has the size that was asked for."""

DEFAULT_SIZE = (800, 1280)
"""Height and width of the third, unless another size is asked for."""

DETECTOR_FACTS = ("short_side", "max_long_side", "mask_threshold")
"""What a user of a whole detector must know beside, by its name in `WholeDetector`."""

Model = Callable[[Tensor], Sequence[Tensor]]
"""Maps images (B, 3, H, W), float32 in 0..255, to maps."""


def export_model(
    part: ModelPart,
    output: Path,
    *,
    to: str = "onnx",
    size: Size | None = None,
    fixed: bool = False,
    opset: int | None = None,
    tolerance: float = 1e-4,
    images: Path | None = None,
    int8: bool = False,
) -> dict[str, Any]:
    """Exports a model and measures how far the written file is from it; the result is ready for JSON.

    The file takes `images`, (B, 3, H, W) float32 RGB in 0..255; normalisation and padding are inside. In the result
    "ok" says whether all deviations are within the tolerance, "open_axes" and "why_fixed" which sizes may vary.

    Args:
        part: The model, or a part of it.
        output: The file, of the suffix that belongs to `to`.
        to: A key of `SUFFIXES`.
        size: Height and width of the largest image that is checked, and of every image where they cannot stay open;
            None takes the model's own size, or 800 x 1280.
        fixed: Leave neither batch nor height nor width open.
        opset: Version of ONNX's operators; None takes the first that has all that the model needs.
        tolerance: Largest relative deviation that is accepted.
        images: Folder of the images to check on; None takes those of a detector's validation, if they are there, or
            generates some.
        int8: Quantise the matrix products of an ONNX file dynamically; it is a smaller and less exact file.
    """
    check_output(output, to)
    if int8 and to != "onnx":
        raise ConfigError(f"{option('int8')} is for ONNX files alone")
    if size is not None and part.size not in (None, size):
        raise ConfigError(f"a size of {size}: the model takes images of {part.size} pixels alone; leave it out")
    wanted = size or part.size or _default_size(part.detector)
    names, pictures = _pictures(images or (None if part.detector is None else part.detector.images))
    reference = RawImages(part.module, part.preprocessing).eval()
    graph = trace(
        RawImages(traceable(part.module), part.preprocessing).eval(),
        wanted,
        fixed=fixed,
        any_size=part.size is None,
    )
    facts = _facts(part, graph)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    output_names = _output_names(part)
    exported: Model
    if to == "onnx":
        opset = opset or (part.detector.opset if part.detector else OPSET)
        write_onnx(graph, output, output_names, texts, opset, int8=int8)
        exported = OnnxModel(output)
    else:
        write_program(graph, output, texts)
        exported = load_program(output)
    batches = _batches(pictures, graph, wanted)
    rows: Sequence[Deviation | DetectionDeviation]
    if part.detector is None:
        rows = deviations(reference, exported, batches, output_names)
    else:
        file = ExportedDetector(exported, part.detector.mask_threshold)
        rows = detection_deviations(part.detector.reference, file, batches)
    return {
        "file": str(output),
        "to": to,
        **facts,
        "images": names,
        "tolerance": tolerance,
        "ok": all(row.is_within(tolerance) for row in rows) and _is_compared(rows),
        "parity": [{**_row(row), "within": row.is_within(tolerance)} for row in rows],
    }


def check_output(output: Path, to: str) -> None:
    """Refuses a file name that does not belong to the format; cheap enough to be asked before a model is built."""
    if to not in SUFFIXES:
        raise ConfigError(f'unknown format "{to}"; {nearest(to, SUFFIXES)}')
    if output.suffix != SUFFIXES[to]:
        other = next((name for name, suffix in SUFFIXES.items() if suffix == output.suffix), None)
        hint = f"add {option('to', other)}, or " if other else ""
        raise ConfigError(f"{output}: {to} is written to {SUFFIXES[to]} files; {hint}name the file *{SUFFIXES[to]}")
    check_output_file(output)


def _facts(part: ModelPart, graph: Graph) -> dict[str, Any]:
    """What a user of the file must know; the file keeps it."""
    return {
        "swin_dense_version": version("swin-dense"),
        "model": part.description,
        "part": part.name,
        "input": f"{INPUT}: {graph.input_is}",
        **asdict(part.preprocessing),
        "outputs": [asdict(one) for one in part.outputs] or {name: OUTPUTS[name] for name in _output_names(part)},
        "open_axes": list(graph.open_axes),
        "traced_shape": list(graph.shape),
        "why_fixed": graph.why_fixed,
        "class_names": list(part.class_names),
        "weights": part.weights,
        "weights_sha256": weights_hash(part.module),
        "not_in_weights": list(part.missing),
        **({} if part.detector is None else {key: getattr(part.detector, key) for key in DETECTOR_FACTS}),
    }


def _output_names(part: ModelPart) -> list[str]:
    if part.detector is None:
        return [one.name for one in part.outputs]
    return [name for name in OUTPUTS if name != "masks" or part.detector.mask_threshold is not None]


def _default_size(detector: WholeDetector | None) -> Size:
    """That of an image in the shape 4 : 3 as the detector is tested on."""
    if detector is None:
        return DEFAULT_SIZE
    return detector.short_side, min(detector.short_side * 4 // 3, detector.max_long_side)


def _is_compared(rows: Sequence[Deviation | DetectionDeviation]) -> bool:
    """Whether there was anything to compare: a detector may have found nothing in any image."""
    return any(not isinstance(row, DetectionDeviation) or row.expected for row in rows)


def _pictures(folder: Path | None) -> tuple[list[str], list[Tensor]]:
    """Three uint8 images (3, H, W) with their names; of fewer files some come twice."""
    if folder is None:
        coarse = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
        smooth = interpolate(255 * coarse, (256, 256), mode="bilinear")
        return ["generated images"] * 3, list(smooth.round().to(torch.uint8))
    files = ImageFiles([folder])
    samples = [files[index % len(files)] for index in range(3)]
    return [sample.file_name for sample in samples], [sample.image.as_subclass(Tensor) for sample in samples]


def _batches(pictures: Sequence[Tensor], graph: Graph, size: Sequence[int]) -> list[Tensor]:
    """Batches at three sizes, the first of two images, as far as the axes of the graph are open."""
    sizes = (*CHECKED_SIZES, size) if "height" in graph.open_axes else (size,) * 3
    groups: list[Sequence[Tensor]] = [[picture] for picture in pictures]
    if "batch" in graph.open_axes:
        groups[0] = pictures[:2]
    return [torch.stack([_shown(picture, one) for picture in group]) for group, one in zip(groups, sizes, strict=True)]


def _shown(picture: Tensor, size: Sequence[int]) -> Tensor:
    """A picture as an image of this size, or, where frames come first, as a clip that moves to the right."""
    image = functional.resize(picture, list(size[-2:]), antialias=True).float()
    clip = torch.stack([image.roll(frame, -1) for frame in range(size[0])]) if len(size) == 3 else image
    assert clip.shape == shape_of(1, size)[1:]
    return clip


@dataclass(frozen=True)
class Deviation:
    """Of one output on one batch of images (B, 3, H, W).

    Attributes:
        shape: Of the images.
        output: Name of the output.
        absolute: Largest difference; infinite where a shape differs, or a value of one side is not finite.
        relative: That, as a part of the largest value.
    """

    shape: tuple[int, ...]
    output: str
    absolute: float
    relative: float

    def is_within(self, tolerance: float) -> bool:
        """Whether it deviates by no more than this part of the largest value."""
        return self.relative <= tolerance


def deviations(
    reference: Model, exported: Model, batches: Iterable[Tensor], output_names: Sequence[str]
) -> list[Deviation]:
    """Runs two models on the same images and compares each output: one row per batch and output."""
    rows = []
    for images in batches:
        with torch.no_grad():
            pairs = zip(output_names, reference(images), exported(images), strict=True)
            rows += [Deviation(tuple(images.shape), name, *_distance(right, ours)) for name, right, ours in pairs]
    return rows


def _distance(right: Tensor, ours: Tensor) -> tuple[float, float]:
    if right.shape != ours.shape or not bool(right.isfinite().all() and ours.isfinite().all()):
        return float("inf"), float("inf")
    absolute = float((right.double() - ours.double()).abs().max())
    largest = float(right.abs().max())
    return absolute, absolute / largest if largest else absolute and float("inf")


def _row(row: Deviation | DetectionDeviation) -> dict[str, Any]:
    """JSON has no infinity."""
    values = asdict(row)
    return {name: None if isinstance(value, float) and math.isinf(value) else value for name, value in values.items()}
