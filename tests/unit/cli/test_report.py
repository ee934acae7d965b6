import io
import json

import pytest
from rich.console import Console

from swin_dense.cli.report import (
    ap_table,
    check_tables,
    doctor_tables,
    per_class_table,
    print_report,
    score_tables,
    stats_table,
)
from swin_dense.metrics import COCO_METRICS


@pytest.fixture
def results():
    values = [0.4779, 0.699, 1.0, -1.0, 0.0, 0.62, 0.38, 0.59, 0.595, -1.0, 0.566, 0.564]
    bbox = {
        **dict(zip(COCO_METRICS, values, strict=True)),
        "per_class": {"person": 0.5123, "hair drier": -1.0, "[red]": 0.0},
    }
    segm = {**dict.fromkeys(COCO_METRICS, 0.25), "per_class": {"person": 0.27, "hair drier": -1.0, "[red]": 0.0}}
    return {"bbox": bbox, "segm": segm}


def lines_of(*tables, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(*tables, sep="\n")
    return [line.split() for line in console.export_text().splitlines()]


def test_twelve_figures_fit_a_terminal_of_eighty_columns(results):
    lines = lines_of(ap_table(results))
    assert [*COCO_METRICS] in lines
    assert "bbox 47.8 69.9 100.0 - 0.0 62.0 38.0 59.0 59.5 - 56.6 56.4".split() in lines
    assert ["segm", *["25.0"] * 12] in lines


def test_nothing_is_cut_short_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    name = "a class of " + "x" * 100
    print_report({}, per_class_table({"bbox": {"per_class": {name: 0.5}}}), as_json=False)
    assert f" {name}      50.0 " in capsys.readouterr().out


def test_classes_have_their_ap_side_by_side(results):
    lines = lines_of(per_class_table(results))
    assert ["person", "51.2", "27.0"] in lines
    assert ["hair", "drier", "-", "-"] in lines
    assert ["[red]", "0.0", "0.0"] in lines, "square brackets are no markup"


def test_json_is_alone_on_stdout(results, capsys):
    print_report(results, ap_table(results), as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out) == results
    assert "47.8" in err


def test_a_reader_gets_the_table_on_stdout(results, capsys):
    print_report(results, ap_table(results), as_json=False)
    out, err = capsys.readouterr()
    assert "47.8" in out
    assert err == ""


def test_a_text_is_printed_as_it_is(capsys):
    path = f"runs/[bold]/{'x' * 100}.png"
    print_report({}, path, as_json=False)
    assert capsys.readouterr().out == f"{path}\n"


def test_what_is_no_number_is_null_in_json(capsys):
    print_report({"per_class": {"wall": {"IoU": float("nan")}}, "values": [float("nan"), 1.5]}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"per_class": {"wall": {"IoU": None}}, "values": [None, 1.5]}


def test_infinity_is_no_json(capsys):
    with pytest.raises(ValueError, match="JSON"):
        print_report({"AP": float("inf")}, as_json=True)
    assert capsys.readouterr().out == ""


def test_an_absent_class_has_no_iou():
    per_class = {"wall": {"IoU": 61.25, "Acc": 80.0}, "sky[0]": {"IoU": float("nan"), "Acc": float("nan")}}
    overall, by_class = score_tables({"mIoU": 61.25, "mAcc": 80.0, "aAcc": 90.5, "per_class": per_class})
    assert ["61.25", "80.00", "90.50"] in lines_of(overall)
    assert ["wall", "61.25", "80.00"] in lines_of(by_class)
    assert ["sky[0]", "-", "-"] in lines_of(by_class)


def test_a_model_is_laid_out_by_part_with_the_whole_below():
    parts = {"backbone": {"params": 27_500_000, "macs": 117_000_000_000}}
    lines = lines_of(stats_table({"params": 47_800_000, "macs": 266_600_000_000, "parts": parts}, title="Swin-T"))
    assert ["backbone", "27.50", "117.00"] in lines
    assert ["whole", "47.80", "266.60"] in lines


def problem(**changes):
    one = {"severity": "error", "kind": "zero-box", "message": "a side of zero", "fix": "remove it", "file": "a[0].jpg"}
    return {**one, "image_id": None, "annotation_id": None, **changes}


def checked(*problems):
    kinds = {one["kind"]: sum(other["kind"] == one["kind"] for other in problems) for one in problems}
    record = {"annotations": "instances.json", "ok": not problems, "counts": {"images": 118287, "empty_images": 2}}
    record["left_out_of_training"] = {"only crowd": 1234}
    return "\n".join(map(" ".join, lines_of(*check_tables({**record, "problem_counts": kinds, "problems": problems}))))


def test_one_verdict_is_on_all_splits():
    """The last one alone is sound: that is not ready."""
    sound = {"annotations": "val.json", "ok": True, "counts": {}, "left_out_of_training": {}, "problems": []}
    broken = {**sound, "annotations": "train.json", "ok": False, "problem_counts": {"zero-box": 1}}
    text = "\n".join(map(" ".join, lines_of(*check_tables({**broken, "problems": [problem()]}, sound))))
    assert text.count("errors to fix before training") == 1 and "ready for training" not in text
    assert text.index("train.json") < text.index("a side of zero") < text.index("val.json")


def test_a_sound_data_set_is_counted():
    text = checked()
    assert "images 118,287" in text
    assert "left out of training: only crowd 1,234" in text
    assert "ready for training" in text
    assert "problems" not in text


def test_the_first_problems_of_every_kind_are_shown_errors_before_warnings():
    warning = problem(severity="warning", kind="sliver", annotation_id=41)
    text = checked(warning, *(problem(image_id=100 + number) for number in range(9)), problem(kind="truncated"))
    assert text.index("image 100") < text.index("annotation 41")
    assert "image 104" in text
    assert "image 105" not in text
    assert "... and 4 more of this kind" in text
    assert "a[0].jpg" in text  # square brackets are no markup
    assert "errors to fix before training" in text


def test_an_installation_is_laid_out_with_what_to_do():
    device = {"name": "cuda:0", "description": "H100", "memory_gib": 79.6, "bf16": True, "failure": None}
    record = {
        "ok": False,
        "python": "3.11.7",
        "system": "Linux x86_64",
        "versions": {"torch": "2.14.1"},
        "mmcv_ops": None,
        "devices": [device, {**device, "name": "cpu", "memory_gib": None, "failure": "out of memory"}],
        "problems": [{"severity": "error", "what": "libGL.so is missing", "remedy": "apt install libgl1"}],
    }
    lines = lines_of(*doctor_tables(record))
    assert ["torch", "2.14.1"] in lines
    assert "cuda:0 H100 79.6 works, bfloat16 too".split() in lines
    assert "cpu H100 - out of memory".split() in lines
    assert "error: libGL.so is missing".split() in lines
    assert "apt install libgl1".split() in lines
    assert "something would fail: see above".split() in lines
