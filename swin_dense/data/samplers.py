"""Which samples come in which batch, on which rank, in which order, and what they look like: functions of the seed.

Batches are a function of (seed, epoch), the randomness of a sample is one of (seed, epoch, index). So a sample is the
same with any number of workers, on any rank, and after a resume in the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from swin_dense.errors import DataError
from swin_dense.isolation import seeded

SampleKey = tuple[int, int]
"""(epoch, index): what samplers draw and a `SeededDataset` is indexed by."""

Item = TypeVar("Item")
ItemCovariant = TypeVar("ItemCovariant", covariant=True)


class IndexedItems(Protocol[ItemCovariant]):
    """A map-style data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ItemCovariant: ...


class SeededDataset(torch.utils.data.Dataset[Item], Generic[Item]):
    """A data set with its transform, indexed by (epoch, index), whose items depend on nothing else."""

    def __init__(self, dataset: IndexedItems[Item], transform: Callable[[Item], Item], seed: int) -> None:
        """Wraps a data set of untransformed items with the run's seed, >= 0."""
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Item:
        """Reads and transforms item `index` as it looks in `epoch`."""
        epoch, index = key
        with seeded(self.seed, epoch, index):
            return self.transform(self.dataset[index])


Keys = list[SampleKey]
"""Of the samples of a batch."""


class TrainBatchSampler(DistributedSampler[Keys]):
    """Draws shuffled batches of keys whose images are all landscape (W >= H) or all portrait, to save padding.

    The images of an epoch are shuffled and cut into full batches, orientation by orientation. What is left over of both
    orientations makes up one or two mixed batches; all batches are then shuffled and dealt out to the ranks in turn. So
    every image comes at least once in every epoch. Images are repeated only to fill the last mixed batch (fewer than
    `batch_size` images, the first of the epoch's order) and to give every rank the same number of batches (fewer than
    `world_size` batches, the first that were dealt).
    """

    def __init__(
        self, image_sizes: NDArray[np.integer], batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """Sorts images of these (n, 2) heights and widths by orientation; all ranks have the same seed."""
        if len(image_sizes) == 0:
            raise DataError("the training set has no image to draw; check the annotation file and what is filtered out")
        super().__init__(cast(Any, image_sizes), num_replicas=world_size, rank=rank, seed=seed)
        self.landscape = image_sizes[:, 1] >= image_sizes[:, 0]
        self.batch_size = batch_size
        self.world_size = world_size
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Chooses what the next iteration draws: an epoch, without so many of this rank's first batches."""
        self.epoch = epoch
        self.start_batch = start_batch

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch, wherever it starts; the same in every epoch and on every rank."""
        full = sum(int(group.sum()) // self.batch_size for group in (self.landscape, ~self.landscape))
        left_over = len(self.landscape) - full * self.batch_size
        return -(-(full + -(-left_over // self.batch_size)) // self.world_size)

    def __iter__(self) -> Iterator[Keys]:
        batches = self._batches_of_all_ranks()
        dealt = islice(cycle(batches), len(self) * self.world_size)
        for batch in islice(dealt, self.start_batch * self.world_size + self.rank, None, self.world_size):
            yield [(self.epoch, index) for index in batch.tolist()]

    def _batches_of_all_ranks(self) -> list[NDArray[np.integer]]:
        """The epoch's batches, shuffled, each (batch_size,) indices."""
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(len(self.landscape))
        groups = order[self.landscape[order]], order[~self.landscape[order]]
        whole = [len(group) - len(group) % self.batch_size for group in groups]
        mixed = np.concatenate([group[count:] for group, count in zip(groups, whole, strict=True)])
        filling = np.resize(order, -len(mixed) % self.batch_size)
        drawn = np.concatenate([*(group[:count] for group, count in zip(groups, whole, strict=True)), mixed, filling])
        return list(generator.permutation(drawn.reshape(-1, self.batch_size)))


class EvaluationSampler(DistributedSampler[Keys]):
    """Deals the images out to the ranks in turn, without repeats, so ranks may differ by one image.

    Only where there are more ranks than images does a rank repeat an image, since a process without any batch would
    leave the others waiting for it in the first collective call; the metric counts an image once.
    """

    def __init__(self, length: int, batch_size: int = 1, rank: int = 0, world_size: int = 1) -> None:
        """Chooses this rank's images of a data set of some length; the last batch may be smaller."""
        if length == 0:
            raise DataError("there is no image to evaluate on; check the annotation file")
        super().__init__(cast(Any, range(length)), num_replicas=world_size, rank=rank, shuffle=False)
        self.indices = range(rank, length, world_size) or [rank % length]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Keys]:
        """Draws this rank's batches, always of epoch 0, so that every evaluation is the same."""
        for start in range(0, len(self.indices), self.batch_size):
            yield [(0, index) for index in self.indices[start : start + self.batch_size]]
