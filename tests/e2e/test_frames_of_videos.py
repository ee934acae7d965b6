"""Detectors and segmenters on videos: frame by frame, as if each were an image; a video is done whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import swin_dense
from helpers.commands import command
from helpers.video_files import write_frames
from swin_dense.errors import ConfigError, DataError
from swin_dense.models import Model
from swin_dense.tasks.prediction import predict_to_folder
from swin_dense.videos.reader import VideoError, VideoFile
from swin_dense.weights import save_weights

CONFIGS = {"detection": "mask-rcnn_swin-nano_shapes", "segmentation": "upernet_swin-nano_shapes"}
SHORT = {
    "detection": [
        "augmentation.test_short_side=64",
        "augmentation.test_max_long_side=96",
        "model.test_cfg.rcnn.score_thr=0.2",
        "inference.max_detections=8",
    ],
    "segmentation": ["augmentation.test_scale=[64, 96]"],
}
COUNT = 7


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights that are sure of what they find."""
    files = {}
    for task, config in CONFIGS.items():
        with pytest.warns(UserWarning, match="these are random"):
            random = swin_dense.load(config, device="cpu")
        network, labels = random.module.network, random.labels.metadata()
        if task == "detection":
            with torch.no_grad():
                network.roi_head.bbox_head.fc_cls.weight *= 8
                network.rpn_head.rpn_cls.weight *= 40
            labels["category_ids"] = list(range(1, 1 + len(random.class_names)))
        files[task] = tmp_path_factory.mktemp(task) / "weights.safetensors"
        save_weights(network.state_dict(), files[task], metadata={k: json.dumps(v) for k, v in labels.items()})
    return files


@pytest.fixture(params=list(CONFIGS))
def model(request: pytest.FixtureRequest, weights: dict[str, Path]) -> Model:
    return loaded(weights, request.param)


def loaded(weights: dict[str, Path], task: str, *overrides: str) -> Model:
    changes = ["data.num_workers=0", *SHORT[task], *overrides]
    return swin_dense.load(CONFIGS[task], weights[task], "cpu", overrides=changes)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a variable rate, and turned."""
    times = [0, 0.04, 0.08, 0.5, 0.6, 0.64, 1.2]
    return write_frames(tmp_path_factory.mktemp("clip") / "clip.mp4", count=COUNT, times=times, turned=90)


def frames_of(clip: Path) -> Iterator[Any]:
    return (frame.permute(1, 2, 0).numpy() for frame in VideoFile(clip))


def rows_in(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((output / "predictions.json").read_text())
    return rows


def without_places(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what names an image or a frame."""
    return [{k: v for k, v in row.items() if k not in ("image_id", "file_name", "frame", "seconds")} for row in rows]


def test_each_frame_has_the_result_of_the_same_image(model: Model, clip: Path, tmp_path: Path) -> None:
    found = model.predict(str(clip))
    assert iter(found) is found, "a result at a time"
    for number, (one, pixels) in enumerate(zip(found, frames_of(clip), strict=True)):
        Image.fromarray(pixels).save(tmp_path / f"{number:06d}.png")
        assert np.array_equal(one.image.permute(1, 2, 0), pixels) and one.image.shape == (3, 64, 48)
        assert one.to_coco() == model.predict(tmp_path / f"{number:06d}.png").to_coco()
        assert one.to_coco() == model.predict(pixels).to_coco()
        assert one.draw(as_frame=True).size == (48, 64) < one.draw().size
    as_images = predict_to_folder(model, [tmp_path], tmp_path / "images")
    of_video = predict_to_folder(model, [clip], tmp_path / "video")
    assert len(of_video) >= COUNT and rows_in(tmp_path / "video") == of_video
    assert {row["file_name"] for row in of_video} == {str(clip)} and {row["image_id"] for row in of_video} == {0}
    times = VideoFile(clip).times
    assert [(row["frame"], row["image_id"]) for row in of_video] == [(row["image_id"], 0) for row in as_images]
    assert all(row["seconds"] == pytest.approx(times[row["frame"]], abs=1e-6) for row in of_video)
    if model.task.pictures == "overlays":
        for row in of_video:
            assert row["labels"] == f"labels/clip/{row['frame']:06d}.png"
            images = (tmp_path / "video" / row["labels"], tmp_path / "images" / "labels" / f"{row['frame']:06d}.png")
            assert np.array_equal(*map(Image.open, images))
            row["labels"] = f"labels/{row['frame']:06d}.png"
    assert without_places(of_video) == without_places(as_images)
    written = VideoFile(tmp_path / "video" / model.task.pictures / "clip.mp4")
    assert written.size == (64, 48) and np.abs(written.times - times).max() < 1e-9


