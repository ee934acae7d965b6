"""Predicting with a real detector: batches, mirror images, interruptions. Its weights are random, but it is sure."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle_codec
from torchvision import tv_tensors

from helpers.commands import REPOSITORY, command
from swin_dense.config import Config, load_config
from swin_dense.config.detection import DetectionConfig
from swin_dense.errors import TrainingInterruptedError
from swin_dense.inference.detection import DetectionInference
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.records import Detections, Sample, collate
from swin_dense.tasks.detection import inference
from swin_dense.tasks.run_folder import held
from swin_dense.weights import save_weights

CONFIG = REPOSITORY / "configs" / "demo" / "mask-rcnn_swin-nano_shapes.py"
SIZES = [(90, 60), (60, 90), (60, 90), (80, 80), (60, 90)]
AUGMENTED = ["inference.flip=True", "inference.scales=[0.75, 1.0]"]
SHORT = [
    "data.num_workers=0",
    "augmentation.test_short_side=96",
    "augmentation.test_max_long_side=128",
    "model.test_cfg.rcnn.score_thr=0.2",
]


def settings(*overrides: str) -> DetectionConfig:
    config: Config = load_config(CONFIG, [*SHORT, *overrides])
    assert isinstance(config, DetectionConfig)
    return config


@pytest.fixture(scope="module")
def detector() -> OpenMMLabDetector:
    """Random weights, of which those that decide are large, so that no two boxes are almost equally good."""
    torch.manual_seed(1)
    detector = OpenMMLabDetector(settings().model, num_classes=6).eval()
    with torch.no_grad():
        detector.network.roi_head.bbox_head.fc_cls.weight *= 8
        detector.network.rpn_head.rpn_cls.weight *= 40
    return detector


@pytest.fixture(scope="module")
def weights(detector: OpenMMLabDetector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    labels = {"class_names": [f"shape {i}" for i in range(6)], "category_ids": list(range(1, 7))}
    metadata = {name: json.dumps(value) for name, value in labels.items()}
    save_weights(detector.network.state_dict(), path, metadata=metadata)
    return path


def noise(size: tuple[int, int], seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, 3) coarse colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i, size in enumerate(SIZES):
        Image.fromarray(noise(size, i)).save(folder / f"{i}.png")
    return folder


def predict(folder: Path, weights: Path, output: Path, *options: str, overrides: list[str] | None = None) -> int:
    sets = [word for one in [*SHORT, *(overrides or [])] for word in ("--set", one)]
    return command(
        "predict", str(CONFIG), str(folder), "--weights", str(weights), "--output", str(output), *sets, *options
    )


def rows_in(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((output / "predictions.json").read_text())
    return rows


@pytest.mark.parametrize("overrides", [[], AUGMENTED], ids=["one view", "augmented"])
def test_no_result_depends_on_the_size_of_a_batch(
    folder: Path, weights: Path, tmp_path: Path, overrides: list[str]
) -> None:
    """To the rounding of float32: a batch and a single image are multiplied in different orders."""
    for size in ("1", "4"):
        assert predict(folder, weights, tmp_path / size, "--batch-size", size, overrides=overrides) == 0
    alone, together = rows_in(tmp_path / "1"), rows_in(tmp_path / "4")
    assert len(alone) == len(together) >= 50
    for one, other in zip(alone, together, strict=True):
        for key in ("image_id", "category_id"):
            assert one[key] == other[key]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
        masks = [{**row["segmentation"], "counts": row["segmentation"]["counts"].encode()} for row in (one, other)]
        shared, either = (rle_codec.area(rle_codec.merge(masks, intersect=both)) for both in (True, False))
        assert either - shared <= 2


def find(detector: OpenMMLabDetector, how: DetectionInference, pixels: np.ndarray[Any, Any]) -> Detections:
    image = tv_tensors.Image(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    return how.predict(detector, collate([Sample(image, 0, "", (pixels.shape[0], pixels.shape[1]))]))[0]


def test_with_flip_the_mirror_image_has_the_mirrored_objects(detector: OpenMMLabDetector) -> None:
    """To the last bit where nothing is resized."""
    one_view = settings("augmentation.test_short_side=60", "augmentation.test_max_long_side=90")
    pixels = noise((60, 90), 3)
    both_ways = inference(replace(one_view.inference, flip=True), one_view.augmentation, 1)
    plain, mirrored = (find(detector, both_ways, one) for one in (pixels, pixels[:, ::-1]))
    alone = find(detector, inference(one_view.inference, one_view.augmentation, 1), pixels)
    assert len(plain) == len(mirrored) > len(alone) > 10
    assert torch.equal(plain.labels, mirrored.labels) and torch.equal(plain.scores, mirrored.scores)
    x1, y1, x2, y2 = mirrored.boxes.unbind(1)
    torch.testing.assert_close(plain.boxes, torch.stack([90 - x2, y1, 90 - x1, y2], 1), rtol=0, atol=1e-4)
    for one, other in zip(plain.masks or (), mirrored.masks or (), strict=True):
        assert np.array_equal(rle_codec.decode(one), rle_codec.decode(other)[:, ::-1])


def test_an_interrupted_prediction_goes_on_where_it_stopped(
    folder: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(folder, weights, tmp_path / "whole") == 0
    output, seen = tmp_path / "interrupted", []
    run = DetectionInference.predict

    def stop_at_the_third(self: DetectionInference, model: Any, batch: Any) -> list[Detections]:
        seen.extend(batch.image_ids)
        if seen == [0, 1, 2]:
            raise TrainingInterruptedError("the third image")
        return run(self, model, batch)

    monkeypatch.setattr(DetectionInference, "predict", stop_at_the_third)
    assert predict(folder, weights, output) != 0
    assert not (output / "predictions.json").exists()
    assert {path.name for path in output.iterdir()} == {"unfinished.jsonl", "0.png", "1.png"}
    capsys.readouterr()
    assert predict(folder, weights, output) == 0
    assert "2 of 5 files were done before" in capsys.readouterr().err
    assert seen == [0, 1, 2, 2, 3, 4]
    assert rows_in(output) == rows_in(tmp_path / "whole")
    assert {path.name for path in output.iterdir()} == {"predictions.json", *(f"{i}.png" for i in range(5))}


def test_fewer_objects_are_written_on_request(folder: Path, weights: Path, tmp_path: Path) -> None:
    assert predict(folder, weights, tmp_path / "all") == 0
    assert predict(folder, weights, tmp_path / "few", "--min-score", "0.5", "--max-detections", "4") == 0
    expected = []
    for image in range(len(SIZES)):
        expected += [one for one in rows_in(tmp_path / "all") if one["image_id"] == image and one["score"] >= 0.5][:4]
    assert 0 < len(expected) < len(rows_in(tmp_path / "all"))
    assert rows_in(tmp_path / "few") == expected


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--max-detections", "0"), "inference.max_detections must be at least 1, got 0"),
        (("--device", "gpu"), 'device "gpu" cannot be used'),
    ],
)
def test_what_cannot_be_done_is_an_error_before_anything_is_written(
    folder: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: tuple[str, str],
    message: str,
) -> None:
    assert predict(folder, weights, tmp_path / "output", *option) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


def test_an_image_that_cannot_be_read_costs_no_other(
    folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "photos" / "found"
    shutil.copytree(folder, photos)
    (photos / "1.png").write_text("<html>")
    assert predict(photos, weights, output, "--batch-size", "2", overrides=["data.num_workers=2"]) == 2
    assert f"1 of 5 files could not be read; {output / 'predictions.json'} holds" in capsys.readouterr().err
    assert {row["image_id"] for row in rows_in(output)} == {0, 2, 3, 4}
    (photos / "1.png").unlink()
    assert predict(photos, weights, output) == 0
    assert "4 of 4 files were done before" in capsys.readouterr().err
    assert {(row["image_id"], Path(row["file_name"]).name) for row in rows_in(output)} == {
        (0, "0.png"),
        (1, "2.png"),
        (2, "3.png"),
        (3, "4.png"),
    }


def test_images_are_not_drawn_over(
    folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = shutil.copy(folder / "0.png", tmp_path)
    assert predict(tmp_path, weights, tmp_path) == 2
    assert "0.png lies where pictures are written" in capsys.readouterr().err
    assert Path(image).read_bytes() == (folder / "0.png").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["0.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="folders are locked by flock")
def test_a_folder_takes_one_prediction_at_a_time(
    folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other's journal and results would be overwritten."""
    with held(tmp_path, "prediction", "output"):
        assert predict(folder, weights, tmp_path) == 2
    said = capsys.readouterr().err
    assert "is being filled by another prediction: wait for its end, or name another folder: --output FOLDER" in said
    assert list(tmp_path.iterdir()) == []
    assert predict(folder, weights, tmp_path) == 0
