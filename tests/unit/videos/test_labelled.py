"""Videos and their classes in every form of list that people have; what does not fit is an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swin_dense.errors import DataError
from swin_dense.videos.labelled import find_video_classes, list_videos, read_labelled_videos

NAMES = ("air drumming/a b.mp4", "air drumming/c.webm", "juggling/d.mkv")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Files that lists name; nothing is opened here."""
    for name in NAMES:
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "videos"


def read(root: Path, listed: Path | None, classes: Path | None = None, **options: bool) -> dict[str, str]:
    found = find_video_classes([(root, listed)], classes)
    videos = read_labelled_videos(root, listed, found, **options)
    return {videos.names.text(place): found.names[int(videos.labels[place])] for place in range(len(videos))}


EXPECTED = {NAMES[0]: "air drumming", NAMES[1]: "air drumming", NAMES[2]: "juggling"}


def test_folders_are_classes(videos: Path) -> None:
    assert read(videos, None) == EXPECTED


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("numbers.txt", [f"{name} {label}" for name, label in zip(NAMES, (0, 0, 1), strict=True)]),
        ("words.txt", [f"{NAMES[0]} air drumming", f"{NAMES[1]} air_drumming", f"{NAMES[2]}\tjuggling"]),
        ("commas.csv", [f"{name},{label}" for name, label in zip(NAMES, (0, 0, 1), strict=True)]),
        ("spaces.csv", [f"{name} {label}" for name, label in zip(NAMES, (0, 0, 1), strict=True)]),
    ],
)
def test_lists_of_paths_and_labels(videos: Path, tmp_path: Path, name: str, lines: list[str]) -> None:
    (tmp_path / name).write_text("\n".join(lines))
    (tmp_path / "classes.txt").write_text("air drumming\njuggling\n")
    assert read(videos, tmp_path / name, tmp_path / "classes.txt") == EXPECTED


def test_absolute_paths_below_the_root(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{videos.absolute() / NAMES[2]} juggling\n")
    assert read(videos, tmp_path / "list.txt") == {NAMES[2]: "juggling"}
    (tmp_path / "list.txt").write_text("/etc/passwd juggling\n")
    with pytest.raises(DataError, match="leads out of"):
        read(videos, tmp_path / "list.txt")


def test_the_official_list_of_kinetics(tmp_path: Path) -> None:
    root = tmp_path / "train"
    for name in (
        "abseiling/0347ZoDXyP0_000095_000105.mp4",
        "air_drumming/-xQ_8f.mkv",
        "deep/er/twice_000001_000011.mp4",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (tmp_path / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n"
        "abseiling,0347ZoDXyP0,95,105,train\nair drumming,-xQ_8f,3,13,train\n"
        "juggling,twice,1,11,train\njuggling,gone,1,11,train\n"
    )
    rows = list_videos(root, tmp_path / "train.csv")
    assert [row.seconds for row in rows] == [10.0] * 4
    with pytest.raises(DataError, match="gone_000001_000011: no such video"):
        read(root, tmp_path / "train.csv")
    assert read(root, tmp_path / "train.csv", skip_missing=True) == {
        "abseiling/0347ZoDXyP0_000095_000105.mp4": "abseiling",
        "air_drumming/-xQ_8f.mkv": "air drumming",
        "deep/er/twice_000001_000011.mp4": "juggling",
    }


def test_something_something_v2(tmp_path: Path) -> None:
    root = tmp_path / "20bn-something-something-v2"
    root.mkdir()
    for name in ("78687.webm", "42326.webm"):
        (root / name).touch()
    (tmp_path / "labels.json").write_text(
        json.dumps({"Holding something next to something": "1", "Closing something": "0"})
    )
    (tmp_path / "train.json").write_text(
        json.dumps(
            [
                {"id": "78687", "label": "holding a potato", "template": "Holding [something] next to [something]"},
                {"id": 42326, "label": "closing a book", "template": "Closing [something]"},
            ]
        )
    )
    assert find_video_classes([], tmp_path / "labels.json").names == (
        "Closing something",
        "Holding something next to something",
    )
    assert read(root, tmp_path / "train.json", tmp_path / "labels.json") == {
        "78687.webm": "Holding something next to something",
        "42326.webm": "Closing something",
    }


def test_every_problem_is_said_at_once(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("air drumming\njuggling\n")
    (tmp_path / "list.txt").write_text(f"{NAMES[0]} jugling\nabsent.mp4 juggling\n{NAMES[1]} 7\nf.mp4 1\n")
    (videos / "f.mp4").mkdir()
    with pytest.raises(DataError) as caught:
        read(videos, tmp_path / "list.txt", tmp_path / "classes.txt")
    assert len(caught.value.problems) == 4
    assert 'did you mean "juggling"?' in caught.value.problems[0]
    assert "no class '7'; numbers of classes are 0 to 1" in caught.value.problems[2]
    assert "absent.mp4: no such video; restore it" in caught.value.problems[1]
    assert "f.mp4: is a folder, not a video" in caught.value.problems[3]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("numbers.txt", "a.mp4 0\n"),
        ("broken.json", "["),
        ("record.json", '{"id": 3}'),
        ("records.json", '[{"id": 3}]'),
        ("kinetics.csv", "label,youtube_id,time_start,time_end\nx,y,a,b\n"),
        ("line.txt", "alone\n"),
    ],
)
def test_lists_that_cannot_be_used(videos: Path, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=name):
        read(videos, tmp_path / name)


@pytest.mark.parametrize("content", ['{"a": "0", "b": "0"}', '{"a": "1"}', "[]", '{"a": "x"}', "{}"])
def test_class_numbers_that_are_not_those_from_0(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(DataError, match="labels.json"):
        find_video_classes([], tmp_path / "labels.json")
