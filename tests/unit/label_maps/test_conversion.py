"""Label files become classes once: which raw label is which class, which is ignored, which is an error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swin_dense.errors import ConfigError, DataError
from swin_dense.label_maps.conversion import LabelConversion
from swin_dense.label_maps.files import count_labels
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


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((3, -(10**12), 255), "labels 1000000000000..1000000000002, but a label PNG holds 0..65535"),
        ((3, -65534, 255), r"65534\.\.65536"),
        ((70_000, 0, 255), r"70000 classes .* 0\.\.69999"),
        ((3, 10**30, 255), "0 or negative"),
        ((3, 0, 65536), "ignore_index must be at most 65535"),
        ((3, 0, 10**30), "ignore_index must be at most 65535"),
    ],
)
def test_numbers_that_no_png_can_hold_are_refused(arguments, fault):
    with pytest.raises(ConfigError, match=fault):
        LabelConversion(*arguments)


@pytest.mark.parametrize("ignore_index", [-1, -100, -(10**30)])
def test_a_negative_ignore_index_ignores_no_label(ignore_index, tmp_path):
    labels = np.array([[0, 255]], np.uint8)
    assert LabelConversion(256, 0, ignore_index).classes(labels, tmp_path).tolist() == [[0, 255]]


def test_the_largest_labels_are_classes_too(tmp_path):
    labels = np.array([[0, 65534, 65535]], np.uint16)
    assert LabelConversion(2, -65534, -1).classes(labels, tmp_path).tolist() == [[NONE, 0, 1]]
