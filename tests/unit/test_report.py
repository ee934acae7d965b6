import io
import json

import pytest
from rich.console import Console

from swin_dense.metrics import FIGURES
from swin_dense.report import ap_table, per_class_table, print_report


@pytest.fixture
def results():
    values = [0.4779, 0.699, 1.0, -1.0, 0.0, 0.62, 0.38, 0.59, 0.595, -1.0, 0.566, 0.564]
    bbox = {**dict(zip(FIGURES, values, strict=True)), "per_class": {"person": 0.5123, "hair drier": -1.0}}
    segm = {**dict.fromkeys(FIGURES, 0.25), "per_class": {"person": 0.27, "hair drier": -1.0}}
    return {"bbox": bbox, "segm": segm}


def lines_of(table, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return [line.split() for line in console.export_text().splitlines()]


def test_twelve_figures_fit_a_terminal_of_eighty_columns(results):
    lines = lines_of(ap_table(results))
    assert [*FIGURES] in lines
    assert "bbox 47.8 69.9 100.0 - 0.0 62.0 38.0 59.0 59.5 - 56.6 56.4".split() in lines
    assert ["segm", *["25.0"] * 12] in lines


def test_classes_have_their_ap_side_by_side(results):
    lines = lines_of(per_class_table(results))
    assert ["person", "51.2", "27.0"] in lines
    assert ["hair", "drier", "-", "-"] in lines


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


def test_nan_is_no_json(capsys):
    with pytest.raises(ValueError, match="JSON"):
        print_report({"AP": float("nan")}, as_json=True)
    assert capsys.readouterr().out == ""
