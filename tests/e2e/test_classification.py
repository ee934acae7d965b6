"""Classification from the command line: train, resume, evaluate, predict, export, look, on one process and on two."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import swin_dense
from helpers.commands import REPOSITORY, answer, assert_same_bits, command, figures, losses, stopped
from helpers.ranks import together
from helpers.shards import write_split
from swin_dense.backbones import create_backbone
from swin_dense.data.shapes import CLASS_NAMES, write_shapes
from swin_dense.images.store import ImageStore
from swin_dense.training import ClassifierModule
from swin_dense.weights import load_weights

CONFIG = REPOSITORY / "configs" / "demo" / "swin-nano_shapes.py"
SHORT = [
    "data.batch_size=8",
    "data.num_workers=0",
    "schedule.epochs=3",
    "model.backbone.depths=[1, 1, 2, 1]",
    "training.log_every=1",
    "training.pictures=2",
]
OFFICIAL = [
    "augmentation.rand_augment='rand-m9-mstd0.5-inc1'",
    "augmentation.erase_probability=0.5",
    "augmentation.mixup=0.8",
    "augmentation.cutmix=1.0",
    "model.backbone.drop_path_rate=0.2",
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=8, val=6) / "imagenet"


@pytest.fixture(scope="module")
def shards(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images in the same order, as `datasets` saves them."""
    root, classes = tmp_path_factory.mktemp("shards"), sorted(CLASS_NAMES)
    for split in ("train", "val"):
        names = ImageStore(images / split).names((".jpg",))
        rows = [(name, (images / split / name).read_bytes(), classes.index(name.split("/")[0])) for name in names]
        write_split(root, "arrow", split, rows, classes, files=2)
    return root


def arguments(images: Path, run: Path, *overrides: str) -> list[str]:
    sets = [word for override in (*SHORT, *overrides) for word in ("--set", override)]
    return ["train", str(CONFIG), "--data", str(images), "--run", str(run), *sets]


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained with all that the official recipe does to images."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert command(*arguments(images, run, *OFFICIAL)) == 0
    return run


def test_an_interrupted_run_resumes_to_the_same_bits(finished: Path, shards: Path, tmp_path: Path) -> None:
    """From shards, too, to those of the run from folders."""
    steps = len(losses(finished)) // 3
    assert steps > 1 and len(figures(finished, "val/top1")) == 3
    assert len(list((finished / "pictures").glob("*.png"))) == 2 and (finished / "curves.png").is_file()
    with stopped(ClassifierModule, lambda module, _: module.global_step == steps + 1):
        assert command(*arguments(shards, tmp_path / "run", *OFFICIAL)) == 130
    assert command("train", "--resume", str(tmp_path / "run")) == 0
    assert_same_bits(tmp_path / "run", finished)


