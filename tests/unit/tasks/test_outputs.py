"""Results that cannot be written are refused before there are any."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from swin_dense.config import load_config
from swin_dense.errors import ConfigError
from swin_dense.export.deploy import check_output
from swin_dense.export.manifest import begin
from swin_dense.files import check_output_file, check_output_folder
from swin_dense.tasks import task_of
from swin_dense.tasks.evaluation import evaluate_module
from swin_dense.tasks.training import train

DEMOS = Path(__file__).resolve().parents[3] / "configs" / "demo"


def test_what_can_be_written_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path("new.json"), tmp_path / "new" / "deep" / "new.json"):
        check_output_file(path)
    for path in (Path("."), Path("new"), tmp_path / "new" / "deep"):
        check_output_folder(path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.json").write_text("[]")
    check_output_file(tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "[]"


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        check_output_file(tmp_path)
    with pytest.raises(ConfigError, match="file is a file; name a folder"):
        check_output_file(tmp_path / "file" / "new.json")
    for path in (tmp_path / "file", tmp_path / "file" / "new" / "deep"):
        with pytest.raises(ConfigError, match="file is a file; name a folder"):
            check_output_folder(path)


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(dir))

    monkeypatch.setattr("swin_dense.files.TemporaryFile", refuse)
    with pytest.raises(ConfigError, match="cannot be written to .Permission denied.; name another folder"):
        check_output_file(tmp_path / "new" / "new.json")


def test_evaluation_and_training_refuse_before_they_read_anything(tmp_path: Path) -> None:
    detection = load_config(DEMOS / "mask-rcnn_swin-nano_shapes.py", ["data.root='absent'"])
    segmentation = load_config(DEMOS / "upernet_swin-nano_shapes.py", ["data.root='absent'"])
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        evaluate_module(task_of(detection), detection, None, (), predictions=tmp_path)
    with pytest.raises(ConfigError, match="file is a file; name a folder"):
        evaluate_module(task_of(segmentation), segmentation, None, (), predictions=tmp_path / "file")
    with pytest.raises(ConfigError, match="file is a file; name a folder"):
        train(detection, tmp_path / "file" / "run")
    with pytest.raises(ConfigError, match=r"run.udcff': the name of a run folder must be UTF-8; name another"):
        train(detection, tmp_path / "run\udcff")


def test_exports_refuse_before_they_compute_anything(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file; name a folder"):
        check_output(tmp_path / "file" / "model.onnx", "onnx")
    with pytest.raises(ConfigError, match="file is a file; name a folder"):
        begin(tmp_path / "file" / "features", {})
