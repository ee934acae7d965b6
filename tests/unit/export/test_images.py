"""Which images an export takes, and in which size."""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from helpers.shared_memory import without_shared_memory
from swin_dense.errors import ConfigError, DataError
from swin_dense.export.compute import ImageReader, TargetSize
from swin_dense.images.finder import find_images

Draw = Callable[[Path, tuple[int, int], int], Path]


def test_a_link_is_an_image_of_its_own(tmp_path: Path, draw: Draw) -> None:
    (tmp_path / "link.png").symlink_to(draw(tmp_path / "a.png", (8, 8), 0))
    first, second = (ImageReader(find_images([tmp_path]), TargetSize())[place] for place in range(2))
    assert first.sha256 == second.sha256 and first.path != second.path


def test_an_image_in_a_zip_file_is_read_as_one_on_disk(tmp_path: Path, draw: Draw) -> None:
    image = draw(tmp_path / "a.png", (8, 12), 0)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        file.write(image, "all/val/2.png")
    packed, plain = (ImageReader(find_images([one]), TargetSize())[0] for one in (tmp_path / "all.zip", image))
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
    assume(short**2 * max(height, width) / min(height, width) < 2**26)  # beyond, see below
    new_height, new_width = TargetSize(short_side=short).of((height, width))
    assert min(new_height, new_width) == short
    assert abs(max(new_height, new_width) - short * max(height, width) / min(height, width)) <= 0.5 + 1e-6


def test_sizes_are_kept_given_or_limited() -> None:
    assert TargetSize().of((480, 640)) == (480, 640)
    assert TargetSize(size=(10, 20)).of((480, 640)) == (10, 20)
    assert TargetSize(short_side=800, max_long_side=1333).of((480, 1280)) == (500, 1333)


def test_a_strip_that_would_grow_beyond_memory_is_an_error_of_that_image(tmp_path: Path) -> None:
    """30,000 x 1 pixels to a short side of 800 are 19 gigapixels, 57 GB."""
    Image.new("RGB", (30_000, 1)).save(tmp_path / "thin.png")
    loaded = ImageReader(find_images([tmp_path]), TargetSize(short_side=800))[0]
    assert loaded.pixels is None
    assert "thin.png: 30000 wide and 1 high, it would be enlarged to 24000000 x 800 pixels" in str(loaded.error)
    limited = ImageReader(find_images([tmp_path]), TargetSize(short_side=800, max_long_side=1333))[0]
    assert limited.pixels is not None and limited.pixels.shape == (3, 1, 1333)


def test_only_what_is_enlarged_has_a_limit() -> None:
    assert TargetSize(short_side=9_000).of((30_000, 30_000)) == (9_000, 9_000)
    assert TargetSize(size=(8192, 8192)).of((5, 5)) == (8192, 8192)
    with pytest.raises(DataError, match="8193 x 8192 pixels, more than the 67108864 allowed"):
        TargetSize(size=(8192, 8193)).of((5, 5))


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": (1, 1), "short_side": 5},
        {"max_long_side": 5},
        {"size": (0, 5)},
        {"short_side": 0},
        {"short_side": 10**400},
        {"short_side": 5, "max_long_side": 10**400},
    ],
)
def test_sizes_that_contradict_each_other_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        TargetSize(**wrong)


def test_an_image_that_does_not_fit_in_shared_memory_is_an_error_of_the_worker(tmp_path: Path, draw: Draw) -> None:
    image = draw(tmp_path / "a.png", (200, 300), 0)
    imports = "from swin_dense.backbones import create_backbone; from swin_dense.export import export_features"
    work = f"export_features(create_backbone('swin_tiny'), {str(image)!r}, {str(tmp_path / 'out')!r}, num_workers=1)"
    printed = without_shared_memory(imports, work)
    assert re.match(r"WorkerError a process that reads data cannot hand it over: unable to .*torch_.*; docker", printed)
