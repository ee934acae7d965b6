"""One look at a data set of videos says all that is wrong with it, with counts."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import av
import pytest

from helpers.commands import answer, command
from helpers.video_files import write_frames
from swin_dense.videos.check import check_videos
from swin_dense.videos.clips import ClipSampling
from swin_dense.videos.ends import missing_bytes
from swin_dense.videos.reader import VideoFile


def faulty(root: Path) -> Path:
    """Two splits with a fault of every kind, and the official list of the first."""
    for name, count in (("a", 100), ("b", 250), ("short", 20)):
        path = root / "train" / "juggling" / f"{name}_000000_000010.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_frames(path, count=count, seed=ord(name[0]))
    folder = root / "train" / "juggling"
    shutil.copy(folder / "b_000000_000010.mp4", folder / "copy_000000_000010.mp4")
    (folder / "text_000000_000010.mp4").write_text("no video")
    (folder / "empty_000000_000010.mp4").touch()
    whole = write_frames(root / "cut.mkv", count=100, seed=9, options={"g": "10"})
    (folder / "cut_000000_000010.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (root / "val" / "juggling").mkdir(parents=True)
    shutil.copy(folder / "b_000000_000010.mp4", root / "val" / "juggling" / "same.mp4")
    shutil.copy(folder / "a_000000_000010.mp4", root / "val" / "loose.mp4")
    rows = [f"juggling,{name},0,10,train" for name in ("a", "b", "short", "copy", "text", "empty", "cut", "gone")]
    listed = root / "train.csv"
    rows += ["air drumming,a,0,10,train", "jugling,b,0,10,train"]
    listed.write_text("\n".join(["label,youtube_id,time_start,time_end,split", *rows]))
    (root / "classes.txt").write_text("air drumming\njuggling\n")
    return listed


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    listed = faulty(tmp_path)
    places = {"train": (tmp_path / "train", listed), "val": (tmp_path / "val", None)}
    reports = check_videos(places, tmp_path / "classes.txt", sampling=ClipSampling(32, 2))
    found = {
        split: Counter((one.kind, Path(one.file).stem.partition("_")[0]) for one in report.problems)
        for split, report in reports.items()
    }
    assert found["train"] == {
        ("missing-video", "gone"): 1,
        ("unknown-class", "b"): 1,
        ("listed-twice", "b"): 1,
        ("two-classes", "a"): 1,
        ("unreadable-video", "empty"): 1,
        ("unreadable-video", "text"): 1,
        ("too-short", "short"): 1,
        ("too-short", "cut"): 1,
        ("cut-off", "cut"): 1,
        ("wrong-duration", "a"): 1,
        ("wrong-duration", "short"): 1,
        ("duplicate", "copy"): 1,
    }
    assert found["val"] == {("no-class", "loose"): 1, ("train-in-val", "same"): 1}
    assert not reports["train"].ok and reports["train"].counts["videos"] == 7
    assert all(one.message and one.fix for report in reports.values() for one in report.problems)


def test_lines_of_a_list_without_a_class_are_gathered_with_all_else(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("juggling\n")
    (tmp_path / "list.txt").write_text(f"alone.mp4\n{'a' * 5000}\nabsent.mp4 jugling\n")
    report = check_videos({"train": (tmp_path, tmp_path / "list.txt")}, tmp_path / "classes.txt")["train"]
    assert Counter(one.kind for one in report.problems) == {"missing-video": 3, "no-class": 2, "unknown-class": 1}


def test_a_sound_list_passes_and_the_command_line_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = faulty(tmp_path)
    (tmp_path / "list.txt").write_text("train/juggling/b_000000_000010.mp4 1\n")
    words = ("--video", str(tmp_path / "list.txt"), "--classes", str(tmp_path / "classes.txt"))
    assert answer(capsys, "check-data", *words, "--json")["problem_counts"] == {}
    assert command("check-data", "--video", str(listed), "--root", str(tmp_path / "train"), "--json") == 1
    record = json.loads(capsys.readouterr().out)
    assert record["problem_counts"]["missing-video"] == 1 and record["counts"]["videos"] == 7
    assert command("check-data", "--root", str(tmp_path)) == 2


def test_a_wrong_frame_count_of_a_real_file_is_said(shared_data: Path) -> None:
    """Others count 311 frames of it by its duration; 310 are there."""
    folder = shared_data / "video_tiny"
    (report,) = check_videos({"videos": (folder, None)}, folder / "label_map_k400.txt").values()
    wrong = [one for one in report.problems if one.kind == "frame-count"]
    assert [(Path(one.file).name, one.message) for one in wrong] == [
        ("flipping_pancake.mkv", "claims 311 frames and has 310")
    ]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.mp4", "libx264", {"g": "10"}),
        ("clip.mp4", "mpeg4", {"g": "10"}),
        ("clip.ts", "libx264", {"g": "10"}),
        ("clip.mpg", "mpeg2video", {"g": "10"}),
        ("clip.avi", "mjpeg", {}),
    ],
)
def test_damage_that_decoders_cover_up_is_found_with_its_place(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = write_frames(tmp_path / "a" / name, codec, count=60, size=(96, 96), options=options)
    assert check_videos({"train": (tmp_path, None)})["train"].ok
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1500] = bytes(1500)
    path.write_bytes(content)
    report = check_videos({"train": (tmp_path, None)})["train"]
    found = next(one for one in report.problems if one.kind == "damaged-frames")
    assert not report.ok and found.file == str(path) and found.fix
    place = re.search(r"the first at frame (\d+) of", found.message)
    assert place is not None and 15 <= int(place[1]) < 45


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.webm", "clip.avi"])
def test_a_video_that_was_cut_off_between_two_frames_is_found(tmp_path: Path, name: str) -> None:
    codec = "libvpx" if name.endswith("webm") else "mpeg4"
    options = {"movflags": "faststart"} if name.endswith("mp4") else None
    path = write_frames(tmp_path / "a" / name, codec, count=60, container_options=options)
    with av.open(str(path)) as container:
        begins = [packet.pos or 0 for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: begins[31]])
    report = check_videos({"train": (tmp_path, None)})["train"]
    (found,) = (one for one in report.problems if one.kind == "cut-off")
    assert not report.ok and found.file == str(path) and "and ends at 1.24 s" in found.message
    assert len(VideoFile(path)) == 31, "it is read up to there"


def test_sound_files_say_no_byte_is_missing(tmp_path: Path, shared_data: Path) -> None:
    fragmented = {"movflags": "frag_keyframe+empty_moov"}
    written = [
        write_frames(tmp_path / "fragmented.mp4", options={"g": "10"}, container_options=fragmented),
        write_frames(tmp_path / "live.mkv", container_options={"live": "1"}),
        write_frames(tmp_path / "stream.ts"),
    ]
    trailing = tmp_path / "trailing.mp4"
    trailing.write_bytes(written[0].read_bytes() + b"\xff" * 100)
    piped = write_frames(tmp_path / "piped.avi", "mpeg4")
    piped.write_bytes(b"RIFF\xff\xff\xff\xff" + piped.read_bytes()[8:])  # as FFmpeg leaves it
    files = [*written, trailing, piped, *(path for path in (shared_data / "video_tiny").iterdir() if path.is_file())]
    assert [path.name for path in files if missing_bytes(path)] == []
