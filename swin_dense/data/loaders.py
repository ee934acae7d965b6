"""From a data set to batches: the loaders that every data module builds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from swin_dense.data.samplers import EvaluationSampler, IndexedItems, SampleKey, SeededDataset, TrainBatchSampler
from swin_dense.data.transforms import Transform
from swin_dense.errors import DataError, SwinDenseError, TrainingError, WorkerError
from swin_dense.images.finder import handed_over, received, worker_options
from swin_dense.records import Batch, Sample, collate


@dataclass(frozen=True)
class Failure:
    """What is wrong with a sample, in its place: a message for the user."""

    message: str


class ReportingDataset(Dataset[Any]):
    """Batches of samples, and failures in the place of those that cannot be had.

    Torch makes a new exception of one that a worker raises, with the whole traceback as its message; a record comes
    through as it is.
    """

    def __init__(self, dataset: SeededDataset[Sample]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, keys: Sequence[SampleKey]) -> list[Sample | Failure]:
        """The samples of a batch, or what the user has to know of them."""
        return [self._sample(key) for key in keys]

    def _sample(self, key: SampleKey) -> Sample | Failure:
        try:
            return self.dataset[key]
        except SwinDenseError as error:
            return Failure(str(error))


class BatchLoader(DataLoader[Any]):
    """Reads batches, and says what is wrong with the data in the same words with any number of workers.

    Its sampler is a `DistributedSampler` that draws whole batches, and Lightning leaves such a one alone.
    """

    def __init__(
        self,
        dataset: IndexedItems[Sample],
        transform: Transform,
        order: TrainBatchSampler | EvaluationSampler,
        *,
        size_divisor: int,
        num_workers: int,
        **_: Any,
    ) -> None:
        """Sets what training and evaluation ask of a `DataLoader` alike; transforms are seeded for each sample.

        Lightning makes loaders again with other arguments, such as a sampler of its own, for `overfit_batches` and
        `predict`; ours are right for both.
        """
        super().__init__(
            ReportingDataset(SeededDataset(dataset, transform, order.seed)),
            sampler=order,
            batch_size=None,
            collate_fn=partial(_collate, size_divisor=size_divisor),
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **worker_options(num_workers),
        )

    def __iter__(self) -> Any:  # the base promises an iterator class of its own, which only torch can make
        """Yields `Batch`es; a sample that cannot be had ends it with what its data set or its transform said."""
        for batch in received(super().__iter__()):
            if isinstance(batch, Failure):
                raise DataError(batch.message)
            yield batch


class ResumableLoader(BatchLoader):
    """Iterates over what is left of the trainer's current epoch, from the batch at which the trainer stands.

    Lightning restores its counters from a checkpoint but starts the loader again from its first batch; it also creates
    the loader's iterator, and so would have workers prefetch, before it has told the sampler the epoch. So this loader
    asks for epoch and batch when its first batch is wanted, and starts there. Nothing about the position is stored: the
    trainer's own counters are the only truth, and batch k of an epoch is the one that is trained as `batch_idx` k.

    `len()` is always that of a whole epoch, as Lightning's counters expect.
    """

    def __init__(
        self,
        dataset: IndexedItems[Sample],
        transform: Transform,
        order: TrainBatchSampler,
        position: Callable[[], tuple[int, int]],
        **options: Any,
    ) -> None:
        """Ties a loader to the `position` of training: current epoch, and index of the next batch in it."""
        super().__init__(dataset, transform, order, **options)
        self.order = order
        self.position = position

    def __iter__(self) -> Any:  # as in the base
        """Yields the rest of the current epoch."""
        self.order.set_epoch(*self.position())
        yield from super().__iter__()

    def state_dict(self) -> dict[str, int]:
        """What the order of batches depends on; stored in checkpoints by Lightning."""
        return {
            "images": len(self.order.landscape),
            "batch_size": self.order.batch_size,
            "world_size": self.order.world_size,
            "seed": self.order.seed,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Refuses to go on in the middle of an epoch whose batches would differ; Lightning calls it only there."""
        now = self.state_dict()
        changes = [f"{name} was {state.get(name)}, is {now[name]}" for name in now if state.get(name) != now[name]]
        if changes:
            raise TrainingError(
                f"cannot go on in the middle of an epoch, because its batches would differ: {'; '.join(changes)}; "
                "resume with the old values, or from a checkpoint saved at the end of an epoch"
            )


def _collate(samples: Sequence[Sample | Failure], size_divisor: int) -> Batch | Failure | WorkerError:
    """A batch, or the first failure among its samples."""
    sound = [sample for sample in samples if isinstance(sample, Sample)]
    if len(sound) == len(samples):
        return handed_over(collate(sound, size_divisor))
    return next(sample for sample in samples if isinstance(sample, Failure))
