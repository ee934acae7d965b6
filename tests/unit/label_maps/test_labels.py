"""Label files become classes once: which raw label is which class, which is ignored, which is an error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swin_dense.errors import ConfigError, DataError
from swin_dense.images.store import ImageError, ImageStore
from swin_dense.label_maps.labels import LabelConversion, count_labels, read_label_file
from swin_dense.records import IGNORE_INDEX as NONE


@pytest.mark.parametrize(
    ("conversion", "raw", "classes"),
    [
        (LabelConversion(150, -1, 255), [0, 1, 2, 150, 255], [NONE, 0, 1, 149, NONE]),
        (LabelConversion(19, 0, 255), [0, 1, 18, 255], [0, 1, 18, NONE]),
        (LabelConversion(3, -1, 255), [0, 1, 3, 255], [NONE, 0, 2, NONE]),
        (LabelConversion(1000, 0, 65535), [0, 255, 256, 999, 65535], [0, 255, 256, 999, NONE]),
        (LabelConversion(3, -1, 256), [0, 1, 3, 256], [NONE, 0, 2, NONE]),
    ],
    ids=["ade20k", "void is 255", "background and void are ignored", "16 bit", "ignore_index beyond a byte"],
)
def test_labels_become_classes_as_the_table_says(conversion, raw, classes, tmp_path):
    converted = conversion.classes(np.array([raw], np.int32), tmp_path)
    assert converted.tolist() == [classes] and converted.dtype == np.int32


@given(st.integers(1, 300), st.integers(-3, 0), st.lists(st.integers(0, 400), min_size=1, max_size=30))
def test_every_label_is_a_class_or_ignored_or_named_in_an_error(class_count, label_shift, raw):
    conversion = LabelConversion(class_count, label_shift, ignore_index=400)
    bad = [label for label in raw if label != 400 and label + label_shift >= class_count]
    labels = np.array(raw, np.int32)
    assert conversion.outside(*count_labels(labels)) == {label: raw.count(label) for label in bad}
    if bad:
        with pytest.raises(DataError, match=rf"a\.png: labels {min(bad)} \({raw.count(min(bad))} pixels\).* no class"):
            conversion.classes(labels, "a.png")
    else:
        expected = [NONE if label == 400 or label + label_shift < 0 else label + label_shift for label in raw]
        assert conversion.classes(labels, "a.png").tolist() == expected


@pytest.mark.parametrize("arguments", [(256, 0, 255), (255, -1, 255), (150, -1, 0), (150, -1, 1), (150, 1, 255)])
def test_a_label_with_two_meanings_is_refused(arguments):
    with pytest.raises(ConfigError, match="ignore_index|label_shift"):
        LabelConversion(*arguments)


def test_counting_labels_equals_numpys_sorting():
    labels = np.random.default_rng(0).integers(0, 70, (40, 50)).astype(np.int32) * 900
    for ours, theirs in zip(count_labels(labels), np.unique(labels, return_counts=True), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_palette_files_are_read_by_their_indices_and_told_apart(tmp_path):
    gray = Image.fromarray(np.array([[0, 1], [2, 150]], np.uint8))
    palette = gray.copy()
    palette.putpalette([9, 9, 9] * 256)  # all colours alike, so that only the indices can tell the labels
    for name, image in (("gray.png", gray), ("palette.png", palette)):
        image.save(tmp_path / name)
        file = read_label_file(ImageStore(tmp_path), name)
        assert file.labels.tolist() == [[0, 1], [2, 150]] and file.has_palette == (name == "palette.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colours_are_no_labels(tmp_path, mode):
    Image.new(mode, (3, 2)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=rf"a\.png: its pixels are colours \({mode}\), not labels; store") as error:
        read_label_file(ImageStore(tmp_path), "a.png")
    assert error.value.kind == "label-format"


def test_a_lossy_file_is_no_label_file(tmp_path):
    Image.new("L", (3, 2)).save(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="not an image in a known format; use one of PNG"):
        read_label_file(ImageStore(tmp_path), "a.jpg")


def test_a_truncated_label_file_is_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 99, (40, 40), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
    with pytest.raises(ImageError, match=r"a\.png: cannot be decoded") as error:
        read_label_file(ImageStore(tmp_path), "a.png")
    assert error.value.kind == "unreadable-image"
