"""Videos as training and validation batches; randomness by place; broken files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from helpers.video_files import write_frames
from swin_dense.data import VideoDataModule
from swin_dense.data.classification_transforms import random_clip_view
from swin_dense.data.moving_shapes import MOTIONS, draw_motion, write_moving_shapes
from swin_dense.errors import ConfigError, DataError
from swin_dense.records import Sample
from swin_dense.videos.clips import ClipSampling, Views
from swin_dense.videos.reader import VideoFile


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving_shapes(tmp_path_factory.mktemp("videos") / "moving", train=2, val=1, size=32)


def module(root: Path, **options: Any) -> VideoDataModule:
    settings: dict[str, Any] = {
        "sampling": ClipSampling(8, 2),
        "views": Views(clips=2, crops=3, size=32, short_side=40),
        "short_side": 40,
        "train_transform": random_clip_view(32, rand_augment=(2, 9), erase_probability=0.5),
        "batch_size": 4,
        "num_workers": 0,
    }
    return VideoDataModule(root, **{**settings, **options})


def test_batches_of_training_and_of_validation(shapes: Path) -> None:
    data = module(shapes, eval_batch_size=2)
    data.setup("fit")
    assert data.class_names == tuple(sorted(MOTIONS)) and data.val_image_ids == tuple(range(4))
    batches = list(data.train_dataloader())
    assert [tuple(batch.images.shape) for batch in batches] == [(4, 8, 3, 32, 32)] * 2
    assert {batch.images.dtype for batch in batches} == {torch.uint8}
    names = [name for batch in batches for name in batch.file_names]
    assert sorted(names) == sorted(f"{motion}/00000{number}.mp4" for motion in MOTIONS for number in (1, 2))
    val = next(iter(data.val_dataloader()))
    assert tuple(val.images.shape) == (2, 16, 3, 40, 40) and val.labels == (0, 1)
    video = VideoFile(shapes / "val" / val.file_names[1])
    expected = video.read(ClipSampling(8, 2).centred(len(video), 2).ravel(), 40)
    assert torch.equal(val.images[1], expected.as_subclass(torch.Tensor))


def test_a_sample_depends_on_seed_epoch_and_index_alone(shapes: Path) -> None:
    def epoch(number: int, **options: object) -> dict[str, torch.Tensor]:
        data = module(shapes, **options)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.position = lambda: (number, 0)
        return {name: image for batch in loader for name, image in zip(batch.file_names, batch.images, strict=True)}

    first = epoch(0)
    for other in (epoch(0), epoch(0, num_workers=2), epoch(0, batch_size=3)):
        assert all(torch.equal(image, first[name]) for name, image in other.items())
    for changed in (epoch(1), epoch(0, seed=1)):
        assert not any(torch.equal(image, first[name]) for name, image in changed.items())


def test_every_frame_of_a_clip_is_transformed_alike() -> None:
    frame = torch.randint(0, 256, (1, 3, 40, 60), dtype=torch.uint8)
    still = Sample(tv_tensors.Video(frame.repeat(6, 1, 1, 1)), 0, "still.mp4", (40, 60), label=3)
    transform = random_clip_view(32, rand_augment=(4, 7), erase_probability=1.0)
    for seed in range(8):
        torch.manual_seed(seed)
        changed = transform(still)
        assert tuple(changed.image.shape) == (6, 3, 32, 32) and changed.label == 3
        assert isinstance(changed.image, tv_tensors.Video) and changed.image.dtype == torch.uint8
        assert (changed.image == changed.image[:1]).all()


def test_clips_are_not_mirrored_where_classes_tell_left_from_right() -> None:
    video = tv_tensors.Video(torch.arange(16, dtype=torch.uint8).expand(2, 3, 16, 16).contiguous())
    sample = Sample(video, 0, "a.mp4", (16, 16))
    whole = random_clip_view(16, (1.0, 1.0), (1.0, 1.0), flip_probability=0.0)
    assert all(torch.equal(whole(sample).image, video) for _ in range(20))


def broken(folder: Path, shapes: Path) -> Path:
    """Two sound videos, a text file and an empty file in the middle of a training set."""
    for name in ("a", "d"):
        (folder / "train" / "zoom").mkdir(parents=True, exist_ok=True)
        write_frames(folder / "train" / "zoom" / f"{name}.mp4", count=20, seed=ord(name))
    (folder / "train" / "zoom" / "b.mp4").write_text("nothing")
    (folder / "train" / "zoom" / "c.mp4").touch()
    (folder / "val").symlink_to(shapes / "val")
    (folder / "classes.txt").write_text("\n".join(sorted(MOTIONS)))
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_video_is_an_error_or_on_demand_a_counted_skip(
    tmp_path: Path, shapes: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    root = broken(tmp_path, shapes)
    options = {"classes": root / "classes.txt", "num_workers": workers, "batch_size": 1}
    data = module(root, **options)
    data.setup("fit")
    with pytest.raises(DataError, match=r"b\.mp4: cannot be read as a video|c\.mp4: .*\(the file is empty\)"):
        list(data.train_dataloader())
    data = module(root, skip_broken=True, **options)
    data.setup("fit")
    with caplog.at_level(logging.WARNING):
        names = [name for batch in data.train_dataloader() for name in batch.file_names]
        data.teardown("fit")
    assert sorted(names) == ["zoom/a.mp4", "zoom/d.mp4", "zoom/d.mp4", "zoom/d.mp4"]
    assert "2 of 4 training videos were skipped" in caplog.text
    assert data.train_dataset is not None and data.train_dataset.skipped.tolist() == [False, True, True, False]


def test_a_broken_video_of_the_validation_is_always_an_error(tmp_path: Path, shapes: Path) -> None:
    (tmp_path / "val" / "zoom").mkdir(parents=True)
    (tmp_path / "val" / "zoom" / "b.mp4").write_text("nothing")
    (tmp_path / "train").symlink_to(shapes / "train")
    data = module(tmp_path, skip_broken=True)
    data.setup("validate")
    with pytest.raises(DataError, match=r"b\.mp4"):
        list(data.val_dataloader())


def test_places_and_numbers_are_checked(shapes: Path) -> None:
    with pytest.raises(ConfigError, match="train_videos and val_videos"):
        VideoDataModule(train_videos=shapes)
    with pytest.raises(DataError, match="no such folder of videos"):
        module(shapes / "absent").setup("fit")
    for wrong in (
        {"scale": (0.0, 1.0)},
        {"flip_probability": 2.0},
        {"rand_augment": (0, 9)},
        {"rand_augment": (2, 31)},
    ):
        with pytest.raises(ConfigError):
            random_clip_view(32, **wrong)


def test_one_frame_of_moving_shapes_tells_nothing() -> None:
    """The first frame knows no class, and the first draws of the others are uniform over a torus, which they stay."""
    first = [draw_motion(np.random.default_rng(5), name, 32)[0] for name in MOTIONS]
    assert all(np.array_equal(one, first[0]) for one in first)


def test_moving_shapes_move_as_their_class_says() -> None:
    frames = {name: draw_motion(np.random.default_rng(3), name, 64).astype(float) for name in MOTIONS}
    changes = {name: np.abs(some[1:] - some[:-1]).mean() for name, some in frames.items()}
    assert all(change > 1.5 * changes["still"] for name, change in changes.items() if name != "still")
    ways = {"horizontal": [(0, 2), (0, -2)], "vertical": [(2, 0), (-2, 0)]}
    for name, steps in ways.items():
        before, after = frames[name][:-1], frames[name][1:]
        assert min(np.abs(np.roll(before, step, (1, 2)) - after).mean() for step in steps) < changes[name]


def test_moving_shapes_are_written_once(tmp_path: Path) -> None:
    root = write_moving_shapes(tmp_path / "moving", train=1, val=1, size=32)
    stamp = (root / "moving_shapes.json").stat().st_mtime_ns
    assert len(list((root / "frames").rglob("*.jpg"))) == 2 * len(list((root / "train").rglob("*.mp4"))) * 2
    write_moving_shapes(root, train=1, val=1, size=32)
    assert (root / "moving_shapes.json").stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match="even size"):
        write_moving_shapes(root, train=1, val=1, size=33)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(DataError, match="no moving shapes data set"):
        write_moving_shapes(tmp_path / "other", train=1, val=1)
