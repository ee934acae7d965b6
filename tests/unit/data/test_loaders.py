"""Loaders: the same batches with any number of workers, and a check that an interrupted epoch can be continued."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Subset
from torchvision import tv_tensors
from torchvision.transforms.v2 import Compose

from helpers.shared_memory import without_shared_memory
from swin_dense.data.loaders import BatchLoader, ResumableLoader
from swin_dense.data.samplers import EvaluationSampler, TrainBatchSampler
from swin_dense.data.transforms import ImageOnly, RandomHorizontalFlip, RandomShortSide, short_side_or_crop
from swin_dense.errors import DataError, TrainingError
from swin_dense.images.store import ImageError
from swin_dense.records import Batch, Instances, Sample

SIZES = np.array([(40, 60), (60, 40)] * 5)
TRAINING = Compose([short_side_or_crop((32, 48), 90, (40, 50), (20, 40)), RandomHorizontalFlip()])


class Noise:
    """Ten images of noise with one instance each; pickles, so that workers may be spawned."""

    def __len__(self) -> int:
        return len(SIZES)

    def __getitem__(self, index: int) -> Sample:
        height, width = SIZES[index].tolist()
        image = torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(index))
        instances = Instances(
            boxes=tv_tensors.BoundingBoxes([[5.0, 5.0, 35.0, 35.0]], format="XYXY", canvas_size=(height, width)),
            masks=tv_tensors.Mask(torch.ones(1, height, width, dtype=torch.bool)),
            labels=torch.tensor([index]),
            crowd=torch.tensor([False]),
        )
        return Sample(tv_tensors.Image(image.to(torch.uint8)), index, f"{index}.png", (height, width), instances)


def training(num_workers: int, epoch: int = 2, start: int = 0, seed: int = 5) -> ResumableLoader:
    sampler = TrainBatchSampler(SIZES, 2, seed)
    return ResumableLoader(Noise(), TRAINING, sampler, lambda: (epoch, start), num_workers=num_workers, size_divisor=32)


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert [batch.image_ids for batch in ours] == [batch.image_ids for batch in theirs]
    assert [batch.sizes for batch in ours] == [batch.sizes for batch in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images, other.images)
        for instances, others in zip(one.instances or (), other.instances or (), strict=True):
            assert torch.equal(instances.boxes, others.boxes) and torch.equal(instances.masks, others.masks)
            assert instances.boxes.canvas_size == others.boxes.canvas_size


def test_batches_are_the_same_with_any_number_of_workers_and_from_any_start() -> None:
    whole = list(training(num_workers=0))
    assert len(whole) == 5 and len({batch.images.shape for batch in whole}) > 1
    workers = training(num_workers=2)
    assert_equal(list(workers), whole)
    assert_equal(list(workers), whole)  # its workers persist
    assert_equal(list(training(num_workers=0, start=3)), whole[3:])


def test_workers_live_through_an_interrupt_that_is_meant_for_the_training_process() -> None:
    whole = list(training(num_workers=0))
    loader = training(num_workers=2)
    batches = iter(loader)
    received = [next(batches), next(batches)]  # one from each, so that both have started
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGINT)
    assert_equal([*received, *batches], whole)


def test_another_epoch_looks_different() -> None:
    first, second = (next(iter(training(num_workers=0, epoch=epoch))) for epoch in (0, 1))
    assert first.image_ids != second.image_ids


def test_loading_leaves_the_training_randomness_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    list(training(num_workers=0))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_interrupted_epoch_is_continued_only_with_the_same_batches() -> None:
    state = training(num_workers=0).state_dict()
    training(num_workers=2).load_state_dict(state)
    with pytest.raises(TrainingError, match="seed was 5, is 6"):
        training(num_workers=0, seed=6).load_state_dict(state)


def test_evaluation_is_in_order_without_instances_and_never_repeats() -> None:
    loader = BatchLoader(
        Noise(), ImageOnly(RandomShortSide((20,), 40)), EvaluationSampler(10, 4), num_workers=0, size_divisor=32
    )
    batches = list(loader)
    assert [batch.image_ids for batch in batches] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    assert all(batch.instances is None for batch in batches)
    assert batches[0].sizes[:2] == ((20, 30), (30, 20)) and batches[0].original_sizes[0] == (40, 60)


class Damaged(Noise):
    """One of the images is damaged, and one has a wrong annotation."""

    def __getitem__(self, index: int) -> Sample:
        if index == 5:
            raise ImageError(Path("images/5.jpg"), "unreadable-image", "cannot be decoded", "restore the file")
        if index == 7:
            raise DataError("instances.json: 1 problem", ["annotation 7: no such category 12"])
        return super().__getitem__(index)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([4, 5, 6], "images/5.jpg: cannot be decoded; restore the file"),
        ([6, 7], "instances.json: 1 problem\n  - annotation 7: no such category 12"),
    ],
)
def test_what_is_wrong_with_the_data_is_said_alike_with_any_number_of_workers(
    num_workers: int, images: list[int], message: str
) -> None:
    options = {"num_workers": num_workers, "size_divisor": 32}
    some = Subset(Damaged(), images)
    order = EvaluationSampler(len(images), 2)
    evaluation = BatchLoader(some, ImageOnly(RandomShortSide((20,), 40)), order, **options)
    sampler = TrainBatchSampler(SIZES[images], 1, seed=5)
    for loader in (evaluation, ResumableLoader(some, TRAINING, sampler, lambda: (0, 0), **options)):
        for _ in range(2):  # its workers persist
            with pytest.raises(DataError) as caught:
                list(loader)
            assert str(caught.value) == message


def test_a_mistake_of_ours_in_a_worker_stays_a_traceback() -> None:
    loader = ResumableLoader(
        Noise(), lambda sample: 1 / 0, TrainBatchSampler(SIZES, 2, 5), lambda: (0, 0), num_workers=1, size_divisor=32
    )
    with pytest.raises(ZeroDivisionError, match="Original Traceback"):
        list(loader)


def test_workers_say_that_a_batch_does_not_fit_in_shared_memory() -> None:
    imports = f"import runpy; ours = runpy.run_path({__file__!r})"
    assert re.match(
        r"WorkerError a process that reads data cannot hand it over: unable to .*torch_.*; docker run --shm-size",
        without_shared_memory(imports, 'list(ours["large"](1))'),
    )


def large(num_workers: int) -> BatchLoader:
    """A loader of one batch of ten images that are resized to 100 kB."""
    order = EvaluationSampler(len(SIZES), len(SIZES))
    return BatchLoader(
        Noise(), ImageOnly(RandomShortSide((200,), 300)), order, num_workers=num_workers, size_divisor=32
    )
