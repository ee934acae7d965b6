"""Checkpoints are whole or not there, in their own folder alone, and say what went wrong first."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from swin_dense.errors import OutputError
from swin_dense.training.callbacks import BestCheckpoint, WholeFiles


def test_a_full_disk_keeps_the_checkpoint_before_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"epoch": 1}, path)

    def full(content: Any, file: Any) -> None:
        file.write(b"half of it")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("unexpected pos 64 vs 0") from error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"last\.ckpt cannot be written: No space left on device; .* kept"):
        WholeFiles().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["last.ckpt"]


def test_nothing_is_staged_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    WholeFiles().save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"epoch": 1}


def best(run: Path, *scores: float) -> BestCheckpoint:
    callback = BestCheckpoint(run, "mIoU", "top-{step}", len(scores))
    files = [str(run / f"top-step={i}.ckpt") for i in range(len(scores))]
    callback.best_k_models = dict(zip(files, map(torch.tensor, scores), strict=True))
    callback.best_model_path, callback.kth_best_model_path = files[0], files[-1]
    callback.best_model_score, callback.kth_value = torch.tensor(max(scores)), torch.tensor(min(scores))
    return callback


def test_scores_go_with_the_files_wherever_the_run_lies(tmp_path: Path) -> None:
    state = best(tmp_path / "first", 3.0, 2.0).state_dict()
    assert str(tmp_path) not in repr(state)
    moved = tmp_path / "moved"
    moved.mkdir()
    for i in range(2):
        (moved / f"top-step={i}.ckpt").touch()
    callback = BestCheckpoint(moved, "mIoU", "top-{step}", 2)
    callback.load_state_dict(state)
    expected = {str(moved / "top-step=0.ckpt"): 3.0, str(moved / "top-step=1.ckpt"): 2.0}
    assert {path: float(score) for path, score in callback.best_k_models.items()} == expected
    assert callback.best_model_path == str(moved / "top-step=0.ckpt")
    (moved / "top-step=1.ckpt").unlink()
    callback.load_state_dict(state)
    assert callback.kth_best_model_path == str(moved / "top-step=0.ckpt")
