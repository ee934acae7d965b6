"""Class lists and colours: what is read, and what is refused by name."""

import io
import time
import zipfile

import numpy as np
import pytest
from scipy.io import savemat

from swin_dense.errors import DataError
from swin_dense.label_maps.classes import read_class_names, read_classes, read_palette


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
        (None, "no such class list"),
    ],
)
def test_a_class_list_that_is_none_is_refused_by_name(tmp_path, content, fault):
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"names\.txt: .*{fault}"):
        read_class_names(tmp_path / "names.txt")


def test_a_class_list_may_lie_in_a_zip_file_with_its_colours(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as file:
        file.writestr("data/names.txt", "road\ntree\n")
        file.writestr("data/color150.mat", mat_file(COLOURS[:2]))
    names, colours = read_classes(tmp_path / "data.zip" / "data" / "names.txt")
    assert names == ("road", "tree")
    np.testing.assert_array_equal(colours, COLOURS[:2])


def test_a_field_of_a_megabyte_is_no_traceback(tmp_path):
    (tmp_path / "names.txt").write_text("Idx\tName\n1\t" + "x" * 2**20)
    with pytest.raises(DataError, match=r"names\.txt: cannot be read as a table \(field larger than field limit"):
        read_class_names(tmp_path / "names.txt")


@pytest.mark.parametrize("lines", [[f"c{i}" for i in range(70_000)], ["c0", *(f"c{i}" for i in range(70_000))]])
def test_seventy_thousand_names_are_compared_in_a_moment(tmp_path, lines):
    (tmp_path / "names.txt").write_text("\n".join(lines))
    started = time.process_time()
    if len(set(lines)) == len(lines):
        assert len(read_class_names(tmp_path / "names.txt")) == 70_000
    else:
        with pytest.raises(DataError, match="two classes 'c0'"):
            read_class_names(tmp_path / "names.txt")
    assert time.process_time() - started < 2


COLOURS = np.arange(15, dtype=np.uint8).reshape(5, 3)


def mat_file(colours, **options):
    content = io.BytesIO()
    savemat(content, {"colors": colours}, **options)
    return content.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_a_palette_is_read_in_matlabs_order(tmp_path, compressed):
    (tmp_path / "a.mat").write_bytes(mat_file(COLOURS, do_compression=compressed))
    np.testing.assert_array_equal(read_palette(tmp_path / "a.mat", 5), COLOURS)


@pytest.mark.parametrize(
    "content",
    [
        mat_file(COLOURS[:4]),
        mat_file(COLOURS.T),
        mat_file(COLOURS / 255),
        mat_file(COLOURS.astype(np.uint16)),
        mat_file("red"),
        mat_file({"red": COLOURS}),
        mat_file(COLOURS)[:128],
    ],
    ids=["four of five", "transposed", "fractions", "uint16", "text", "struct", "cut"],  # the content holds the time
)
def test_a_palette_of_other_classes_or_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mat: (is no uint8 matrix of 5 x 3 colours|cannot be read)"):
        read_palette(tmp_path / "a.mat", 5)


def test_a_damaged_palette_is_refused_however_it_is_damaged(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "a.mat"
    for whole in (mat_file(COLOURS), mat_file(COLOURS, do_compression=True)):
        for size in range(0, len(whole) - 8, 8):
            path.write_bytes(whole[:size])
            with pytest.raises(DataError, match=r"a\.mat: "):
                read_palette(path, 5)
        for _ in range(300):
            mutated = np.frombuffer(whole, np.uint8).copy()
            mutated[random.integers(len(whole), size=3)] = random.integers(256, size=3)
            path.write_bytes(mutated.tobytes())
            try:
                assert read_palette(path, 5).shape == (5, 3)
            except DataError as error:
                assert str(error).startswith(f"{path}: ")
