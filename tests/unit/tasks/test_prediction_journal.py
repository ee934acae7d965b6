"""What an interrupted prediction leaves is neither lost nor taken for something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from swin_dense.tasks.prediction import PredictionJournal, file_identity

IDENTITY = {"weights": ["a.safetensors", 5, 7]}


def test_what_is_done_is_known_to_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "output" / "unfinished.jsonl"
    journal = PredictionJournal(path, IDENTITY)
    assert journal.done == {}
    journal.add("c.png", [{"score": 0.1}, {"score": 0.30000000000000004}])
    journal.add("a\n\udcff.png", [])
    again = PredictionJournal(path, IDENTITY)
    assert again.done == {"c.png": [{"score": 0.1}, {"score": 0.30000000000000004}], "a\n\udcff.png": []}
    again.close()
    assert not path.exists()


def test_a_line_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "unfinished.jsonl"
    journal = PredictionJournal(path, IDENTITY)
    journal.add("0.png", [{"score": 0.5}])
    journal.add("1.png", [{"score": 0.7}])
    whole = path.read_text()
    for length in range(2, 20):
        path.write_text(whole[:-length])
        again = PredictionJournal(path, IDENTITY)
        assert again.done == {"0.png": [{"score": 0.5}]}, length
        again.add("1.png", [{"score": 0.7}])
        assert path.read_text() == whole


@pytest.mark.parametrize("line", ["7", "null", '["a.png"]', "[{}, []]", '["a.png", 7]', "[" * 100_000], ids=range(6))
def test_a_line_that_is_no_result_ends_what_is_known(line: str, tmp_path: Path) -> None:
    path = tmp_path / "unfinished.jsonl"
    PredictionJournal(path, IDENTITY).add("0.png", [])
    path.write_text(f'{path.read_text()}{line}\n["1.png", []]\n')
    assert PredictionJournal(path, IDENTITY).done == {"0.png": []}


def test_a_journal_of_something_else_is_started_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "unfinished.jsonl"
    PredictionJournal(path, IDENTITY).add("0.png", [{"score": 0.5}])
    assert PredictionJournal(path, IDENTITY).done
    assert capsys.readouterr().err == ""
    assert PredictionJournal(path, {**IDENTITY, "score_threshold": 0.3}).done == {}
    assert f"{path} is of other weights or options" in capsys.readouterr().err
    assert PredictionJournal(path, IDENTITY).done == {}
    for garbage in ("", "\n", "[]\n[]\n"):
        path.write_text(garbage)
        assert PredictionJournal(path, IDENTITY).done == {}


def test_a_file_that_is_rewritten_is_another(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_text("one")
    before = file_identity(path)
    assert file_identity(path) == before
    path.write_text("other")
    assert file_identity(path) != before
