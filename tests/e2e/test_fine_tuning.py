"""From weights of other classes to one's own: what is re-initialised, what stays frozen, and that it is always said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.commands import REPOSITORY, answer, command, figures
from swin_dense.data.shapes import write_shapes
from swin_dense.openmmlab.segmentation import build_network
from swin_dense.training import DetectorModule
from swin_dense.weights import save_weights

PAGE = (REPOSITORY / "docs" / "fine-tuning.md").read_text()
CONFIG = "configs/demo/mask-rcnn_swin-nano_overfit.py"
SHORT = {
    "data.limit_images": 4,
    "augmentation.short_sides": [96],
    "augmentation.max_long_side": 128,
    "augmentation.test_short_side": 96,
    "augmentation.test_max_long_side": 128,
    "schedule.epochs": 8,
    "schedule.milestones": [7],
    "schedule.warmup_steps": 1,
    "training.validate_every": 4,
    "training.log_every": 1,
    "training.pictures": 1,
    "model.backbone.drop_path_rate": 0.2,
}
HEADS = ("roi_head.bbox_head.fc_cls", "roi_head.bbox_head.fc_reg", "roi_head.mask_head.conv_logits")
FROZEN = ("backbone.patch_embed.", "backbone.layers.0.", "backbone.layers.1.", "backbone.norm0.", "backbone.norm1.")
TUNING = {"model.backbone.frozen_stages": 2, "optimizer.layer_decay": 0.9, "training.ema_decay": 0.5}


def words(**overrides: object) -> list[str]:
    return [word for key, value in {**SHORT, **overrides}.items() for word in ("--set", f"{key}={value}")]


def train(data: str, run: str, *options: str, **overrides: object) -> int:
    return command("train", CONFIG, "--data", data, "--run", run, *options, *words(**overrides))


@pytest.fixture(scope="module")
def place(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with COCO, weights of its 80 classes, and three of them as a data set of their own."""
    place = tmp_path_factory.mktemp("fine_tuning")
    (place / "data").mkdir()
    (place / "data" / "coco").symlink_to(shared_data / "coco2017_tiny")
    (place / "configs").symlink_to(REPOSITORY / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        (script,) = [one for one in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "import json" in one]
        exec(compile(script, "fine-tuning.md", "exec"), {})
        assert train("data/coco", "runs/coco", **{"schedule.epochs": 1, "training.validate_every": 1}) == 0
    return place


@pytest.fixture(autouse=True)
def in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def tuned(place: Path) -> tuple[Path, str, list[set[str]]]:
    """A fine-tuning from the command line: its run, what it said, and what was in evaluation mode at each step."""
    evaluating = []
    step = DetectorModule.training_step

    def watched(self: DetectorModule, batch: Any, batch_idx: int) -> Any:
        evaluating.append({f"{name}." for name, module in self.network.named_modules() if not module.training})
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as inner:
        patch.chdir(place)
        inner.setattr(DetectorModule, "training_step", watched)
        said: list[str] = []
        inner.setattr("swin_dense.tasks.training.console.print", lambda text, **_: said.append(text))
        start = ["--weights", "runs/coco/weights.safetensors", "--new-classes"]
        assert train("data/three", "runs/three", *start, **TUNING) == 0
    return place / "runs" / "three", "\n".join(said), evaluating


def test_it_says_which_layers_are_re_initialised_and_why(tuned: tuple[Path, str, list[set[str]]]) -> None:
    (line,) = [line for line in tuned[1].splitlines() if line.startswith("re-initialised for")]
    assert "the 3 classes of the data (person, toilet, sink)" in line
    assert line.endswith(": " + ", ".join(HEADS))


def test_it_learns_and_can_be_evaluated_and_predicted(
    tuned: tuple[Path, str, list[set[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, *_ = tuned
    losses = figures(run, "train/loss")
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    weights = ["--weights", str(run / "weights.safetensors")]
    scores = answer(capsys, "evaluate", str(run / "config.py"), *weights, "--json")
    assert set(scores["bbox"]["per_class"]) == {"person", "sink", "toilet"}
    image = str(next(Path("data/three/val2017").iterdir()))
    assert command("predict", str(run / "config.py"), image, *weights, "--output", "predicted") == 0


def test_frozen_stages_keep_every_bit_and_everything_else_learns(
    place: Path, tuned: tuple[Path, str, list[set[str]]]
) -> None:
    """Though an average of the weights is kept, and though the run is interrupted and resumed."""
    run, _, evaluating = tuned
    before, after = load_file(place / "runs" / "coco" / "weights.safetensors"), load_file(run / "weights.safetensors")
    same = {name for name in before if name in after and torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith(FROZEN)}
    assert len(evaluating) == 8
    assert all({name for name in names if name.startswith("backbone.")} == evaluating[0] for names in evaluating)
    assert all(name.startswith(FROZEN) for name in evaluating[0])
    assert {"backbone.layers.0.blocks.1.", "backbone.layers.1.downsample.", "backbone.norm1."} <= evaluating[0]
    assert command("train", "--resume", str(run), "--set", "schedule.epochs=10") == 0
    resumed = torch.load(run / "last.ckpt", weights_only=True)
    state = {name.partition("network.")[2]: value for name, value in resumed["state_dict"].items()}
    assert resumed["global_step"] == 10
    assert all(torch.equal(before[name], state[name]) for name in before if name.startswith(FROZEN))
    groups = resumed["optimizer_states"][0]["param_groups"]
    assert sum(len(group["params"]) for group in groups) == sum(not key.startswith(FROZEN) for key in learning(after))
    assert len({group["lr"] for group in groups}) == 1 + 4  # heads and norms, and the blocks of two stages


def learning(state: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in state if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]


def test_heads_of_other_classes_are_refused_without_a_word_about_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("data/three", "runs/refused", "--weights", "runs/coco/weights.safetensors") == 2
    message = capsys.readouterr().err
    assert "was trained on 80 classes (person, bicycle, car, motorcycle, airplane, ...)" in message
    assert ", ".join(HEADS) in message and "--new-classes" in message
    assert not Path("runs/refused").exists()


@pytest.mark.parametrize("option", ["", "--same-classes", "--new-classes"])
def test_as_many_classes_with_other_names_are_other_classes(
    tuned: tuple[Path, str, list[set[str]]], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = Path("data/renamed")
    if not renamed.exists():
        (renamed / "annotations").mkdir(parents=True)
        for split in ("train2017", "val2017"):
            (renamed / split).symlink_to(Path("data/coco", split).resolve())
            text = Path("data/three/annotations", f"instances_{split}.json").read_text()
            (renamed / "annotations" / f"instances_{split}.json").write_text(text.replace('"toilet"', '"sofa"'))
    run, weights = f"runs/renamed{option}", str(tuned[0] / "weights.safetensors")
    options = [word for word in ("--weights", weights, option) if word]
    status = train("data/renamed", run, *options, **{"schedule.epochs": 1, "training.validate_every": 1})
    said = capsys.readouterr().err
    assert status == (0 if option else 2)
    assert ("re-initialised for" in said) == (option == "--new-classes")
    if not option:
        assert "3 classes (person, toilet, sink)" in said and "3 classes of the data (person, sofa, sink)" in said


def test_segmenters_are_fine_tuned_in_the_same_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from swin_dense.config import load_config

    data, config = (
        write_shapes(tmp_path / "shapes", train=4, val=1, size=64),
        "configs/demo/upernet_swin-nano_shapes.py",
    )
    start = build_network(load_config(config).model, 150)
    save_weights(start, tmp_path / "ade.safetensors")
    changes = {
        "schedule.steps": 2,
        "training.validate_every": 2,
        "data.num_workers": 0,
        "model.backbone.frozen_stages": 1,
        "optimizer.layer_decay": 0.9,
    }
    options = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    options = ["--data", str(data / "ade20k"), "--weights", str(tmp_path / "ade.safetensors"), *options]
    assert command("train", config, *options, "--run", str(tmp_path / "refused")) == 2
    assert "pass --new-classes" in capsys.readouterr().err
    assert command("train", config, *options, "--run", str(tmp_path / "run"), "--new-classes") == 0
    (line,) = (one for one in capsys.readouterr().err.splitlines() if one.startswith("re-initialised for"))
    assert line.endswith(": decode_head.conv_seg, auxiliary_head.conv_seg")
    after = load_file(tmp_path / "run" / "weights.safetensors")
    before = start.state_dict()
    frozen = [name for name in before if name.startswith(("backbone.patch_embed.", "backbone.layers.0."))]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(
        before["backbone.layers.3.blocks.1.mlp.fc1.bias"], after["backbone.layers.3.blocks.1.mlp.fc1.bias"]
    )


def test_what_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("data/three", "runs/none", "--new-classes") == 2
    assert "name it" in capsys.readouterr().err
    assert train("data/three", "runs/none", **{"model.backbone.frozen_stages": 1}) == 2
    assert "freezes random weights; pass --weights FILE" in capsys.readouterr().err
