"""The command `visualize-features`, and what its heat maps are made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from swin_dense.backbones import VARIANTS, SwinVariant
from swin_dense.cli import main
from swin_dense.workflows.saliency import saliency_of

SMALL = SwinVariant(8, (2, 1, 1, 3), (1, 1, 2, 2), window_size=4)


@pytest.fixture(autouse=True)
def small_variant(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(VARIANTS, "small", SMALL)
    yield


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["visualize-features", *words])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_draws_every_picture_of_the_stages_asked_for(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--stage", "1", "--stage", "4", "--short-side", "48", "--random-weights", "--json")
    assert command("small", str(picture), "--output", str(tmp_path / "out"), *words) == 0
    record = json.loads(capsys.readouterr().out)
    names = {"pca", "gradcam", "attention_stage1", "bias_stage1", "attention_stage4", "bias_stage4"}
    assert {Path(name).stem for name in record["files"]} == names
    assert {path.stem for path in (tmp_path / "out").iterdir()} == names
    assert record["gradcam"] == "length of the mean feature vector of the last stage"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--stage", "5", "--random-weights"), "--stage 5: the backbone hands out stages 1, 2, 3, 4"),
        (("--window", "9,0", "--random-weights"), "--window 9,0: stage 1"),
        (("--window", "9", "--random-weights"), "--window takes ROW,COLUMN"),
        (("--class", "cat", "--random-weights"), "small is a backbone alone and knows no classes"),
        ((), "--random-weights"),
    ],
)
def test_a_mistake_is_one_message(
    words: tuple[str, ...], message: str, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("small", str(picture), "--short-side", "48", "--output", str(tmp_path / "out"), *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_heat_is_gradient_times_activation_of_each_place() -> None:
    saliency = saliency_of("small", None, None)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    block = saliency.backbone.blocks(2)[-1]
    kept: list[torch.Tensor] = []

    def keep(_block: torch.nn.Module, _inputs: object, tokens: torch.Tensor) -> None:
        tokens.retain_grad()
        kept.append(tokens)

    with block.register_forward_hook(keep):
        saliency.backbone(saliency.preprocess(image[None]))[-1].mean((2, 3)).norm().backward()
    (tokens,) = kept
    assert tokens.grad is not None
    heat = (tokens.grad * tokens).relu().sum(-1)[0].detach()
    found = saliency.explain(image, [block]).maps[0]
    assert found.shape == (64, 96)
    assert found.min() >= 0 and found.max() == pytest.approx(1, abs=1e-3)
    # The library enlarges the 4 x 6 cells; the order of the cells by heat stays.
    coarse = torch.nn.functional.interpolate(torch.from_numpy(found)[None, None], size=heat.shape, mode="area")[0, 0]
    assert int(coarse.argmax()) == int(heat.argmax())
    assert float(torch.corrcoef(torch.stack([coarse.flatten(), heat.flatten()]))[0, 1]) > 0.95
