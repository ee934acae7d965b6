"""What an ONNX file may hold, and who may write one. Whole exports are tested with the command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.random_values import randomised
from swin_dense.backbones import SwinClassifier, SwinTransformer
from swin_dense.backbones.classifier import PlainClassifier
from swin_dense.backbones.plain import PlainSwin
from swin_dense.errors import ConfigError
from swin_dense.export import graph as onnx
from swin_dense.export.deploy import deviations
from swin_dense.export.graph import Graph, trace
from swin_dense.export.models import Preprocessing, RawImages
from swin_dense.inference.segmentation import SegmentationInference
from swin_dense.records import Batch


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
    torch.testing.assert_close(onnx.OnnxModel(path)(images)[0], expected)
    assert [one.name for one in path.parent.iterdir()] == ["model.onnx"]


def test_a_file_of_a_fixed_size_takes_images_one_by_one_and_refuses_other_sizes(tmp_path: Path) -> None:
    class Doubled(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (2 * images,)

    fixed = trace(RawImages(Doubled(), Preprocessing((0.0,) * 3, (1.0,) * 3)).eval(), (2, 4), fixed=True)
    onnx.write_onnx(fixed, tmp_path / "model.onnx", ["doubled"], {})
    model = onnx.OnnxModel(tmp_path / "model.onnx")
    images = torch.arange(48.0).view(2, 3, 2, 4)
    torch.testing.assert_close(model(images)[0], 2 * images)
    with pytest.raises(ConfigError, match="fixed size 1x3x2x4 alone, not 1x3x4x2"):
        model(images[:1].transpose(2, 3))
    with pytest.raises(ConfigError, match="gives doubled, not logits"):
        onnx.whole_model(tmp_path / "model.onnx", ("cat",), ["logits"])


def test_a_file_of_logits_segments_as_the_model_does(tmp_path: Path) -> None:
    """On windows of another size than it was traced with, and mirrored."""

    class Small(nn.Module):
        align_corners = False

        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 8, stride=4, padding=2)

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (self.convolution(images),)

        def logits(self, images: Tensor) -> Tensor:
            return self(images.float() / 255)[0]

    model = randomised(Small())
    traced = trace(RawImages(model, Preprocessing((0.0,) * 3, (255.0,) * 3)).eval(), (64, 64))
    onnx.write_onnx(traced, tmp_path / "model.onnx", ["logits"], {"class_names": '["a", "b", "c", "d"]'})
    file = onnx.ExportedLogits(onnx.whole_model(tmp_path / "model.onnx", "abcd", ["logits"]), False)
    how = SegmentationInference(lambda size, ratio: size, crop_size=(32, 40), stride=(20, 30), flip=True)
    images = (255 * torch.rand(2, 3, 50, 70, generator=torch.Generator().manual_seed(0))).byte()
    batch = Batch(images, ((50, 70),) * 2, ((50, 70),) * 2, (1, 2), ("a", "b"))
    for ours, right in zip(how.predict(file, batch), how.predict(model, batch), strict=True):
        assert (ours.label_map == right.label_map).float().mean() > 0.999
    assert len(right.label_map.unique()) > 1


def test_swin_v2_is_written_for_images_of_any_size(tmp_path: Path) -> None:
    """Scaled cosines and the network of the position bias are in the file, and a classifier at its own size."""
    options = {"embed_dim": 8, "depths": (2, 1), "num_heads": (1, 2), "window_size": 4, "version": 2}
    backbone = randomised(SwinTransformer(**options, out_indices=(0, 1)))
    classifier = randomised(SwinClassifier(5, **options))
    raw = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    other = torch.randn(3, 3, 45, 70, generator=torch.Generator().manual_seed(0))
    for model, plain, images in (
        (backbone, PlainSwin(backbone), other),
        (classifier, PlainClassifier(classifier), other[:1, :, :45, :45]),
    ):
        is_backbone, path = model is backbone, tmp_path / f"{type(model).__name__}.onnx"
        graph = trace(RawImages(plain, raw).eval(), (45, 45), fixed=not is_backbone)
        assert graph.open_axes == (("batch", "height", "width") if is_backbone else ())
        onnx.write_onnx(graph, path, ["stage1", "stage2"] if is_backbone else ["logits"], {})
        with torch.inference_mode():
            expected = model(images) if is_backbone else (model(images),)
        for found, wanted in zip(onnx.OnnxModel(path)(images), expected, strict=True):
            assert (found - wanted).norm() <= 1e-4 * wanted.norm()


def test_split_and_factorized_attention_over_time_is_written_in_both_forms(tmp_path: Path) -> None:
    """Both designs in one module; e2e/test_video.py has the whole command, with joint attention."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for design in ("split", "factorized"):
                options = {"embed_dim": 8, "depths": (1,), "num_heads": (2,), "spatiotemporal_attention": design}
                self.add_module(design, SwinClassifier(5, window_size=(2, 2, 2), patch_size=(1, 4, 4), **options))

        def forward(self, clips: Tensor) -> tuple[Tensor, ...]:
            return tuple(design(clips) for design in self.children())

    whole, plain = randomised(Both()), Both()
    plain.split, plain.factorized = PlainClassifier(whole.split).eval(), PlainClassifier(whole.factorized).eval()
    model, reference = (RawImages(form, Preprocessing((0.0,) * 3, (1.0,) * 3)).eval() for form in (plain, whole))
    graph = trace(model, (5, 12, 20), any_size=False)
    assert graph.open_axes == ("batch",)
    onnx.write_onnx(graph, tmp_path / "both.onnx", ["split", "factorized"], {})
    clips = torch.randn(3, 5, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    for exported in (onnx.OnnxModel(tmp_path / "both.onnx"), graph.program.module()):
        for row in deviations(reference, exported, [clips], ["split", "factorized"]):
            assert row.relative < 1e-5, row


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


def test_int8_quantises_matrix_products(tmp_path: Path) -> None:
    import onnx as library

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (images @ self.weight,)

    product = RawImages(Product(), Preprocessing((0.0,) * 3, (255.0,) * 3)).eval()
    traced = trace(product, (8, 8), fixed=True)
    onnx.write_onnx(traced, tmp_path / "model.onnx", ["product"], {"model": "product"}, int8=True)
    model = library.load(tmp_path / "model.onnx")
    assert any(one.data_type == library.TensorProto.INT8 for one in model.graph.initializer)
    assert "product" in {one.value for one in model.metadata_props}
    images = 255 * torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    (right,) = product(images)
    (found,) = onnx.OnnxModel(tmp_path / "model.onnx")(images)
    assert 0 < (found - right).abs().max() < 0.05 * right.abs().max()
