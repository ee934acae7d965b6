"""COCO's published results reproduce exactly, and real annotations score as plain pycocotools scores them."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval.core import faster_eval_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from swin_dense.metrics import COCO_METRICS, ENGINES, IOU_TYPES, evaluate_coco_files


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("iou_type", IOU_TYPES)
def test_the_golden_results_reproduce_to_the_last_digit(shared_data: Path, iou_type: str, engine: str):
    folder = shared_data / "coco_eval_golden"
    expected = json.loads((folder / "expected.json").read_text())["expected"][iou_type]
    results = evaluate_coco_files(
        folder / "instances_val2014_100.json",
        folder / f"instances_val2014_fake{iou_type}100_results.json",
        engine=engine,
    )
    assert list(results) == [iou_type]
    for name in COCO_METRICS:
        assert round(results[iou_type][name] - expected[name], 12) == 0.0


def test_the_number_of_threads_changes_nothing(shared_data: Path, monkeypatch: pytest.MonkeyPatch):
    folder = shared_data / "coco_eval_golden"
    answers = []
    for threads in (1, 8):
        monkeypatch.setattr(faster_eval_api, "_available_cpu_count", lambda threads=threads: threads)
        files = folder / "instances_val2014_100.json", folder / "instances_val2014_fakesegm100_results.json"
        answers.append(evaluate_coco_files(*files))
    assert answers[0] == answers[1]


def rows_of(coco: COCO, noise: float) -> list[dict]:
    """The annotated objects as result rows, with boxes moved by `noise` of their size, objects missed and confused."""
    random = np.random.default_rng(0)
    rows = []
    for annotation in coco.dataset["annotations"]:
        if annotation["iscrowd"] or random.random() < noise:
            continue
        x, y, width, height = annotation["bbox"]
        dx, dy = noise * random.normal(size=2) * (width, height)
        confused = random.random() < noise
        rle = coco.annToRLE(annotation)
        rows.append(
            {
                "image_id": annotation["image_id"],
                "category_id": int(random.choice(sorted(coco.cats))) if confused else annotation["category_id"],
                "bbox": [x + dx, y + dy, width, height],
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                "score": round(random.random(), 1),  # so coarse that many scores tie
            }
        )
    return rows


def plain_pycocotools(
    coco: COCO, rows: list[dict], iou_type: str, category_ids: list[int] | None = None
) -> list[float]:
    """The twelve metrics, as pycocotools' own demo computes them; boxes leave no mark on the scores of masks."""
    key = "segmentation" if iou_type == "segm" else "bbox"
    rows = [{name: row[name] for name in ("image_id", "category_id", "score", key)} for row in rows]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(rows), iou_type)
        evaluation.params.catIds = category_ids or evaluation.params.catIds
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


@pytest.fixture(scope="module")
def real(shared_data: Path) -> tuple[Path, COCO]:
    file = shared_data / "coco2017_tiny" / "annotations" / "instances_val2017.json"
    with contextlib.redirect_stdout(io.StringIO()):
        return file, COCO(str(file))


@pytest.mark.parametrize("engine", ENGINES)
def test_real_annotations_found_exactly_score_one(real, tmp_path, engine):
    file, coco = real
    (tmp_path / "rows.json").write_text(json.dumps(rows_of(coco, noise=0)))
    for scores in evaluate_coco_files(file, tmp_path / "rows.json", engine=engine).values():
        assert [scores[name] for name in ("AP", "AP75", "APs", "APl", "ARm")] == pytest.approx([1] * 5)


def test_noisy_detections_of_real_objects_score_as_in_plain_pycocotools(real, tmp_path):
    file, coco = real
    rows = rows_of(coco, noise=0.15)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    person = next(category["id"] for category in coco.dataset["categories"] if category["name"] == "person")
    expected = {iou_type: plain_pycocotools(coco, rows, iou_type) for iou_type in IOU_TYPES}
    of_person = {iou_type: plain_pycocotools(coco, rows, iou_type, [person])[0] for iou_type in IOU_TYPES}
    assert 0.05 < expected["bbox"][0] < 0.6
    for engine in ENGINES:
        results = evaluate_coco_files(file, tmp_path / "rows.json", engine=engine)
        for iou_type, scores in results.items():
            assert [scores[name] for name in COCO_METRICS] == pytest.approx(expected[iou_type], abs=1e-12)
            assert scores["per_class"]["person"] == pytest.approx(of_person[iou_type], abs=1e-12)
