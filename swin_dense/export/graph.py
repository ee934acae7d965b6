"""Graphs that run without this package: tracing, ONNX files and torch.export programs, written and run.

Shapes: B images, (H, W) pixels.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from swin_dense.errors import ConfigError, option
from swin_dense.export.models import RawImages
from swin_dense.files import atomic_write

AXES = {0: "batch", 2: "height", 3: "width"}
"""Axes of the input (B, 3, H, W) that may be left open, by position."""

INPUT = "images"
INPUT_IS = "(batch, 3, height, width) float32, RGB in 0..255; normalised inside"
CLIPS_ARE = "(batch, frames, 3, height, width) float32, RGB in 0..255; normalised inside"
"""What every file says about its input, which is called "images" where it is clips of videos, too."""

TRACED_SIZE = (864, 992)
"""Height and width while open axes are traced: larger than one window in every stage, so that no size is taken for 1.
Nothing of this size is computed."""

OTHER_SHAPE = (1, 3, 67, 93)
"""A shape to try open axes with."""

OPSET = 18
"""Of ONNX: old enough for today's runtimes, and the first with all that a Swin needs."""

MOST_BYTES = 2**31 - 2**24
"""Of weights: an ONNX file is one protobuf message, which ends at 2 GiB, and the graph needs its part."""


@dataclass(frozen=True)
class Graph:
    """A traced model.

    Attributes:
        program: Takes images as `RawImages` does.
        shape: (B, 3, H, W) of the images that it was traced with, or (B, T, 3, H, W) of clips.
        open_axes: Names of those axes that may have any size.
        why_fixed: What kept other axes from being open.
    """

    program: ExportedProgram
    shape: tuple[int, ...]
    open_axes: tuple[str, ...]
    why_fixed: str | None

    @property
    def input_is(self) -> str:
        """What a file says about its input."""
        return INPUT_IS if len(self.shape) == 4 else CLIPS_ARE


def shape_of(batch: int, size: Sequence[int]) -> tuple[int, ...]:
    """(B, 3, H, W) of images of this height and width, or (B, T, 3, H, W) of clips of these frames before them."""
    return (batch, *size[:-2], 3, *size[-2:])


def trace(model: RawImages, size: Sequence[int], *, fixed: bool = False, any_size: bool = True) -> Graph:
    """Traces a model with as many open axes as it allows: batch, height and width; else batch; else none.

    The model is in evaluation mode. Where height and width cannot stay open they are `size`; with `fixed`, nothing is,
    and the batch alone where the model does not take `any_size`.
    """
    attempts = ((shape_of(2, TRACED_SIZE), tuple(AXES)), (shape_of(2, size), (0,)), (shape_of(1, size), ()))
    why_fixed, error = None, None
    for shape, axes in attempts[2 if fixed else 0 if any_size else 1 :]:
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
    name = "backed_size_oblivious"  # which PyTorch 2.6 lacks
    oblivious = shape_tracing.patch(name, True) if hasattr(shape_tracing, name) else nullcontext()
    with torch.no_grad(), oblivious, redirect_stderr(io.StringIO()):
        dynamic_shapes = ({axis: Dim.DYNAMIC for axis in axes},)
        # Strict, as PyTorch 2.6 is by default, it would read mmdet's Python and not only run it.
        program = torch.export.export(model, (images,), dynamic_shapes=dynamic_shapes, strict=False)
        # Open axes may yet be bound to each other or to a range; the program then refuses other sizes.
        other = [OTHER_SHAPE[axis] if axis in axes else size for axis, size in enumerate(shape)]
        program.module()(torch.zeros(other, device=model.mean.device))
    # A file holds an example of the inputs, by which it refuses others: of one number, that takes no 20 MB.
    program.example_inputs = (images.new_zeros(()).expand(shape),), {}
    return program


def _first_line(error: BaseException) -> str:
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "specialized" in line or "Guard failed" in line), (lines or [""])[0])
    return f"{type(error).__name__}: {said}"


def write_program(graph: Graph, path: Path, metadata: dict[str, str]) -> None:
    """Writes a graph as a program of torch.export (.pt2), whole or not at all.

    `torch.export.load(path).module()` runs it, on the device that the model was on when it was traced, and fills in
    `extra_files` with the metadata.
    """
    with atomic_write(path) as unfinished, unfinished.open("wb") as file:  # torch hides what the system says of a path
        torch.export.save(graph.program, file, extra_files=dict(metadata))


def load_program(path: Path) -> nn.Module:
    """Reads a file of `write_program` as a module that maps images to a tuple of maps; only read what you trust."""
    module: nn.Module = torch.export.load(path).module()
    return module


