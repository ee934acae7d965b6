"""The randomness of a sample derives from (seed, epoch, index) alone.

So a sample is the same with any number of workers, on any rank, and after a resume in the middle of an epoch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch

SampleKey = tuple[int, int]
"""(epoch, index): what samplers draw and a `SeededDataset` is indexed by."""

Item = TypeVar("Item")
ItemCovariant = TypeVar("ItemCovariant", covariant=True)


class IndexedItems(Protocol[ItemCovariant]):
    """A map-style data set."""

    def __len__(self) -> int:
        """Number of items."""
        ...

    def __getitem__(self, index: int, /) -> ItemCovariant:
        """One item."""
        ...


@contextmanager
def seeded(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Seeds torch's CPU generator, numpy and `random` for one sample, and puts their states back afterwards.

    Our transforms draw from torch alone; a user's own may draw from the other two. Putting the states back keeps a
    loader without workers, which runs in the training process, from disturbing dropout and samplers there. Accelerator
    generators are left alone, which is why this does not call `torch.manual_seed`.
    """
    torch_seed, numpy_seed, python_seed = np.random.SeedSequence((seed, epoch, index)).generate_state(3).tolist()
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(torch_seed)
    np.random.seed(numpy_seed)
    random.seed(python_seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


class SeededDataset(torch.utils.data.Dataset[Item], Generic[Item]):
    """A data set with its transform, indexed by (epoch, index), whose items depend on nothing else."""

    def __init__(self, dataset: IndexedItems[Item], transform: Callable[[Item], Item], seed: int) -> None:
        """Wraps a data set of untransformed items with the run's seed, >= 0."""
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        """Number of items of one epoch."""
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Item:
        """Reads and transforms item `index` as it looks in `epoch`."""
        epoch, index = key
        with seeded(self.seed, epoch, index):
            return self.transform(self.dataset[index])
