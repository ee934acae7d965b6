"""Frames by index are those that sequential decoding gives, whatever the file; what is no video is an error."""

from __future__ import annotations

import os
import re
import resource
import threading
from pathlib import Path

import numpy as np
import pytest

from helpers.video_files import all_frames, write_frames
from swin_dense.videos import reader
from swin_dense.videos.reader import VideoError, VideoFile

KINDS = {
    "b-frames.mp4": ("libx264", {"g": "10", "bf": "3"}),
    "open-gop.mp4": ("libx264", {"g": "10", "bf": "3", "x264-params": "open-gop=1"}),
    "open-gop.mkv": ("libx264", {"g": "10", "bf": "3", "x264-params": "open-gop=1"}),
    "b-frames.avi": ("libx264", {"g": "10", "bf": "3"}),
    "b-frames-4.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "pictures.avi": ("mjpeg", {}),
    "stream.ts": ("libx264", {"g": "10"}),
    "program.mpg": ("mpeg2video", {"g": "12", "bf": "2"}),
    "web.webm": ("libvpx-vp9", {"g": "10"}),
    "flash.flv": ("libx264", {"g": "10"}),
}


def assert_exact(path: Path, tries: int) -> None:
    video, expected = VideoFile(path), all_frames(path)
    assert len(video) == len(expected)
    rng = np.random.default_rng(0)
    wanted = [*rng.permutation(len(video))[:tries].tolist(), 0, len(video) - 1, 0]
    together = video.read(wanted)
    for place, index in enumerate(wanted):
        assert np.array_equal(together[place].permute(1, 2, 0), expected[index])
    for index in wanted[:4]:
        assert np.array_equal(video.read([index])[0].permute(1, 2, 0), expected[index])


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_of_sequential_decoding(tmp_path: Path, name: str) -> None:
    codec, options = KINDS[name]
    assert_exact(write_frames(tmp_path / name, codec, options=options), tries=10)


def test_frames_of_real_files_are_those_of_sequential_decoding(shared_data: Path) -> None:
    """One of them has 310 frames, where its duration makes other readers count 311."""
    files = sorted(path for path in (shared_data / "video_tiny").iterdir() if path.suffix in (".mp4", ".mkv", ".avi"))
    assert len(files) >= 7
    for path in files:
        assert_exact(path, tries=12)


@pytest.mark.parametrize("name", KINDS)
def test_all_frames_one_after_another_are_those_of_sequential_decoding(tmp_path: Path, name: str) -> None:
    codec, options = KINDS[name]
    path = write_frames(tmp_path / name, codec, options=options)
    frames = [frame.permute(1, 2, 0).numpy() for frame in VideoFile(path)]
    assert len(frames) == 40 and all(map(np.array_equal, frames, all_frames(path)))


def test_all_frames_of_a_file_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, jumps = [], []
    video = VideoFile(write_frames(tmp_path / "pictures.mp4", options={"g": "1"}))  # key frames alone
    decoded, jump = reader._shown, VideoFile._from_key_before
    monkeypatch.setattr(reader, "_shown", lambda frame, by: [shown.append(frame.pts), decoded(frame, by)][1])
    monkeypatch.setattr(VideoFile, "_from_key_before", lambda *place: [jumps.append(place[-1]), jump(*place)][1])
    frames = iter(video)
    next(frames)
    assert len(shown) == 1  # no more is decoded than is asked for
    assert len(list(frames)) == 39 and len(shown) == 40 and jumps == [0]


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {"web.webm"}))  # of that one FFmpeg passes over a whole second
def test_damage_that_decoders_cover_up_ends_the_frames(tmp_path: Path, name: str) -> None:
    codec, options = KINDS[name]
    path = write_frames(tmp_path / name, codec, count=60, size=(96, 96), options=options)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1500] = bytes(1500)
    path.write_bytes(content)
    with pytest.raises(VideoError, match=rf"{name}: is damaged near frame \d+ of \d+, at \d\.\d\d s; restore") as error:
        list(VideoFile(path))
    place = re.search(r"near frame (\d+)", str(error.value))
    assert place is not None and 15 <= int(place[1]) < 45


def test_a_file_that_was_cut_off_gives_no_frames_one_after_another(tmp_path: Path) -> None:
    (tmp_path / "cut.mkv").write_bytes(write_frames(tmp_path / "whole.mkv").read_bytes()[:-200])
    video = VideoFile(tmp_path / "cut.mkv")
    with pytest.raises(VideoError, match=r"cut\.mkv: lacks its last 200 bytes and ends at 1\.\d\d s; restore"):
        list(video)


@pytest.mark.parametrize("name", ["variable.mkv", "variable.mp4"])
def test_frames_of_a_variable_rate_are_counted_and_each_has_its_time(tmp_path: Path, name: str) -> None:
    times = np.cumsum(np.random.default_rng(1).choice([0.02, 0.04, 0.1, 0.5], 40))
    video = VideoFile(write_frames(tmp_path / name, times=times.tolist(), options={"g": "10"}))
    assert len(video) == 40
    assert np.allclose(video.times, times - times[0], atol=2e-3)
    for index in (0, 1, 17, 39):
        begin = video.times[index]
        assert video.index_at(begin) == index
        assert index == 0 or video.index_at(begin - 0.005) == index - 1
    assert_exact(video.path, tries=10)


def test_times_and_rate_of_a_constant_rate(tmp_path: Path) -> None:
    video = VideoFile(write_frames(tmp_path / "clip.mp4", count=50))
    assert np.allclose(video.times, np.arange(50) / 25)
    assert video.duration == pytest.approx(2.0) and video.rate == pytest.approx(25)
    assert video.stated_frames == 50 and video.stated_duration == pytest.approx(2.0)


