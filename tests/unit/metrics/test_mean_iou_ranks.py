"""Two gloo processes score label maps as one does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.ranks import on_two_ranks
from swin_dense.errors import DataError
from swin_dense.metrics import MeanIoU

IMAGE_IDS = [3, 5, 8, 13, 21, 34, 55]
NAMES = [str(number) for number in range(9)]  # the last of them never occurs


def metric_of(image_ids: list[int], handed_in: list[int]) -> MeanIoU:
    metric = MeanIoU(NAMES, image_ids, ignore_index=255)
    for image_id in handed_in:
        random = torch.Generator().manual_seed(image_id)
        truth = torch.randint(0, 8, (20, 30 + image_id), generator=random)
        noise = torch.rand(truth.shape, generator=random)
        metric.update([image_id], [torch.where(noise < 0.5, truth, truth.flip(1))], [truth.where(noise > 0.1, 255)])
    return metric


def work(rank: int) -> dict[str, Any]:
    """Of seven images, of one (which a sampler hands to every rank), and of seven of which some are missing."""
    metric = metric_of(IMAGE_IDS, [*IMAGE_IDS, IMAGE_IDS[0]][rank::2])
    answer: dict[str, Any] = {"seven": str(metric.compute()), "confusion": metric.confusion().tolist()}
    answer["one"] = str(metric_of(IMAGE_IDS[:1], IMAGE_IDS[:1]).compute())
    try:
        metric_of(IMAGE_IDS, [] if rank else IMAGE_IDS[::2]).compute()
    except DataError as error:
        answer["incomplete"] = str(error)
    return answer


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank saw."""
    return on_two_ranks(work, tmp_path_factory.mktemp("ranks") / "store")


def test_every_rank_gets_exactly_the_figures_and_counts_of_one_rank(answers: list[dict[str, Any]]) -> None:
    metric = metric_of(IMAGE_IDS, IMAGE_IDS)
    assert 30 < metric.compute()["mIoU"] < 60
    for answer in answers:
        assert answer["seven"] == str(metric.compute())
        assert answer["confusion"] == metric.confusion().tolist()


def test_the_image_that_every_rank_saw_because_there_are_fewer_images_than_ranks_counts_once(
    answers: list[dict[str, Any]],
) -> None:
    expected = metric_of([3], [3]).compute()
    assert [answer["one"] for answer in answers] == [str(expected)] * 2


def test_images_that_one_rank_misses_are_missed_by_every_rank(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        assert "3 of 7 images to score were never seen, the first is 5" in answer["incomplete"]
