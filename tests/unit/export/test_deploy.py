"""The command `export-onnx`: files that compute what the model computes, and a status that says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.commands import command
from swin_dense.backbones import VARIANTS, SwinVariant, create_backbone
from swin_dense.export.graph import OnnxModel, load_program
from swin_dense.export.models import IMAGENET
from swin_dense.weights import save_weights
from swin_dense.weights.files import read_metadata

SMALL = SwinVariant(8, (2, 1, 1, 1), (1, 1, 2, 2), window_size=4)


@pytest.fixture(scope="module", autouse=True)
def small_variant() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "small", SMALL)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    backbone = create_backbone("small")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    save_weights(backbone, path)
    assert read_metadata(path) == {}
    return path


def right_maps(weights: Path, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    from swin_dense.weights import load_weights

    backbone = create_backbone("small").eval()
    load_weights(backbone, weights)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (IMAGENET.mean, IMAGENET.std))
    with torch.no_grad():
        return backbone((images - mean) / std)


@pytest.fixture(scope="module")
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, dict[str, Any]]:
    """An ONNX file, checked with a tolerance that no other arithmetic can meet."""
    folder = tmp_path_factory.mktemp("onnx")
    pictures = folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(((50, 70), (90, 40))):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(pictures / f"{number}.png")
    path, words = folder / "small.onnx", ("--shape", "61x83", "--tolerance", "0", "--images", str(pictures))
    with pytest.MonkeyPatch.context() as patch:
        printed: list[dict[str, Any]] = []
        patch.setattr("swin_dense.cli.report.print_report", lambda record, *_, as_json: printed.append(record))
        status = command("export-onnx", "small", str(path), "--weights", str(weights), *words)
    return path, status, json.loads(json.dumps(printed[0], allow_nan=False))


def test_beyond_the_tolerance_the_status_is_1_and_the_report_is_whole(
    exported: tuple[Path, int, dict[str, Any]],
) -> None:
    path, status, record = exported
    assert (status, record["ok"], record["tolerance"]) == (1, False, 0.0)
    shapes = [[2, 3, 224, 224], [1, 3, 250, 310], [1, 3, 61, 83]]
    names = [f"stage{number}" for number in (1, 2, 3, 4)]
    assert [(row["shape"], row["output"]) for row in record["parity"]] == [(a, b) for a in shapes for b in names]
    assert all(0 < row["relative"] < 1e-5 for row in record["parity"])
    assert [Path(name).name for name in record["images"]] == ["0.png", "1.png", "0.png"]
    assert record["open_axes"] == ["batch", "height", "width"] and record["why_fixed"] is None


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (3, 3, 5, 7), (2, 3, 97, 130)])
def test_the_file_computes_the_backbone_at_any_size(
    exported: tuple[Path, int, dict[str, Any]], weights: Path, shape: tuple[int, ...]
) -> None:
    images = 255 * torch.rand(shape, generator=torch.Generator().manual_seed(5))
    for ours, right in zip(OnnxModel(exported[0])(images), right_maps(weights, images), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-5 * float(right.abs().max()))


def test_the_file_says_what_it_is(exported: tuple[Path, int, dict[str, Any]], weights: Path) -> None:
    import onnx

    model = onnx.load(exported[0])
    facts = {one.key: one.value for one in model.metadata_props}
    assert facts["input"] == "images: (batch, 3, height, width) float32, RGB in 0..255; normalised inside"
    assert model.graph.input[0].doc_string == facts["input"].removeprefix("images: ")
    assert (facts["model"], facts["part"], facts["weights"]) == ("small", "backbone", weights.name)
    assert facts["weights_sha256"] == exported[2]["weights_sha256"]
    assert json.loads(facts["mean"]) == list(IMAGENET.mean)
    assert [one["stride"] for one in json.loads(facts["outputs"])] == [4, 8, 16, 32]


def test_torch_export_fixed_to_one_image(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.pt2"
    words = ("--to", "torch-export", "--fixed", "--shape", "37x54", "--weights", str(weights))
    assert command("export-onnx", "small", str(path), *words) == 0
    said = capsys.readouterr().out
    assert "fixed: batch 1, height 37, width 54" in said
    assert "float32, RGB in 0..255; normalised inside" in " ".join(said.split())
    assert "generated images" in said and "1x3x37x54" in said
    images = 255 * torch.rand(1, 3, 37, 54, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        for ours, right in zip(load_program(path)(images), right_maps(weights, images), strict=True):
            torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("small", "x.onnx"), "--random-weights"),
        (("small", "x.onnx", "--weights", "y", "--random-weights"), "--random-weights"),
        (("small", "x.onnx", "--weights", "absent.pth"), "there is no file absent.pth"),
        (("smal", "x.onnx", "--random-weights"), 'did you mean "small"?'),
        (("small", "x.pt2", "--random-weights"), "add --to torch-export"),
        (("small", "x.onnx", "--random-weights", "--to", "onx"), 'did you mean "onnx"?'),
        (("small", "x.onnx", "--random-weights", "--part", "neck"), "small is a backbone alone"),
        (("small", "x.onnx", "--random-weights", "--part", "nek"), 'did you mean "neck"?'),
        (("small", "x.onnx", "--random-weights", "--images", "absent"), "absent"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("export-onnx", *words) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