def write_onnx(
    graph: Graph,
    path: Path,
    output_names: Sequence[str],
    metadata: dict[str, str],
    opset: int = OPSET,
    *,
    int8: bool = False,
) -> None:
    """Writes a graph as an ONNX file, whole or not at all, with the metadata and the form of the input in it.

    With `int8`, matrix products are quantised dynamically: weights are stored as int8, tokens become it as they come.
    """
    _require_onnx()
    weights = sum(tensor.nbytes for tensor in graph.program.state_dict.values())
    if weights > MOST_BYTES:
        raise ConfigError(
            f"{path}: {weights / 2**30:.2f} GiB of weights do not fit into an ONNX file, which ends at 2 GiB; "
            f"use {option('to', 'torch-export')}"
        )
    names = {axis: name for axis, name in AXES.items() if name in graph.open_axes}
    insides = logging.getLogger("onnx_ir")
    level = insides.level
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the exporter's own insides
            insides.setLevel(logging.ERROR)
            program = torch.onnx.export(
                graph.program,
                dynamo=True,
                input_names=[INPUT],
                output_names=list(output_names),
                dynamic_shapes=(names,) if names else None,
                opset_version=opset,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ConfigError(f"{path}: {_first_line(error.__cause__ or error)}") from error
    finally:
        insides.setLevel(level)
    assert program is not None
    program.model.metadata_props.update(metadata)
    if int8:  # or onnxruntime would ask for what the exporter has done: to infer shapes and to fold constants
        program.model.metadata_props["onnx.quant.pre_process"] = "onnxruntime.quant"
    program.model.graph.inputs[0].doc_string = graph.input_is
    with atomic_write(path) as unfinished:
        program.save(unfinished)
        if int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            products = ["MatMul", "Gemm"]  # convolutions of integers are slow on CPUs
            quantize_dynamic(unfinished, unfinished, op_types_to_quantize=products, weight_type=QuantType.QInt8)


class OnnxModel:
    """An ONNX file as a function of images (B, 3, H, W), or clips, run by onnxruntime on the CPU.

    Attributes:
        path: Of the file.
        shape: Of the input, a number for each axis that is fixed and a name for each that is open.
        output_names: Of what it returns.
        metadata: What the file says about itself.
    """

    def __init__(self, path: Path) -> None:
        """Reads the file.

        Raises:
            ConfigError: There is no such file, or onnxruntime cannot run it.
        """
        runtime = _require_onnx()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of classes that only its compiled part names
            raise ConfigError(f"{path}: onnxruntime cannot run it ({_first_line(error)})") from error
        self.path, self.shape = path, self._session.get_inputs()[0].shape
        self.output_names = [one.name for one in self._session.get_outputs()]
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Runs the file on float32 images; several where it takes one at a time, one after the other.

        Raises:
            ConfigError: The file has another fixed size.
        """
        if self.shape[0] == 1 and len(images) > 1:
            return tuple(map(torch.cat, zip(*(self(one) for one in torch.split(images, 1)), strict=True)))
        if any(isinstance(side, int) and side != given for side, given in zip(self.shape, images.shape, strict=True)):
            expected, given = ("x".join(map(str, sides)) for sides in (self.shape, images.shape))
            raise ConfigError(
                f"{self.path} takes images of the fixed size {expected} alone, not {given}: it says why with its "
                "metadata key why_fixed; give it images that are resized to that, or export it without a fixed size"
            )
        return tuple(torch.from_numpy(output) for output in self._session.run(None, {INPUT: images.numpy()}))


def whole_model(path: Path, class_names: Sequence[str], outputs: Sequence[str]) -> OnnxModel:
    """An ONNX file of a whole model of these classes, whose first outputs are these.

    Raises:
        ConfigError: It is no such file.
    """
    model = OnnxModel(path)
    if model.output_names[: len(outputs)] != list(outputs):
        names = ", ".join(model.output_names)
        raise ConfigError(f"{path} gives {names}, not {', '.join(outputs)}: only the same task's whole model is scored")
    named = json.loads(model.metadata.get("class_names", "[]"))
    if tuple(named) != tuple(class_names):
        known = ", ".join(named) or "no named classes"
        raise ConfigError(f"{path} finds {known}, and not {', '.join(class_names)}: it is of another model")
    return model


class ExportedLogits(nn.Module):
    """An exported file in the place of a segmenter or a classifier: `logits` gives the same."""

    def __init__(self, model: OnnxModel, align_corners: bool) -> None:
        """Takes a file whose only output are logits; `align_corners` is how a segmenter's are to be resized."""
        super().__init__()
        self.model, self.align_corners = model, align_corners
        self.network = nn.Module()  # without parameters, which are in the file

    def logits(self, images: Tensor) -> Tensor:
        """The logits of RGB images (B, 3, H, W), or clips (B, T, 3, H, W), in 0..255."""
        (logits,) = self.model(images.float().cpu())
        return logits.to(images.device)


def _require_onnx() -> ModuleType:
    try:
        for name in ("onnx", "onnxscript"):  # the exporter would import them later, with a less helpful message
            import_module(name)
        runtime = import_module("onnxruntime")
    except ImportError as error:
        raise ConfigError(f'{error.name} is not installed: pip install "swin-dense[export]"') from error
    return runtime
