"""Label PNGs: what is read, how it is counted and written, and what is refused."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swin_dense.errors import DataError
from swin_dense.images.store import ImageError, ImageStore
from swin_dense.label_maps import files
from swin_dense.label_maps.files import LabelFile, count_labels, label_image, read_label_file


def read(path: Path) -> LabelFile:
    return read_label_file(ImageStore(path.parent), path.name)


@pytest.mark.parametrize(("largest", "mode"), [(255, "L"), (256, "I;16"), (65535, "I;16")])
def test_labels_come_back_as_they_were_stored(tmp_path, largest, mode):
    labels = np.array([[0, 1, largest], [7, largest, 2]], dtype=np.int64)
    image = label_image(labels)
    assert image.mode == mode
    image.save(tmp_path / "labels.png")
    found = read(tmp_path / "labels.png").labels
    assert found.dtype == (np.uint8 if mode == "L" else np.uint16)
    assert (found == labels).all()


@pytest.mark.parametrize("label", [-1, 65536, 10**12])
def test_labels_that_no_png_can_hold_are_not_written(label):
    with pytest.raises(DataError, match=rf"a label PNG holds 0\.\.65535, not {label}\.\.{label}; correct label_shift"):
        label_image(np.array([[label]]))


def test_a_palette_png_is_read_by_its_indices_and_a_black_and_white_one_as_0_and_1(tmp_path):
    labels = np.array([[0, 2], [1, 20]], dtype=np.uint8)
    indexed = Image.fromarray(labels)
    indexed.putpalette([255, 0, 0] * 256)  # all labels look alike
    indexed.save(tmp_path / "indexed.png")
    assert Image.open(tmp_path / "indexed.png").mode == "P"
    found = read(tmp_path / "indexed.png")
    assert found.has_palette and (found.labels == labels).all()
    Image.fromarray(labels > 1).save(tmp_path / "two.png")
    found = read(tmp_path / "two.png")
    assert not found.has_palette and found.labels.tolist() == [[0, 1], [0, 1]]


def four_bit_gray_png() -> bytes:
    """One row of the labels 1 and 2, which Pillow would read as 17 and 34."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 2, 1, 4, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0\x12")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colours_are_no_labels(tmp_path, mode):
    Image.new(mode, (3, 2)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=rf"a\.png: its pixels are colours \({mode}\), not labels; store") as error:
        read(tmp_path / "a.png")
    assert error.value.kind == "label-format"


def test_files_that_are_no_label_pngs_are_refused_by_name(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "photo.jpg")
    (tmp_path / "photo.jpg").rename(tmp_path / "photo.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 99, (40, 40), np.uint8)).save(tmp_path / "cut.png")
    os.truncate(tmp_path / "cut.png", 500)
    (tmp_path / "four_bits.png").write_bytes(four_bit_gray_png())
    os.mkfifo(tmp_path / "pipe.png")
    for name, fault in {
        "photo": "not an image in a known format; use one of PNG",
        "cut": "cannot be decoded",
        "four_bits": "fewer than 8 bits per pixel",
        "pipe": "not a file",
        "absent": "no such file",
    }.items():
        with pytest.raises(ImageError, match=rf"{name}\.png: .*{fault}"):
            read(tmp_path / f"{name}.png")


@pytest.mark.parametrize("pixels_at_once", [1, 100, 2**20])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_counting_labels_equals_numpys_sorting(monkeypatch, pixels_at_once, dtype):
    monkeypatch.setattr(files, "_PIXELS_AT_ONCE", pixels_at_once)
    labels = (np.random.default_rng(0).integers(0, 70, (40, 50)) * 900).astype(dtype)
    for ours, theirs in zip(count_labels(labels), np.unique(labels, return_counts=True), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (17, 19)])
@pytest.mark.parametrize("kind", ["L", "I;16", "1"])
def test_a_map_that_is_read_in_bands_is_whole(tmp_path, monkeypatch, shape, kind):
    monkeypatch.setattr(files, "_PIXELS_AT_ONCE", 40)
    labels = np.random.default_rng(0).integers(0, {"L": 256, "I;16": 65536, "1": 2}[kind], shape)
    image = Image.fromarray(labels > 0) if kind == "1" else label_image(labels)
    assert image.mode == kind
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png").labels, labels)