def test_its_weights_drop_into_any_backbone_and_start_a_training_of_other_classes(
    finished: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = load_weights(create_backbone("swin_nano", depths=(1, 1, 2, 1)), finished / "weights.safetensors")
    assert {note.reason for note in report.skipped} == {"head of a classifier", "last norm of a classifier"}
    assert not report.converted
    (tmp_path / "classes.txt").write_text("\n".join([*sorted(CLASS_NAMES), "hexagon"]))
    start = [
        "--weights",
        str(finished / "weights.safetensors"),
        "--set",
        f"data.classes={str(tmp_path / 'classes.txt')!r}",
    ]
    words = [*arguments(images, tmp_path / "run", "schedule.epochs=1"), *start]
    assert command(*words) == 2
    assert "head do not fit the 7 classes" in capsys.readouterr().err
    assert command(*words, "--new-classes") == 0
    assert "re-initialised for the 7 classes" in capsys.readouterr().err


def test_predictions_score_what_evaluate_gives_in_every_form(
    finished: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = answer(capsys, "evaluate", str(finished), "--json")
    for batch_size in ("1", "5"):
        output = ["--output", str(tmp_path / batch_size), "--batch-size", batch_size]
        assert command("predict", str(finished), str(images / "val"), *output) == 0
    rows = json.loads((tmp_path / "1" / "predictions.json").read_text())
    assert all(len(row["classes"]) == 5 and sum(row["probabilities"]) <= 1.0001 for row in rows)
    again = json.loads((tmp_path / "5" / "predictions.json").read_text())
    assert [row["classes"][0] for row in rows] == [row["classes"][0] for row in again]
    with (tmp_path / "1" / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["class1"] for row in table] == [row["classes"][0] for row in rows]

    names = [Path(row["file_name"]).relative_to(images / "val").as_posix() for row in rows]
    (tmp_path / "truth.txt").write_text("".join(f"{name} {name.split('/')[0]}\n" for name in names))
    (tmp_path / "classes.txt").write_text("\n".join(sorted(CLASS_NAMES)))
    capsys.readouterr()
    truth = ["--gt", str(tmp_path / "truth.txt"), "--classes", str(tmp_path / "classes.txt"), "--json"]
    assert command("evaluate", *truth, "--predictions", str(tmp_path / "1" / "predictions.csv")) == 0
    assert json.loads(capsys.readouterr().out) == scores
    assert (
        answer(capsys, "evaluate", str(finished), "--predictions", str(tmp_path / "written.json"), "--json") == scores
    )
    assert [row["classes"] for row in json.loads((tmp_path / "written.json").read_text())] == [
        row["classes"] for row in rows
    ]
    assert command("evaluate", *truth, "--predictions", str(tmp_path / "written.json")) == 0
    assert json.loads(capsys.readouterr().out) == scores
    listed = ["--set", f"data.val.labels={str(tmp_path / 'truth.txt')!r}"]
    assert answer(capsys, "evaluate", str(finished), *listed, "--json") == scores


def test_python_gives_probabilities_and_features_whose_mean_the_head_sees(finished: Path, images: Path) -> None:
    model = swin_dense.load(finished, device="cpu")
    photo = next((images / "val" / "star").iterdir())
    found = model.predict(photo)
    assert float(found.probabilities.sum()) == pytest.approx(1, abs=1e-5) and found.name == found.top(1)[0][0]
    assert found.draw().size >= (640, 640) and len(found.to_supervision().class_id) == 6
    seen = model.inference.view(swin_dense.models.read_image(photo))
    with torch.inference_mode():
        maps = model.feature_model()(seen[None])
        logits = model.module.network.head(maps[-1].mean((2, 3)))
    assert [tuple(one.shape[1:]) for one in maps] == [(32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)]
    assert torch.allclose(logits.softmax(-1)[0], found.probabilities, atol=1e-5)


def test_it_is_exported_whole_and_explained(
    finished: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = answer(capsys, "export-onnx", str(finished), str(tmp_path / "model.onnx"), "--json")
    assert record["ok"] and record["open_axes"] == ["batch"] and record["traced_shape"][2:] == [64, 64]
    assert record["class_names"] == sorted(CLASS_NAMES)
    for words in ([], ["--onnx", str(tmp_path / "model.onnx")]):
        predictions = ["--predictions", str(tmp_path / f"{len(words)}.json")]
        assert command("evaluate", str(finished), *words, *predictions) == 0
    ours, theirs = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (2, 0))
    assert ours and [one["classes"] for one in ours] == [one["classes"] for one in theirs]
    capsys.readouterr()
    assert command("export-onnx", str(finished), str(tmp_path / "model.onnx"), "--shape", "96x96") == 2
    photo = str(next((images / "val" / "star").iterdir()))
    words = ["visualize-features", str(finished), photo, "--output", str(tmp_path / "pictures"), "--short-side", "64"]
    assert answer(capsys, *words, "--class", "star", "--json")["gradcam"] == "logit of star"
    assert (tmp_path / "pictures" / "gradcam.png").is_file()


def test_two_processes_train_and_score_as_one(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two batches make a step, on one process or on two; nothing is drawn that differs between ranks."""
    plain = ["data.batch_size=4", "schedule.epochs=1"]
    score = ["evaluate", str(tmp_path / "two"), "--json", "--devices"]
    trained, scored = together([*arguments(images, tmp_path / "two", *plain), "--devices", "2"], [*score, "2"])
    assert (trained.status, scored.status) == (0, 0), trained.err + scored.err
    assert command(*arguments(images, tmp_path / "one", *plain, "training.accumulate=2"), "--devices", "1") == 0
    first, second = (load_file(tmp_path / run / "weights.safetensors") for run in ("one", "two"))
    for name, wanted in first.items():
        assert torch.allclose(second[name], wanted, atol=2e-4), name
    capsys.readouterr()
    assert command(*score, "1") == 0
    assert json.loads(scored.out) == json.loads(capsys.readouterr().out)
