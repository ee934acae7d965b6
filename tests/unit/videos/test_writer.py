"""A video of drawn frames has the frames, the size and the times of its original, and is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from helpers.video_files import write_frames
from swin_dense.videos.reader import VideoFile
from swin_dense.videos.writer import video_like

IRREGULAR = np.cumsum(np.random.default_rng(1).choice([0.02, 0.04, 0.1, 0.5], 40)).tolist()


def copied(original: Path, path: Path, odd: int = 0) -> VideoFile:
    """The same frames, without their last row and column where they are to be odd."""
    video = VideoFile(original)
    with video_like(video, path) as add:
        for frame in video:
            add(frame.permute(1, 2, 0).numpy()[: frame.shape[1] - odd, : frame.shape[2] - odd])
    return VideoFile(path)


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv", "c.avi", "d.ts"])
@pytest.mark.parametrize("odd", [0, 1])
def test_frames_size_and_times_are_those_of_the_original(tmp_path: Path, name: str, odd: int) -> None:
    video = VideoFile(write_frames(tmp_path / name, count=30))
    copy = copied(video.path, tmp_path / "copy.mp4", odd)
    assert len(copy) == 30 and copy.size == (48 - odd, 64 - odd) and copy.rate == pytest.approx(video.rate, rel=3e-3)
    assert np.abs(copy.times - video.times).max() < 1e-9
    pixels = (one.read(range(30))[..., : 48 - odd, : 64 - odd].float() for one in (video, copy))
    assert (next(pixels) - next(pixels)).abs().mean() < 12  # of coarse noise; of other frames it is 80
    with av.open(str(copy.path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"


def test_a_variable_rate_keeps_its_times(tmp_path: Path) -> None:
    video = VideoFile(write_frames(tmp_path / "variable.mkv", times=IRREGULAR))
    copy = copied(video.path, tmp_path / "copy.mp4")
    assert len(copy) == 40 and np.abs(copy.times - video.times).max() < 1e-9 and np.ptp(np.diff(copy.times)) > 0.4


def test_a_turned_video_is_written_upright(tmp_path: Path) -> None:
    copy = copied(write_frames(tmp_path / "turned.mp4", turned=90), tmp_path / "copy.mp4")
    assert copy.size == (64, 48)
    with av.open(str(copy.path)) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_large_pictures_keep_their_colours_in_players(tmp_path: Path) -> None:
    """A player that believes what the file says of its colours, as ours does, shows those that were drawn."""
    video = VideoFile(write_frames(tmp_path / "clip.mp4", count=1, size=(720, 1280)))
    green = np.zeros((720, 1280, 3), np.uint8)
    green[..., 1] = 200
    with video_like(video, tmp_path / "green.mp4") as add:
        add(green)
    assert VideoFile(tmp_path / "green.mp4").read([0])[0, :, 300, 300].tolist() == pytest.approx([0, 200, 0], abs=4)
    with av.open(str(tmp_path / "green.mp4")) as container:
        assert container.streams.video[0].codec_context.colorspace == 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_video_that_is_interrupted_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    video = VideoFile(write_frames(tmp_path / "clip.mp4"))
    with pytest.raises(error), video_like(video, tmp_path / "out" / "copy.mp4") as add:
        for frame in video.read(range(30)):
            add(frame.permute(1, 2, 0).numpy())
        raise error
    assert list((tmp_path / "out").iterdir()) == []
