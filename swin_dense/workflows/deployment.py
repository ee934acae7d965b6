"""Write a model as an ONNX file or a torch.export program, and compare what was written with the model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from swin_dense.config import Config
from swin_dense.data.scenes import draw_scene
from swin_dense.errors import ConfigError, nearest
from swin_dense.export.graph import INPUT, Graph, RawImages, load_program, trace, write_program
from swin_dense.export.models import weights_hash
from swin_dense.export.onnx import OPSET, onnx_session, write_onnx
from swin_dense.export.parity import Deviation, deviations
from swin_dense.images.finder import ImageFiles
from swin_dense.records import Size
from swin_dense.workflows.parts import ModelPart, load_part

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
"""What a model can be exported to, and how the file is called."""

CHECKED_SIZES = ((224, 224), (250, 310))
"""Height and width of the first two images that an export is checked on; the third has the size that was asked for."""

SCENE_SIDE = 256


def export_model(
    model: Config | str,
    output: Path,
    *,
    weights: Path | None,
    to: str = "onnx",
    part: str | None = None,
    size: Size = (800, 1280),
    fixed: bool = False,
    opset: int = OPSET,
    tolerance: float = 1e-4,
    images: Path | None = None,
) -> dict[str, Any]:
    """Exports a model and measures how far the written file is from it.

    The file takes `images`, (B, 3, H, W) float32 RGB in 0..255; normalisation and padding are inside.

    Args:
        model: A config, or the name of a backbone variant.
        output: The file, of the suffix that belongs to `to`.
        weights: Of the part; None exports random weights.
        to: A key of `SUFFIXES`.
        part: "backbone", "neck" (backbone and neck) or "whole" (a segmenter); None takes the most that there is.
        size: Height and width of the largest image that is checked, and of every image where they cannot stay open.
        fixed: Leave neither batch nor height nor width open.
        opset: Version of ONNX's operators.
        tolerance: Largest relative deviation that is well.
        images: Folder of the images to check on; None draws scenes.

    Returns:
        What was written and how it compares, ready for JSON: "ok" tells whether all deviations are within the
        tolerance, "open_axes" and "why_fixed" which sizes may vary.

    Raises:
        SwinDenseError: The model, the weights, the images or an option is wrong, or the model cannot be exported.
    """
    _check_output(output, to)
    names, pictures = _pictures(images)
    chosen = load_part(model, part, weights)
    reference = RawImages(chosen.module, chosen.preprocessing).eval()
    graph = trace(RawImages(chosen.traceable(), chosen.preprocessing).eval(), size, fixed=fixed)
    facts = _facts(chosen, graph, weights)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    if to == "onnx":
        write_onnx(graph, output, [one.name for one in chosen.outputs], texts, opset)
        exported: Any = onnx_session(output)
    else:
        write_program(graph, output, texts)
        exported = load_program(output)
    rows = deviations(reference, exported, _batches(pictures, graph, size), [one.name for one in chosen.outputs])
    return {
        "file": str(output),
        "to": to,
        **facts,
        "images": names,
        "tolerance": tolerance,
        "ok": all(row.relative <= tolerance for row in rows),
        "parity": [_row(row) for row in rows],
    }


def _check_output(output: Path, to: str) -> None:
    if to not in SUFFIXES:
        raise ConfigError(f'--to: unknown "{to}"; {nearest(to, SUFFIXES)}')
    if output.suffix != SUFFIXES[to]:
        other = next((name for name, suffix in SUFFIXES.items() if suffix == output.suffix), None)
        hint = f"add --to {other}, or " if other else ""
        raise ConfigError(f"{output}: --to {to} writes {SUFFIXES[to]} files; {hint}name the file *{SUFFIXES[to]}")
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; name a file")


def _facts(part: ModelPart, graph: Graph, weights: Path | None) -> dict[str, Any]:
    """What a user of the file must know; the file keeps it."""
    preprocessing = part.preprocessing
    return {
        "swin_dense_version": version("swin-dense"),
        "model": part.description,
        "part": part.name,
        "input": f"{INPUT}: (batch, 3, height, width) float32, RGB in 0..255; normalised inside",
        **asdict(preprocessing),
        "outputs": [asdict(one) for one in part.outputs],
        "open_axes": list(graph.open_axes),
        "traced_shape": list(graph.shape),
        "why_fixed": graph.why_fixed,
        "class_names": list(part.class_names),
        "weights": "random" if weights is None else weights.name,
        "weights_sha256": weights_hash(part.module),
        "not_in_weights": list(part.missing),
    }


def _pictures(folder: Path | None) -> tuple[list[str], list[Tensor]]:
    """Three uint8 images (3, H, W) with their names; of fewer files some come twice."""
    if folder is None:
        scenes = [draw_scene(np.random.default_rng(seed), SCENE_SIDE)[0] for seed in range(3)]
        return ["generated shapes"] * 3, [torch.from_numpy(scene).permute(2, 0, 1) for scene in scenes]
    files = ImageFiles([folder])
    samples = [files[index % len(files)] for index in range(3)]
    return [sample.file_name for sample in samples], [sample.image.as_subclass(Tensor) for sample in samples]


def _batches(pictures: Sequence[Tensor], graph: Graph, size: Size) -> list[Tensor]:
    """Batches at three sizes, the first of two images, as far as the axes of the graph are open."""
    sizes = (*CHECKED_SIZES, size) if "height" in graph.open_axes else (size,) * 3
    groups: list[Sequence[Tensor]] = [[picture] for picture in pictures]
    if "batch" in graph.open_axes:
        groups[0] = pictures[:2]
    return [
        torch.stack([functional.resize(picture, list(one), antialias=True).float() for picture in group])
        for group, one in zip(groups, sizes, strict=True)
    ]


def _row(row: Deviation) -> dict[str, Any]:
    """JSON has no infinity."""
    values = asdict(row)
    return {name: None if isinstance(value, float) and math.isinf(value) else value for name, value in values.items()}
