import csv
import sys

import pytest
from matplotlib.figure import Figure
from PIL import Image

from swin_dense.errors import DataError
from swin_dense.visualize.curves import draw_curves


def write_metrics(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "epoch", "train/loss", "train/loss_mask", "val/bbox_AP", "val/segm_AP"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_curves_are_drawn_of_a_sparse_table_without_the_global_state_of_pyplot(tmp_path):
    rows = [{"step": step, "epoch": step // 10, "train/loss": 9 / (step + 1)} for step in range(30)]
    rows += [{"step": 9, "epoch": 0, "val/bbox_AP": -1.0}, {"step": 29, "epoch": 2, "val/bbox_AP": 0.5}]
    draw_curves(write_metrics(tmp_path / "metrics.csv", rows), tmp_path / "charts" / "curves.svg")
    drawing = (tmp_path / "charts" / "curves.svg").read_text()
    assert drawing.count("<path") > 10
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_run_that_recorded_nothing_has_empty_curves(tmp_path):
    draw_curves(write_metrics(tmp_path / "metrics.csv", []), tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size[0] > 1000


@pytest.mark.parametrize("text", ["step,epoch\n1,two\n", "a,b\n1,2\n", "step,epoch\n1,2,3\n", "\0\n1\n"])
def test_a_table_of_something_else_is_named(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(DataError, match=r"metrics\.csv"):
        draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"metrics\.csv"):
        draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")


def test_epochs_count_from_1_as_in_the_text(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: shown.append(figure) or path.touch())
    rows = [{"step": 9, "epoch": 0, "val/bbox_AP": 0.25}, {"step": 19, "epoch": 1, "val/bbox_AP": 0.5}]
    draw_curves(write_metrics(tmp_path / "metrics.csv", rows), tmp_path / "curves.png")
    line, *_ = shown[0].axes[1].lines
    assert line.get_xydata().tolist() == [[1, 25], [2, 50]]