def test_images_and_videos_in_one_folder(weights: dict[str, Path], clip: Path, tmp_path: Path) -> None:
    """Each is done once, the videos after the images; the rows are in the order of the files."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    Image.fromarray(next(frames_of(clip))).save(tmp_path / "in" / "b.png")
    shutil.copy(clip, tmp_path / "in" / "deep" / "b.MP4")
    write_frames(tmp_path / "in" / "a.avi", "mjpeg", count=2, size=(40, 56))
    words = [CONFIGS["detection"], "--weights", str(weights["detection"]), "--batch-size", "3"]
    words += [word for one in ["data.num_workers=2", *SHORT["detection"]] for word in ("--set", one)]
    output = tmp_path / "in" / "out"
    for _ in range(2):  # what is drawn is not predicted on
        assert command("predict", *words, str(tmp_path / "in"), "--output", str(output)) == 0
        rows = rows_in(output)
        names = [Path(name).name for name in dict.fromkeys(row["file_name"] for row in rows)]
        assert names == ["a.avi", "b.png", "b.MP4"] and len({row.get("frame") for row in rows}) == COUNT + 1
        assert [row["image_id"] for row in rows] == sorted(row["image_id"] for row in rows)
        written = {path.name for path in output.iterdir()}
        assert written == {"000000_a.mp4", "000001_b.png", "000002_b.mp4", "predictions.json"}
    assert len(VideoFile(output / "000000_a.mp4")) == 2


def test_options_hold_for_frames(weights: dict[str, Path], tmp_path: Path) -> None:
    clip = write_frames(tmp_path / "clip.mp4", count=3)
    options = ["inference.slice_size=[40, 48]", "inference.flip=True", "inference.min_score=0.4"]
    sliced = loaded(weights, "detection", *options)
    rows = predict_to_folder(sliced, [clip], tmp_path / "sliced", threshold=0.9, batch_size=2)
    expected = [sliced.predict(pixels, threshold=0).to_coco() for pixels in frames_of(clip)]
    assert 0 < len(rows) == sum(map(len, expected)) and min(row["score"] for row in rows) >= 0.4
    plain = loaded(weights, "detection").predict(clip, threshold=0.999)
    assert not any(len(one) for one in plain)
    segmenter = loaded(weights, "segmentation")
    predict_to_folder(segmenter, [clip], tmp_path / "maps", probabilities=True)
    assert len(list((tmp_path / "maps" / "probabilities" / "clip").iterdir())) == 3
    assert next(segmenter.predict(clip, probabilities=True)).probabilities.shape[1:] == (48, 64)
    with pytest.raises(ConfigError, match="threshold is not for segmentation"):
        segmenter.predict(clip, threshold=0.5)


def test_an_interrupted_video_leaves_nothing_and_is_done_again(
    model: Model, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other, output = tmp_path / "a.mp4", tmp_path / "out"
    shutil.copy(clip, other)
    whole = predict_to_folder(model, [other, clip], tmp_path / "whole")
    predict, seen = type(model.inference).predict, []

    def stop_at_the_tenth(*arguments: Any) -> Any:
        seen.append(arguments)
        if len(seen) == 10:
            raise KeyboardInterrupt
        return predict(*arguments)

    monkeypatch.setattr(type(model.inference), "predict", stop_at_the_tenth)
    with pytest.raises(KeyboardInterrupt):
        predict_to_folder(model, [other, clip], output)
    videos = output / model.task.pictures
    assert [path.name for path in videos.iterdir() if path.suffix == ".mp4"] == ["a.mp4"]
    assert not (output / "predictions.json").exists()
    assert predict_to_folder(model, [other, clip], output) == whole and len(seen) == 10 + COUNT
    assert "1 of 2 files were done before" in capsys.readouterr().err
    assert sorted(path.name for path in output.rglob("*.mp4")) == ["a.mp4", "clip.mp4"]
    assert not (output / "unfinished.jsonl").exists()


def test_a_video_that_cannot_be_read_stops_no_other(model: Model, clip: Path, tmp_path: Path) -> None:
    """Nor does one that turns out to be damaged when most of it is drawn."""
    content = bytearray(write_frames(tmp_path / "damaged.mp4", count=30, size=(96, 96)).read_bytes())
    content[len(content) // 2 : len(content) // 2 + 1500] = bytes(1500)
    (tmp_path / "damaged.mp4").write_bytes(content)
    (tmp_path / "text.mkv").write_text("no video")
    files = [tmp_path / "text.mkv", tmp_path / "damaged.mp4", clip]
    with pytest.raises(DataError, match=r"2 of 3 files could not be read(.|\n)*text\.mkv(.|\n)*damaged\.mp4: is dam"):
        predict_to_folder(model, files, tmp_path / "out")
    assert {row["file_name"] for row in rows_in(tmp_path / "out")} == {str(clip)}
    assert [path.name for path in (tmp_path / "out" / model.task.pictures).glob("*.mp4")] == ["clip.mp4"]
    frames = model.predict(tmp_path / "damaged.mp4")
    assert len(list(islice(frames, 3))) == 3
    with pytest.raises(VideoError, match=r"damaged\.mp4: is damaged near frame"):
        list(frames)


def test_a_video_among_images_is_refused_by_name(model: Model, clip: Path, tmp_path: Path) -> None:
    for several in ([clip], iter([str(clip)])):
        with pytest.raises(DataError, match=r"clip\.mp4: a video where an image is expected; pass its frames, iter\("):
            list(model.predict(several))
    assert len(model.predict(list(VideoFile(clip)))) == COUNT
    with pytest.raises(VideoError, match=r"absent\.mp4: no such video"):
        model.predict("absent.mp4")
    (tmp_path / "folder.mp4").mkdir()
    Image.fromarray(next(frames_of(clip))).save(tmp_path / "folder.mp4" / "b.png")
    assert len(model.predict(tmp_path / "folder.mp4")) == 1, "a folder of images, whatever its name"


def test_a_video_is_not_written_over_itself(model: Model, clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / model.task.pictures
    folder.mkdir(exist_ok=True)
    shutil.copy(clip, folder / "mine.mp4")
    with pytest.raises(ConfigError, match=r"mine\.mp4 lies where pictures are written and could be overwritten"):
        predict_to_folder(model, [folder / "mine.mp4"], tmp_path)
