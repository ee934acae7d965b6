"""Two gloo processes score a data set of seven images together, one of which has no predictions."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def alone():
    """The script's functions, to score in this process what the ranks score together."""
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What each rank saw."""
    folder = tmp_path_factory.mktemp("ranks")
    outputs = [folder / f"{rank}.json" for rank in range(2)]
    ranks = [
        subprocess.Popen([sys.executable, SCRIPT, str(rank), "2", folder / "store", output])
        for rank, output in enumerate(outputs)
    ]
    try:
        assert [rank.wait(timeout=90) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    return [json.loads(output.read_text()) for output in outputs]


def test_every_rank_gets_exactly_the_figures_of_one_rank(answers, alone):
    expected = alone["metric_of"](alone["IMAGE_IDS"]).compute()
    assert 0.05 < expected["bbox"]["AP"] < 0.95
    assert answers[0]["results"] == expected
    assert answers[1]["results"] == expected


def test_an_image_that_two_ranks_saw_is_written_once(answers, alone):
    rows = alone["metric_of"](alone["IMAGE_IDS"]).results()
    assert [answer["rows"] for answer in answers] == [len(rows), 0]


def test_an_error_on_rank_0_reaches_every_rank(answers):
    for answer in answers:
        assert "5 of 7 images to score were never seen, the first is 8" in answer["incomplete"]
    assert answers[0]["crash"] == "MemoryError: no room"
    assert answers[1]["crash"] == "RuntimeError: scoring failed on rank 0: no room"
