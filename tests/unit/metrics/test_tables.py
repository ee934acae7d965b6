"""Tables of what the engine computes besides, beside COCO's metrics and hotcoco's LVIS."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hotcoco import COCO, COCOeval

from swin_dense.metrics import COCO_METRICS, evaluate_coco_files
from swin_dense.metrics.tables import LVIS_METRICS, write_class_table, write_coco_tables


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tables_hold_the_metrics_of_every_class_and_size_and_those_of_boundaries(
    shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "coco_eval_golden"
    files = folder / "instances_val2014_100.json", folder / "instances_val2014_fakesegm100_results.json"
    summary = write_coco_tables(*files, tmp_path)
    scores = evaluate_coco_files(*files)["segm"]
    assert summary["segm"] == pytest.approx({name: scores[name] for name in COCO_METRICS}, abs=1e-12)
    assert 0 < summary["boundary"]["AP"] < summary["segm"]["AP"]
    by_class = {row["class"]: row["AP"] for row in read(tmp_path / "classes.csv") if row["kind"] == "segm"}
    assert {name: float(one or -1) for name, one in by_class.items()} == pytest.approx(scores["per_class"])
    by_size = {row["size"]: float(row["AP"]) for row in read(tmp_path / "sizes.csv") if row["kind"] == "segm"}
    wanted = {"all": "AP", "small": "APs", "medium": "APm", "large": "APl"}
    assert by_size == pytest.approx({size: scores[name] for size, name in wanted.items()})
    assert [row["kind"] for row in read(tmp_path / "summary.csv")] == ["segm", "boundary"]


def test_the_metrics_of_lvis_are_those_of_another_engine(shared_data: Path, tmp_path: Path) -> None:
    """COCO's example results, where every third class is exhaustively annotated in the images of every second id."""
    folder = shared_data / "coco_eval_golden"
    content: dict[str, Any] = json.loads((folder / "instances_val2014_100.json").read_text())
    rows = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    content["annotations"] = [one for one in content["annotations"] if not one["iscrowd"]]
    ids = [category["id"] for category in content["categories"]]
    held = {one["id"]: set() for one in content["images"]}
    for one in content["annotations"]:
        held[one["image_id"]].add(one["category_id"])
    for place, image in enumerate(content["images"]):
        image["neg_category_ids"] = [one for one in ids[:: 1 + place % 3] if one not in held[image["id"]]]
        image["not_exhaustive_category_ids"] = sorted(held[image["id"]])[:: 2 + place % 2]
    for place, category in enumerate(content["categories"]):
        category |= {"frequency": "rcf"[place % 3], "image_count": 1 + place}
    (tmp_path / "gt.json").write_text(json.dumps(content))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    ours = write_coco_tables(tmp_path / "gt.json", tmp_path / "rows.json", tmp_path / "out")["lvis bbox"]
    truth = COCO(content)
    theirs = COCOeval(truth, truth.load_res(rows), "bbox", lvis_style=True)
    theirs.run()
    assert ours == pytest.approx({name: theirs.get_results()[name] for name in LVIS_METRICS}, abs=1e-9)


def test_absent_classes_have_empty_cells(tmp_path: Path) -> None:
    write_class_table({"per_class": {"sky": {"IoU": 50.0, "Acc": float("nan")}}}, tmp_path)
    assert read(tmp_path / "classes.csv") == [{"class": "sky", "IoU": "50.0", "Acc": ""}]
