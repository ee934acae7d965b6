"""Video classification from the command line: train, resume, evaluate, predict, on one process and on two."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import swin_dense
from helpers.commands import REPOSITORY, answer, assert_same_bits, command, figures, losses, stopped
from helpers.ranks import together
from swin_dense.backbones import create_classifier
from swin_dense.data.moving_shapes import MOTIONS, write_moving_shapes
from swin_dense.training import VideoClassifierModule
from swin_dense.videos.reader import VideoFile
from swin_dense.weights import save_weights

CONFIG = REPOSITORY / "configs" / "demo" / "swin3d-nano_overfit.py"
SHORT = [
    "data.train={'videos': 'train'}",
    "data.val={'videos': 'val'}",
    "data.batch_size=4",
    "data.frames=6",
    "data.stride=2",
    "augmentation.size=32",
    "augmentation.short_side=36",
    "augmentation.rand_augment=[2, 9]",
    "augmentation.erase_probability=0.5",
    "augmentation.label_smoothing=0.1",
    "optimizer.backbone_factor=0.1",
    "schedule.epochs=2",
    "model.backbone.depths=[1, 1]",
    "model.backbone.num_heads=[2, 4]",
    "model.backbone.drop_path_rate=0.2",
    "model.head.dropout=0.5",
    "training.validate_every=1",
    "training.log_every=1",
    "training.pictures=1",
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving_shapes(tmp_path_factory.mktemp("data") / "videos", train=3, val=1, size=48)


def arguments(videos: Path, run: Path, *overrides: str) -> list[str]:
    sets = [word for override in (*SHORT, *overrides) for word in ("--set", override)]
    return ["train", str(CONFIG), "--data", str(videos), "--run", str(run), *sets]


@pytest.fixture(scope="module")
def finished(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained from a model of images, whose weights are inflated."""
    root = tmp_path_factory.mktemp("runs")
    images = create_classifier("swin_nano", 9, depths=(1, 1), num_heads=(2, 4))
    save_weights(images, root / "2d.safetensors")
    start = ("--weights", str(root / "2d.safetensors"), "--new-classes")
    assert command(*arguments(videos, root / "whole"), *start) == 0
    return root / "whole"


def test_an_interrupted_run_resumes_to_the_same_bits(finished: Path, videos: Path, tmp_path: Path) -> None:
    steps = len(losses(finished)) // 2
    assert steps == 3 and len(figures(finished, "val/top1")) == 2
    assert len(list((finished / "pictures").glob("*.png"))) == 1 and (finished / "curves.png").is_file()
    with stopped(VideoClassifierModule, lambda module, _: module.global_step == steps + 1):
        start = ("--weights", str(finished.parent / "2d.safetensors"), "--new-classes")
        assert command(*arguments(videos, tmp_path / "run"), *start) == 130
    assert command("train", "--resume", str(tmp_path / "run")) == 0
    assert_same_bits(tmp_path / "run", finished)


def test_views_are_averaged_once_per_video(
    finished: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `evaluate` and `predict` give is the mean over clips and crops, cut out here by hand."""
    scores = answer(capsys, "evaluate", str(finished), "--json", "--set", "inference.clips=4")
    assert sum(one["images"] for one in scores["per_class"].values()) == len(MOTIONS)

    model = swin_dense.load(finished, device="cpu", overrides=["inference.clips=3", "inference.view_batch_size=2"])
    path = next(videos.glob("val/zoom/*.mp4"))
    found = model.predict(str(path))
    frames = VideoFile(path).read(range(24), 32)  # 24 frames of 32 x 32: three clips of 12 frames at 2, 6, 10
    logits = [model.module.logits(frames[start : start + 12 : 2][None]) for start in (2, 6, 10)]
    expected = torch.cat(logits).softmax(1).mean(0)
    torch.testing.assert_close(found.probabilities, expected.detach(), rtol=1e-5, atol=1e-6)
    assert found.image.shape == (18, 3, 32, 32) and len(found.timeline()) == 2
    in_memory = model.predict([VideoFile(path).read(range(24))])[0]
    torch.testing.assert_close(in_memory.probabilities, found.probabilities, rtol=1e-4, atol=1e-5)

    output = tmp_path / "found"
    assert command("predict", str(finished), str(videos / "val"), "--output", str(output)) == 0
    rows = json.loads((output / "predictions.json").read_text())
    assert len(rows) == len(MOTIONS) and all(len(row["seconds"]) == 2 for row in rows)
    assert len(list(output.glob("*_timeline.png"))) == len(MOTIONS)
    right = np.mean([row["classes"][0] == Path(row["file_name"]).parent.name for row in rows])
    capsys.readouterr()
    assert answer(capsys, "evaluate", str(finished), "--json")["top1"] == pytest.approx(right)


def test_the_report_is_complete(finished: Path, tmp_path: Path) -> None:
    assert command("report", str(finished), "--output", str(tmp_path / "report.html")) == 0
    page = (tmp_path / "report.html").read_text()
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert titles == ["Scores", "Training", "Classes", "Errors", "Images", "Record"]
    said = ["4 videos of 4 classes", "training loss", ">validation<", "calibration error (ECE)", "% of the videos"]
    said += ["accuracy by threshold", "seconds per video", "swin-dense", "optimizer.backbone_factor", *MOTIONS]
    assert [one for one in said if one not in page] == []
    assert page.count("data:image/jpeg") == len(MOTIONS)  # each video, right or wrong


def test_it_is_exported_whole_and_looked_into(
    finished: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = answer(capsys, "export-onnx", str(finished), str(tmp_path / "video.onnx"), "--json")
    assert report["ok"] and report["traced_shape"] == [2, 6, 3, 32, 32] and report["open_axes"] == ["batch"]
    assert report["input"].startswith("images: (batch, frames, 3, height, width)")
    assert report["class_names"] == sorted(MOTIONS)
    assert command("export-onnx", str(finished), str(tmp_path / "video.pt2"), "--to", "torch-export") == 0
    assert "(batch, frames, 3, height, width)" in " ".join(capsys.readouterr().out.split())
    score = answer(capsys, "evaluate", str(finished), "--onnx", str(tmp_path / "video.onnx"), "--json")
    assert score == answer(capsys, "evaluate", str(finished), "--json")
    video = str(next(videos.glob("val/horizontal/*.mp4")))
    pictures = ["--output", str(tmp_path / "pictures"), "--window", "0,0,0", "--class", "horizontal", "--json"]
    assert command("visualize-features", str(finished), video, *pictures) == 0
    capsys.readouterr()
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {"gradcam.png", "attention_stage1.png", "attention_stage2.png"}


def test_two_processes_train_and_score_as_one(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without randomness inside a step, two clips on each of two ranks are four of one."""
    plain = ["schedule.epochs=1", "model.backbone.drop_path_rate=0.0", "model.head.dropout=0.0", "data.batch_size=2"]
    score = ["evaluate", str(tmp_path / "two"), "--json", "--devices"]
    trained, scored = together([*arguments(videos, tmp_path / "two", *plain), "--devices", "2"], [*score, "2"])
    assert (trained.status, scored.status) == (0, 0), trained.err + scored.err
    assert command(*arguments(videos, tmp_path / "one", *plain, "training.accumulate=2"), "--devices", "1") == 0
    first, second = (load_file(tmp_path / run / "weights.safetensors") for run in ("one", "two"))
    for name, wanted in first.items():
        assert torch.allclose(second[name], wanted, atol=2e-4), name
    capsys.readouterr()
    assert command(*score, "1") == 0
    assert json.loads(scored.out) == json.loads(capsys.readouterr().out)