def test_a_turned_camera_is_turned_back(tmp_path: Path) -> None:
    upright = VideoFile(write_frames(tmp_path / "upright.mp4", count=3)).read([1])[0].numpy()
    for turned in (90, 180, 270):
        video = VideoFile(write_frames(tmp_path / f"{turned}.mp4", count=3, turned=turned))
        shown = video.read([1])[0].numpy()
        options = [np.rot90(upright, turns, (1, 2)) for turns in (1, 2, 3)]
        assert any(np.array_equal(shown, one) for one in options) and video.size == shown.shape[1:]


def test_metadata_may_be_in_any_encoding(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "clip.avi", "mpeg4", count=3)
    written = path.read_bytes()
    assert b"Lavf" in written, "the name of the program that wrote it"
    path.write_bytes(written.replace(b"Lavf", b"L\xff\xfef"))
    assert len(VideoFile(path).read([0, 2])) == 2


def test_frames_are_resized_as_they_are_decoded(tmp_path: Path) -> None:
    video = VideoFile(write_frames(tmp_path / "clip.mp4", size=(48, 96)))
    assert tuple(video.read([3, 1], short_side=24).shape) == (2, 3, 24, 48)
    assert tuple(VideoFile(write_frames(tmp_path / "high.mp4", size=(96, 48))).read([0], 24).shape) == (1, 3, 48, 24)


def test_there_is_no_frame_beyond_the_last(tmp_path: Path) -> None:
    video = VideoFile(write_frames(tmp_path / "clip.mp4", count=5))
    for index in (5, -1):
        with pytest.raises(IndexError, match="frames 0 to 4"):
            video.read([index])


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    video = VideoFile(write_frames(tmp_path / "long.mp4", count=240, size=(480, 640), options={"preset": "ultrafast"}))
    video.read([0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    video.read([0, 239], short_side=32)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 60 * 1024  # all frames would be 221 MB


def test_a_clip_that_would_not_fit_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = VideoFile(write_frames(tmp_path / "clip.mp4", count=5))
    monkeypatch.setattr(reader, "MAX_CLIP_BYTES", 5 * 3 * 48 * 64 - 1)
    assert len(video.read([0, 1, 2, 3])) == 4
    with pytest.raises(VideoError, match=r"clip\.mp4: 5 frames of 64 x 48 pixels are more than"):
        video.read([0, 1, 2, 3, 4])


def test_frames_beyond_the_limit_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_frames(tmp_path / "clip.mp4", count=2)
    monkeypatch.setattr(reader, "MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(VideoError, match=r"clip\.mp4"):
        VideoFile(path)


def test_frames_that_grow_beyond_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [write_frames(tmp_path / f"{side}.mpg", "mpeg2video", count=5, size=(side, 64)) for side in (48, 480)]
    (tmp_path / "growing.mpg").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert {tuple(frame.shape) for frame in VideoFile(tmp_path / "growing.mpg")} == {(3, 48, 64)}
    monkeypatch.setattr(reader, "MAX_PIXELS", 100 * 64)
    with pytest.raises(VideoError, match=r"growing\.mpg"):
        list(VideoFile(tmp_path / "growing.mpg"))


def broken_files(folder: Path) -> dict[str, Path]:
    whole = write_frames(folder / "whole.mp4").read_bytes()
    files = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"no video at all\n" * 100,
        "noise": np.random.default_rng(0).bytes(20000),
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "concat": b"ffconcat version 1.0\nfile whole.mp4\n",
    }
    paths = {}
    for name, content in files.items():
        paths[name] = folder / f"{name}.mp4"
        paths[name].write_bytes(content)
    paths["absent"] = folder / "absent.mp4"
    paths["link"] = folder / "link.mp4"
    paths["link"].symlink_to(folder / "nowhere.mp4")
    paths["loop"] = folder / "loop.mp4"
    paths["loop"].symlink_to(folder / "loop.mp4")
    paths["folder"] = folder / "folder.mp4"
    paths["folder"].mkdir()
    paths["pipe"] = folder / "pipe.mp4"
    os.mkfifo(paths["pipe"])
    paths["protocol"] = Path("concat:/etc/passwd|/etc/hosts")
    return paths


def test_what_is_no_video_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    for name, path in broken_files(tmp_path).items():
        with pytest.raises(VideoError) as caught:
            VideoFile(path).read([0])
        assert str(caught.value).startswith(f"{path}: "), name
        assert caught.value.fix and "\n" not in str(caught.value), name


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        for _ in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 48000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="holds no video stream"):
        VideoFile(path)


def test_a_link_to_a_video_is_a_video(tmp_path: Path) -> None:
    write_frames(tmp_path / "clip.mp4", count=3)
    (tmp_path / "link.mp4").symlink_to("clip.mp4")
    assert len(VideoFile(tmp_path / "link.mp4")) == 3


def test_a_file_cut_short_says_which_frame_is_missing_or_gives_those_that_are_there(tmp_path: Path) -> None:
    whole = write_frames(tmp_path / "whole.mkv", count=40, options={"g": "10"})
    expected = all_frames(whole)
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    video = VideoFile(tmp_path / "cut.mkv")
    assert 10 < len(video) < 40
    assert np.array_equal(video.read([5])[0].permute(1, 2, 0), expected[5])


def test_threads_read_different_files_and_the_same_one(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "clip.mp4", options={"g": "10"})
    expected, wrong = all_frames(path), []

    def read(start: int) -> None:
        video = VideoFile(path)
        wrong.extend(
            index
            for index in range(start, 40, 7)
            if not np.array_equal(video.read([index])[0].permute(1, 2, 0), expected[index])
        )

    threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
