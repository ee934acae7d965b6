"""Two gloo processes score label maps as one does."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("mean_iou_ranks.py")


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


def test_every_rank_gets_exactly_the_figures_and_counts_of_one_rank(answers, alone):
    metric = alone["metric_of"](alone["IMAGE_IDS"], alone["IMAGE_IDS"])
    assert 30 < metric.compute()["mIoU"] < 60
    for answer in answers:
        assert answer["seven"] == str(metric.compute())
        assert answer["confusion"] == metric.confusion().tolist()


def test_the_image_that_every_rank_saw_because_there_are_fewer_images_than_ranks_counts_once(answers, alone):
    expected = alone["metric_of"]([3], [3]).compute()
    assert [answer["one"] for answer in answers] == [str(expected)] * 2


def test_images_that_one_rank_misses_are_missed_by_every_rank(answers):
    for answer in answers:
        assert "3 of 7 images to score were never seen, the first is 5" in answer["incomplete"]
