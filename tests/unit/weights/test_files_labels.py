"""Which classes weights were trained on, as far as their file tells."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from swin_dense.errors import WeightsError
from swin_dense.weights import save_weights
from swin_dense.weights.files import read_class_names, read_labels, same_classes

TENSORS = {"fc.weight": torch.zeros(2)}


def test_ours_hold_the_names_as_metadata(tmp_path: Path) -> None:
    save_weights(TENSORS, tmp_path / "w.safetensors", metadata={"class_names": '["cat", "dog"]'})
    assert read_class_names(tmp_path / "w.safetensors") == ("cat", "dog")


@pytest.mark.parametrize(
    "meta",
    [
        {"dataset_meta": {"classes": ("cat", "dog"), "palette": [(1, 2, 3)]}},
        {"dataset_meta": {"CLASSES": ["cat", "dog"]}, "epoch": 3},
        {"CLASSES": ("cat", "dog"), "mmdet_version": "2.1"},
    ],
    ids=["mmdet 3", "mmdet 3.0", "mmdet 2"],
)
def test_those_of_mmdet_and_mmseg_hold_them_beside_the_weights(tmp_path: Path, meta: dict[str, object]) -> None:
    torch.save({"meta": meta, "state_dict": TENSORS}, tmp_path / "w.pth")
    assert read_class_names(tmp_path / "w.pth") == ("cat", "dog")


def test_others_do_not_tell(tmp_path: Path) -> None:
    save_weights(TENSORS, tmp_path / "w.safetensors")
    torch.save({"state_dict": TENSORS}, tmp_path / "plain.pth")
    torch.save({"state_dict": TENSORS, "meta": {"dataset_meta": None}}, tmp_path / "empty.pth")
    torch.save(TENSORS, tmp_path / "bare.pth")
    assert [read_class_names(path) for path in sorted(tmp_path.iterdir())] == [None] * 4


@pytest.mark.parametrize("names", ['"cat"', "cat, dog", "[1, 2]", "{}"])
def test_what_is_no_list_of_names_is_refused(tmp_path: Path, names: str) -> None:
    save_weights(TENSORS, tmp_path / "w.safetensors", metadata={"class_names": names})
    with pytest.raises(WeightsError, match=r"w\.safetensors.*not a list of texts"):
        read_class_names(tmp_path / "w.safetensors")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no file"):
        read_class_names(tmp_path / "absent.pth")


def test_the_published_spellings_of_ade20k_are_its_own_classes() -> None:
    assert same_classes(["wall", "bed ", "television receiver"], ["wall", "bed", "television"])
    assert not same_classes(["wall", "bed "], ["bed", "wall"])
    assert not same_classes(["wall"], ["wall", "bed"])
    assert not same_classes(["wall", "sofa"], ["wall", "bed"])


def test_labels_are_those_that_the_file_holds(tmp_path: Path) -> None:
    metadata = {"class_names": '["cat", "dog"]', "palette": "[[0, 0, 255], [1, 2, 3]]", "version": "1"}
    save_weights(TENSORS, tmp_path / "w.safetensors", metadata=metadata)
    assert read_labels(tmp_path / "w.safetensors") == {
        "class_names": ["cat", "dog"],
        "palette": [[0, 0, 255], [1, 2, 3]],
    }
    torch.save(TENSORS, tmp_path / "w.pth")
    assert read_labels(tmp_path / "w.pth") == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class_names", "cat, dog"),
        ("category_ids", "1, 2"),
        ("category_ids", "[1]"),
        ("category_ids", "[1, true]"),
        ("category_ids", '{"1": 2, "2": 3}'),
        ("palette", "[[0, 0, 0]]"),
        ("palette", "[[0, 0, 0], [0, 0, 256]]"),
        ("palette", "[[0, 0, 0], [0, 0]]"),
        ("palette", "[1, 2]"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, name: str, text: str) -> None:
    save_weights(TENSORS, tmp_path / "w.safetensors", metadata={"class_names": '["cat", "dog"]', name: text})
    with pytest.raises(WeightsError, match=r"w\.safetensors: its .* not a list of"):
        read_labels(tmp_path / "w.safetensors")


def test_a_zip_directory_with_a_name_that_is_no_text_is_said_to_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(3)}, path)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 9] |= 8  # the name is in UTF-8
    content[entry + 46] = 0xE1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="weights.pth is truncated or damaged"):
        read_class_names(path)
