"""What an ONNX file may hold, and who may write one. Whole exports are tested with the command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from swin_dense.errors import ConfigError
from swin_dense.export import graph as onnx
from swin_dense.export.graph import Graph, trace
from swin_dense.export.models import Preprocessing, RawImages


@pytest.fixture(scope="module")
def graph() -> Graph:
    class Doubled(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (2 * images,)

    return trace(RawImages(Doubled(), Preprocessing((1.0, 2.0, 3.0), (1.0, 1.0, 2.0))).eval(), (8, 8))


def test_keeps_names_open_axes_and_metadata(graph: Graph, tmp_path: Path) -> None:
    import onnx as library

    path = tmp_path / "new" / "model.onnx"
    onnx.write_onnx(graph, path, ["doubled"], {"class_names": "[]"})
    model = library.load(path)
    (given,), (output,) = model.graph.input, model.graph.output
    assert [one.dim_param or one.dim_value for one in given.type.tensor_type.shape.dim] == [
        "batch",
        3,
        "height",
        "width",
    ]
    assert (given.name, output.name) == ("images", "doubled")
    assert {one.key: one.value for one in model.metadata_props} == {"class_names": "[]"}
    assert [one.version for one in model.opset_import] == [onnx.OPSET]
    images = torch.arange(24.0).view(1, 3, 2, 4)
    expected = 2 * (images - torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)) / torch.tensor([1.0, 1.0, 2.0]).view(3, 1, 1)
    torch.testing.assert_close(onnx.onnx_session(path)(images)[0], expected)
    assert [one.name for one in path.parent.iterdir()] == ["model.onnx"]


def test_refuses_more_than_one_file_can_hold(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "MOST_BYTES", 20)
    with pytest.raises(ConfigError, match='2 GiB; use to="torch-export"'):
        onnx.write_onnx(graph, tmp_path / "model.onnx", ["doubled"], {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_says_how_to_install_what_is_missing(
    graph: Graph, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"swin-dense\[export\]"):
        onnx.write_onnx(graph, tmp_path / "model.onnx", ["doubled"], {})
