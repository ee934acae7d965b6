"""Readers of JSON and of settings on any value at all, which `mutations` of sound files would hardly reach."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swin_dense.coco.instances import read_instances
from swin_dense.coco.rules import apply_rules
from swin_dense.config import config_text, load_config
from swin_dense.errors import SwinDenseError
from swin_dense.export.boxes import read_boxes
from swin_dense.export.manifest import SETTINGS, read_settings
from swin_dense.metrics import evaluate_coco_files

TEXTS = st.text(st.characters(), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.integers(2**62, 2**66)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4))
IDS = st.integers(0, 2) | SCALARS
SIDES = st.integers(1, 9) | SCALARS
NUMBERS = st.integers(0, 9) | st.floats(0, 9) | SCALARS
COORDINATES = st.lists(NUMBERS, min_size=3, max_size=8)
RLES = st.fixed_dictionaries({"size": st.lists(SIDES, max_size=3) | SCALARS, "counts": TEXTS | COORDINATES | SCALARS})
OUTLINES = st.lists(COORDINATES, max_size=2) | RLES | VALUES
DOCUMENTS = st.fixed_dictionaries(
    {
        "images": st.lists(
            st.fixed_dictionaries({"id": IDS, "file_name": TEXTS | SCALARS, "width": SIDES, "height": SIDES}) | VALUES,
            max_size=3,
        ),
        "categories": st.lists(st.fixed_dictionaries({"id": IDS, "name": TEXTS | SCALARS}) | VALUES, max_size=2),
        "annotations": st.lists(
            st.fixed_dictionaries(
                {"id": IDS, "image_id": IDS, "category_id": IDS, "bbox": COORDINATES | VALUES},
                optional={"area": NUMBERS, "iscrowd": VALUES, "segmentation": OUTLINES},
            )
            | VALUES,
            max_size=4,
        ),
    }
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"image_id": IDS, "category_id": IDS, "score": NUMBERS},
        optional={"bbox": COORDINATES | VALUES, "segmentation": OUTLINES, "file_name": TEXTS},
    ),
    max_size=3,
)
TRUTH = {
    "images": [{"id": 1, "file_name": "a.png", "width": 9, "height": 9}],
    "categories": [{"id": 1, "name": "thing"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}],
}

many = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@many
@given(DOCUMENTS | VALUES)
def test_instances(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "any.json"
    path.write_text(json.dumps(document))
    sources = [path, document] if isinstance(document, dict) else [path]
    for source in sources:
        with suppress(SwinDenseError):
            data, findings = read_instances(source)
            json.dumps([finding.to_dict() for finding in [*findings, *apply_rules(data)]], allow_nan=False)


@many
@given(ROWS | VALUES)
def test_results(tmp_path: Path, rows: Any) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(TRUTH))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with suppress(SwinDenseError):
        scores = evaluate_coco_files(tmp_path / "gt.json", tmp_path / "rows.json")
        assert all(-1 <= one["AP"] <= 1 for one in scores.values())


@many
@given(st.dictionaries(st.sampled_from(["a.png", "b/a.png", "b"]) | TEXTS, st.lists(COORDINATES | VALUES)) | DOCUMENTS)
def test_boxes(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    with suppress(SwinDenseError):
        for rows in read_boxes(path, ["x/a.png", "b/a.png", "\udcff.png"]).values():
            assert rows.isfinite().all() and (rows[:, 2:] > rows[:, :2]).all()


@many
@given(st.fixed_dictionaries({"format": st.just(1) | VALUES}, optional={"images": IDS, "weights": TEXTS}) | VALUES)
def test_settings_of_an_export(tmp_path: Path, content: Any) -> None:
    (tmp_path / SETTINGS).write_text(json.dumps(content))
    with suppress(SwinDenseError):
        assert type(read_settings(tmp_path)["images"]) is int


KEYS = ("data", "data.batch_size", "model", "model.backbone", "task", "training.seed", "optimizer.betas", "trainer")


@many
@given(st.sampled_from(KEYS) | TEXTS, VALUES | st.tuples(VALUES, VALUES) | st.dictionaries(SCALARS, VALUES, max_size=2))
def test_set(tmp_path: Path, key: str, value: Any) -> None:
    for overrides in ({key: value}, [f"{key}={value!r}"], [f"{key}={value}"]):
        with suppress(SwinDenseError):
            config = load_config("mask-rcnn_swin-nano_shapes", overrides)
            assert load_config(config) == config and config_text(config)


@pytest.mark.parametrize("text", ["=", "a", "=1", ".=1", "..=1", "data.=1", ".data=1", "\ud800=\ud800", "data=\0"])
def test_texts_that_set_nothing(text: str) -> None:
    with pytest.raises(SwinDenseError):
        load_config("mask-rcnn_swin-nano_shapes", [text])
