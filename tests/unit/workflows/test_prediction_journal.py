"""What an interrupted prediction leaves is neither lost nor taken for something else."""

from __future__ import annotations

from pathlib import Path

from swin_dense.workflows.prediction_journal import PredictionJournal, file_identity

IDENTITY = {"weights": ["a.safetensors", 5, 7]}


def test_what_is_done_is_known_to_the_next_process_in_the_order_of_the_images(tmp_path: Path) -> None:
    path = tmp_path / "output" / "unfinished.jsonl"
    journal = PredictionJournal(path, IDENTITY)
    assert journal.done == {}
    journal.add(2, [{"score": 0.1}, {"score": 0.30000000000000004}])
    journal.add(0, [])
    again = PredictionJournal(path, IDENTITY)
    assert again.done == {2: [{"score": 0.1}, {"score": 0.30000000000000004}], 0: []}
    again.add(1, [{"score": 0.2}])
    assert again.rows() == [{"score": 0.2}, {"score": 0.1}, {"score": 0.30000000000000004}]
    again.close()
    assert not path.exists()


def test_a_line_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "unfinished.jsonl"
    journal = PredictionJournal(path, IDENTITY)
    journal.add(0, [{"score": 0.5}])
    journal.add(1, [{"score": 0.7}])
    whole = path.read_text()
    for length in range(2, 20):
        path.write_text(whole[:-length])
        again = PredictionJournal(path, IDENTITY)
        assert again.done == {0: [{"score": 0.5}]}, length
        again.add(1, [{"score": 0.7}])
        assert path.read_text() == whole


def test_a_journal_of_something_else_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "unfinished.jsonl"
    PredictionJournal(path, IDENTITY).add(0, [{"score": 0.5}])
    assert PredictionJournal(path, {**IDENTITY, "score_threshold": 0.3}).done == {}
    assert PredictionJournal(path, IDENTITY).done == {}
    for garbage in ("", "\n", "[]\n[]\n"):
        path.write_text(garbage)
        assert PredictionJournal(path, IDENTITY).done == {}


def test_a_file_that_is_written_anew_is_another(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_text("one")
    before = file_identity(path)
    assert file_identity(path) == before
    path.write_text("other")
    assert file_identity(path) != before
