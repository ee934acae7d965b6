"""Which images an export takes, and in which size."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swin_dense.errors import ConfigError, DataError
from swin_dense.export.images import ImageReader, TargetSize, find_images

Draw = Callable[[Path, tuple[int, int], int], Path]


def paths(*inputs: Path) -> list[str]:
    return [source.path for source in find_images(inputs)]


def test_folders_are_searched_to_the_bottom_without_hidden_files(tmp_path: Path, draw: Draw) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.jpg", ".cache/x.png", "b/._1.png"):
        draw(tmp_path / name, (8, 8), 0)
    (tmp_path / "notes.csv").write_text("no image")
    assert paths(tmp_path) == [str(tmp_path / name) for name in ("a.jpg", "b/1.png", "b/2.JPG")]


def test_a_list_is_relative_to_itself_and_keeps_its_order(tmp_path: Path, draw: Draw) -> None:
    one, two = draw(tmp_path / "deep/x.png", (8, 8), 0), draw(tmp_path / "x.png", (8, 8), 1)
    (tmp_path / "all.txt").write_bytes(b"\xef\xbb\xbfdeep/x.png\r\n\r\nx.png\nabsent.png\n")
    assert paths(tmp_path / "all.txt") == [str(one), str(two), str(tmp_path / "absent.png")]


def test_the_same_path_counts_once_and_a_link_is_an_image_of_its_own(tmp_path: Path, draw: Draw) -> None:
    image = draw(tmp_path / "a.png", (8, 8), 0)
    (tmp_path / "link.png").symlink_to(image)
    (tmp_path / "list.txt").write_text("a.png\n./a.png\nlink.png\n")
    assert paths(image, tmp_path / "list.txt", tmp_path) == [str(image), str(tmp_path / "link.png")]
    first, second = (ImageReader(find_images([tmp_path]), TargetSize())[place] for place in range(2))
    assert first.sha256 == second.sha256 and first.path != second.path


def test_a_zip_file_is_read_in_place_whole_or_by_folder(tmp_path: Path, draw: Draw) -> None:
    image = draw(tmp_path / "a.png", (8, 12), 0)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        for name in (
            "all/train/1.png",
            "all/val/2.png",
            "__MACOSX/all/val/._2.png",
            "all/val/.hidden/3.png",
            "all/x.csv",
        ):
            file.write(image, name)
    zip_file = tmp_path / "all.zip"
    assert paths(zip_file) == [str(zip_file / "all/train/1.png"), str(zip_file / "all/val/2.png")]
    assert paths(zip_file / "val") == paths(zip_file / "all/val/2.png") == [str(zip_file / "all/val/2.png")]
    packed = ImageReader(find_images([zip_file]), TargetSize())[1]
    plain = ImageReader(find_images([image]), TargetSize())[0]
    assert packed.pixels is not None and plain.pixels is not None
    assert (packed.sha256, packed.original_size) == (plain.sha256, (8, 12))
    assert packed.pixels.equal(plain.pixels)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are no UTF-8")
def test_names_that_are_no_utf8_are_read_and_written_in_plain_characters(tmp_path: Path, draw: Draw) -> None:
    image = draw(tmp_path / "caf.png", (8, 8), 0)
    image.rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.png\n")
    for source in (*find_images([tmp_path]), *find_images([tmp_path / "list.txt"])):
        assert source.path == str(tmp_path / r"caf\xe9.png")
        assert ImageReader([source], TargetSize())[0].error is None


@pytest.mark.parametrize("name", ["absent.png", "absent", "empty", "empty.txt", "empty.zip"])
def test_what_holds_no_image_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    with pytest.raises(DataError, match=name):
        find_images([tmp_path / name])


def test_no_image_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="no image is named"):
        find_images([])


def test_what_is_wrong_with_an_image_is_told_in_its_place(tmp_path: Path, draw: Draw) -> None:
    good = draw(tmp_path / "good.png", (8, 8), 0)
    (tmp_path / "page.png").write_text("<html>")
    (tmp_path / "short.png").write_bytes(good.read_bytes()[:-40])
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "all.txt").write_text("good.png\npage.png\nshort.png\nfolder.png\nabsent.png\nno/where.png\n")
    found = find_images([tmp_path / "all.txt"])
    loaded = [ImageReader(found, TargetSize())[place] for place in range(len(found))]
    assert loaded[0].error is None
    for one in loaded[1:]:
        assert one.error is not None and Path(one.path).name in one.error.replace("no:", "no/where.png:")
        assert one.pixels is None


sides = st.integers(1, 3000)


@given(sides, sides, sides)
def test_the_short_side_is_met_exactly_and_the_other_to_half_a_pixel(height: int, width: int, short: int) -> None:
    new_height, new_width = TargetSize(short_side=short).of((height, width))
    assert min(new_height, new_width) == short
    assert abs(max(new_height, new_width) - short * max(height, width) / min(height, width)) <= 0.5 + 1e-6


def test_sizes_are_kept_given_or_limited() -> None:
    assert TargetSize().of((480, 640)) == (480, 640)
    assert TargetSize(size=(10, 20)).of((480, 640)) == (10, 20)
    assert TargetSize(short_side=800, max_long_side=1333).of((480, 1280)) == (500, 1333)


@pytest.mark.parametrize(
    "wrong", [{"size": (1, 1), "short_side": 5}, {"max_long_side": 5}, {"size": (0, 5)}, {"short_side": 0}]
)
def test_sizes_that_contradict_each_other_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        TargetSize(**wrong)
