"""Every image of an epoch is drawn, in batches of one orientation, the same for every worker count and every resume."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from swin_dense.data.samplers import EvaluationSampler, TrainBatchSampler
from swin_dense.errors import DataError

Batches = list[list[tuple[int, int]]]


def image_sizes(landscape: int, portrait: int) -> np.ndarray:
    """So many images of each orientation, mixed up."""
    sizes = np.array([(3, 4)] * landscape + [(4, 3)] * portrait)
    return np.random.default_rng(0).permutation(sizes)


def epoch_of_all_ranks(
    sizes: np.ndarray, batch_size: int, world_size: int, epoch: int = 0, seed: int = 0
) -> list[Batches]:
    ranks = []
    for rank in range(world_size):
        sampler = TrainBatchSampler(sizes, batch_size, seed, rank, world_size)
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler)
    return ranks


@given(
    landscape=st.integers(0, 40),
    portrait=st.integers(0, 40),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 5),
    epoch=st.integers(0, 50),
)
@example(landscape=1, portrait=0, batch_size=8, world_size=4, epoch=0)
@example(landscape=1, portrait=1, batch_size=1, world_size=5, epoch=0)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_every_image_is_drawn_and_repeats_stay_within_the_documented_bound(
    landscape: int, portrait: int, batch_size: int, world_size: int, epoch: int
) -> None:
    if landscape + portrait == 0:
        return
    sizes = image_sizes(landscape, portrait)
    ranks = epoch_of_all_ranks(sizes, batch_size, world_size, epoch)
    assert len({len(batches) for batches in ranks}) == 1
    batches = [batch for rank in ranks for batch in rank]
    assert {len(batch) for batch in batches} == {batch_size}
    assert {key[0] for batch in batches for key in batch} == {epoch}
    drawn = Counter(index for batch in batches for _, index in batch)
    assert set(drawn) == set(range(len(sizes)))
    assert drawn.total() - len(sizes) < batch_size * world_size


def test_batches_are_of_one_orientation_but_for_the_left_overs() -> None:
    sizes = image_sizes(70, 33)
    is_landscape = sizes[:, 1] > sizes[:, 0]
    places = []
    for epoch in range(8):
        (batches,) = epoch_of_all_ranks(sizes, 8, 1, epoch)
        orientations = [{bool(is_landscape[index]) for _, index in batch} for batch in batches]
        mixed = [place for place, found in enumerate(orientations) if len(found) == 2]
        assert len(batches) == 13 and len(mixed) == 1
        places.append(mixed[0])
    assert len(set(places)) > 3  # shuffled among the others


def test_square_images_count_as_landscape() -> None:
    sizes = np.array([(4, 4), (3, 4), (4, 3), (4, 3)] * 10)
    (batches,) = epoch_of_all_ranks(sizes, 4, 1)
    portrait = [[index % 4 >= 2 for _, index in batch] for batch in batches]
    assert len(batches) == 10 and all(len(set(orientations)) == 1 for orientations in portrait)


@pytest.mark.parametrize("epoch", range(5))
def test_no_batch_has_an_image_twice(epoch: int) -> None:
    (batches,) = epoch_of_all_ranks(image_sizes(41, 33), 8, 1, epoch)
    assert len(batches) == 10
    assert all(len(set(batch)) == 8 for batch in batches)


def test_ranks_share_an_epoch_without_overlap_when_it_divides() -> None:
    ranks = epoch_of_all_ranks(image_sizes(32, 16), 4, 3)
    drawn = Counter(index for batches in ranks for batch in batches for _, index in batch)
    assert set(drawn.values()) == {1} and len(drawn) == 48


def test_order_depends_on_seed_and_epoch_alone() -> None:
    sizes = image_sizes(40, 24)

    def order(seed: int, epoch: int) -> list[int]:
        (batches,) = epoch_of_all_ranks(sizes, 4, 1, epoch, seed)
        return [index for batch in batches for _, index in batch]

    np.random.seed(1)
    first = order(0, 3)
    np.random.seed(2)
    assert order(0, 3) == first
    assert order(0, 4) != first and order(1, 3) != first
    assert order(0, 0) != sorted(order(0, 0))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_resumed_epoch_is_the_rest_of_the_whole_one(rank: int) -> None:
    sampler = TrainBatchSampler(image_sizes(25, 14), 4, seed=3, rank=rank, world_size=2)
    sampler.set_epoch(6)
    whole = list(sampler)
    for start in range(len(sampler) + 1):
        sampler.set_epoch(6, start)
        assert list(sampler) == whole[start:]
        assert len(sampler) == len(whole)
    sampler.set_epoch(7)
    assert len(list(sampler)) == len(whole)


@given(length=st.integers(1, 60), batch_size=st.integers(1, 5), world_size=st.integers(1, 9))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_evaluation_draws_every_image_once(length: int, batch_size: int, world_size: int) -> None:
    samplers = [EvaluationSampler(length, batch_size, rank, world_size) for rank in range(world_size)]
    ranks = [list(sampler) for sampler in samplers]
    assert [len(batches) for batches in ranks] == [len(sampler) for sampler in samplers]
    assert all(len(batch) == batch_size for batches in ranks for batch in batches[:-1])
    drawn = [[key for batch in batches for key in batch] for batches in ranks]
    assert {key for keys in drawn for key in keys} == {(0, index) for index in range(length)}
    assert min(map(len, drawn)) >= 1
    assert sum(map(len, drawn)) == max(length, world_size)
    assert drawn[0] == sorted(drawn[0])


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(DataError, match="no image"):
        TrainBatchSampler(np.zeros((0, 2), int), 2, 0)
    with pytest.raises(DataError, match="no image"):
        EvaluationSampler(0)
