"""Graphs as ONNX files, and ONNX files run by onnxruntime."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from swin_dense.errors import ConfigError
from swin_dense.export.graph import AXES, INPUT, Graph
from swin_dense.files import atomic_write

OPSET = 18
"""Old enough for today's runtimes, and the first with all that a Swin needs."""

MOST_BYTES = 2**31 - 2**24
"""Of weights: an ONNX file is one protobuf message, which ends at 2 GiB, and the graph needs its part."""


def write_onnx(
    graph: Graph, path: Path, output_names: Sequence[str], metadata: dict[str, str], opset: int = OPSET
) -> None:
    """Writes a graph as an ONNX file, whole or not at all.

    Args:
        graph: What to write.
        path: The file, of suffix .onnx.
        output_names: Names of the maps; the input is called `INPUT`.
        metadata: Texts that the file keeps in its `metadata_props`.
        opset: Version of ONNX's operators.

    Raises:
        ConfigError: A package is missing, the weights are too large for one file, or an operator has no ONNX form.
    """
    _require_onnx()
    weights = sum(tensor.nbytes for tensor in graph.program.state_dict.values())
    if weights > MOST_BYTES:
        raise ConfigError(
            f"{path}: {weights / 2**30:.2f} GiB of weights do not fit into an ONNX file, which ends at 2 GiB; "
            "use --to torch-export"
        )
    names = {axis: name for axis, name in AXES.items() if name in graph.open_axes}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the exporter's own insides
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
        raise ConfigError(f"{path}: {error}".splitlines()[0]) from error
    assert program is not None
    program.model.metadata_props.update(metadata)
    with atomic_write(path) as unfinished:
        program.save(unfinished)


def onnx_session(path: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Loads an ONNX file into onnxruntime on the CPU.

    Args:
        path: The file.

    Returns:
        A function of images (B, 3, H, W) that returns the file's outputs.

    Raises:
        ConfigError: onnxruntime is not installed.
    """
    runtime = _require_onnx()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(output) for output in session.run(None, {INPUT: images.numpy()}))

    return run


def _require_onnx() -> ModuleType:
    try:
        for name in ("onnx", "onnxscript"):  # the exporter would import them later, with a less helpful message
            import_module(name)
        runtime = import_module("onnxruntime")
    except ImportError as error:
        raise ConfigError(f'{error.name} is not installed: pip install "swin-dense[export]"') from error
    return runtime
