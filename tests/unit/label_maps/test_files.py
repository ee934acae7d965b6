"""Label PNGs and class lists: what is read, which class a stored label is, and what is refused."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swin_dense.errors import DataError
from swin_dense.label_maps.files import classes_of, label_image, read_class_names, read_label_map

PATH = Path("labels.png")


@pytest.mark.parametrize(("largest", "mode"), [(255, "L"), (256, "I;16"), (65535, "I;16")])
def test_labels_come_back_as_they_were_stored(tmp_path, largest, mode):
    labels = np.array([[0, 1, largest], [7, largest, 2]], dtype=np.int64)
    image = label_image(labels)
    assert image.mode == mode
    image.save(tmp_path / "labels.png")
    read = read_label_map(tmp_path / "labels.png")
    assert read.dtype == np.int32
    assert (read == labels).all()


@pytest.mark.parametrize("labels", [np.array([[-1]]), np.array([[65536]]), np.array([1]), np.zeros((0, 3), int)])
def test_labels_that_no_png_can_hold_are_not_written(labels):
    with pytest.raises(ValueError, match="labels to store"):
        label_image(labels)


def test_a_palette_png_is_read_by_its_indices_and_a_black_and_white_one_as_0_and_1(tmp_path):
    labels = np.array([[0, 2], [1, 20]], dtype=np.uint8)
    indexed = Image.fromarray(labels)
    indexed.putpalette([255, 0, 0] * 256)  # all labels look alike
    indexed.save(tmp_path / "indexed.png")
    assert Image.open(tmp_path / "indexed.png").mode == "P"
    assert (read_label_map(tmp_path / "indexed.png") == labels).all()
    Image.fromarray(labels > 1).save(tmp_path / "two.png")
    assert read_label_map(tmp_path / "two.png").tolist() == [[0, 1], [0, 1]]


def four_bit_gray_png() -> bytes:
    """One row of the labels 1 and 2, which Pillow would read as 17 and 34."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 2, 1, 4, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0\x12")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_files_that_are_no_label_pngs_are_refused_by_name(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "colours.png")
    Image.new("L", (4, 4)).save(tmp_path / "photo.jpg")
    (tmp_path / "photo.jpg").rename(tmp_path / "photo.png")
    Image.new("L", (64, 64), 3).save(tmp_path / "cut.png")
    os.truncate(tmp_path / "cut.png", 60)
    (tmp_path / "four_bits.png").write_bytes(four_bit_gray_png())
    os.mkfifo(tmp_path / "pipe.png")
    for name, fault in {
        "colours": r"its pixels are colours \(RGB\), not labels",
        "photo": "cannot be read as a PNG",
        "cut": "cannot be read as a PNG",
        "four_bits": "fewer than 8 bits per pixel",
        "pipe": "not a file",
        "absent": "no such label PNG",
    }.items():
        with pytest.raises(DataError, match=rf"{name}\.png: .*{fault}"):
            read_label_map(tmp_path / f"{name}.png")


def test_the_other_of_ade20k_loses_its_class_and_the_classes_begin_at_0():
    stored = np.array([[0, 1, 150, 255]], dtype=np.int32)
    assert classes_of(stored, PATH, label_shift=-1, ignore_index=255).tolist() == [[255, 0, 149, 255]]
    assert classes_of(stored, PATH, label_shift=0, ignore_index=255).tolist() == [[0, 1, 150, 255]]
    assert stored.tolist() == [[0, 1, 150, 255]]


def test_a_class_that_would_turn_into_the_ignore_index_is_refused():
    stored = np.array([[256]], dtype=np.int32)
    with pytest.raises(DataError, match=r"labels\.png: label 256 is class 255, which is the ignore_index"):
        classes_of(stored, PATH, label_shift=-1, ignore_index=255)
    assert classes_of(stored, PATH, label_shift=-1, ignore_index=65535).tolist() == [[255]]


def test_the_official_class_list_and_a_plain_one(tmp_path, shared_data):
    official = read_class_names(shared_data / "ade20k_tiny" / "objectInfo150.txt")
    assert len(official) == 150
    assert official[:2] == ("wall", "building")  # of "building, edifice" the first
    assert official[7] == "bed"  # a space follows it in the file
    assert official[149] == "flag"
    (tmp_path / "plain.txt").write_text("\ufeffroad\r\nside walk\r\n\r\n")
    assert read_class_names(tmp_path / "plain.txt") == ("road", "side walk")


def test_the_official_class_list_between_commas_names_the_same_classes(shared_data):
    names, official = (
        read_class_names(shared_data / "ade20k_tiny" / f"objectInfo150.{kind}") for kind in ("csv", "txt")
    )
    assert len(names) == 150 and names[:2] == ("wall", "building;edifice") and names[149] == "flag"
    assert all(name.startswith(first.replace(" ", ";")) for name, first in zip(names, official, strict=True))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "names no classes"),
        (b"road\nroad\n", "two classes 'road'"),
        (b"Idx\tName\n1\troad\n3\ttree\n", "Idx does not count"),
        (b"Idx\tName\n1\troad\n2\n", "without a name"),
        (b"Idx;Name\n1;road\n", "no columns Idx and Name between tabs or commas"),
        (b"Idx,Ratio\n1,0.5\n", "no columns Idx and Name between tabs or commas"),
        (b"Idx,Name\n1,road\n3,tree\n", "Idx does not count"),
        (b"\xff\xfe\x00", "no text file"),
        (None, "cannot be read"),
    ],
)
def test_a_class_list_that_is_none_is_refused_by_name(tmp_path, content, fault):
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"names\.txt: .*{fault}"):
        read_class_names(tmp_path / "names.txt")
