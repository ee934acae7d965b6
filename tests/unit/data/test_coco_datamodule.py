"""The COCO data module: what it reads, and that an interrupted training goes on exactly where it stood."""

from __future__ import annotations

import json
import logging
import multiprocessing
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from PIL import Image
from torchvision.transforms.v2 import Compose

import swin_dense.data
from swin_dense.data import CocoDataModule
from swin_dense.data.transforms import RandomHorizontalFlip, RandomShortSide
from swin_dense.errors import ConfigError, DataError, TrainingError
from swin_dense.records import Batch

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def write_coco(root: Path, name: str, count: int, categories: list[dict[str, Any]] = CATEGORIES) -> tuple[Path, Path]:
    """A folder of noise images of both orientations, one square object each, but none in the last image."""
    folder = root / name
    folder.mkdir()
    generator = np.random.default_rng(0)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    for i in range(count):
        height, width = [(24, 36), (36, 24)][i % 2]
        Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{i}.png")
        content["images"].append({"id": 100 + i, "file_name": f"{i}.png", "height": height, "width": width})
        if i < count - 1:
            square = {"bbox": [4, 4, 9, 9], "area": 81, "segmentation": [[4, 4, 13, 4, 13, 13, 4, 13]], "iscrowd": 0}
            content["annotations"].append({"id": i + 1, "image_id": 100 + i, "category_id": 3 + i % 2 * 4, **square})
    annotations = root / f"{name}.json"
    annotations.write_text(json.dumps(content))
    return annotations, folder


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    write_coco(root, "train", 12)
    write_coco(root, "val", 5)
    return root


def data_module(root: Path, **changes: Any) -> CocoDataModule:
    arguments: dict[str, Any] = {
        "train_annotations": root / "train.json",
        "train_images": root / "train",
        "val_annotations": root / "val.json",
        "val_images": root / "val",
        "train_transform": Compose([RandomShortSide((20, 24, 28, 32), 60), RandomHorizontalFlip()]),
        "test_transform": RandomShortSide((24,), 60),
        "batch_size": 2,
        "num_workers": 0,
        "seed": 4,
        "min_side": 0,
    }
    return CocoDataModule(**(arguments | changes))


def test_training_leaves_out_empty_images_and_validation_has_all(coco: Path) -> None:
    data = data_module(coco)
    data.setup("fit")
    assert data.class_names == ("cat", "dog") and data.category_ids == (3, 7)
    trained = {image_id for batch in data.train_dataloader() for image_id in batch.image_ids}
    assert trained == set(range(100, 111))
    predicted = [image_id for batch in data.val_dataloader() for image_id in batch.image_ids]
    assert predicted == list(data.val_image_ids) == list(range(100, 105))


def test_batches_carry_labels_boxes_and_masks(coco: Path) -> None:
    data = data_module(coco, batch_size=3, train_transform=RandomShortSide((48,), 100))
    data.setup("fit")
    for batch in data.train_dataloader():
        assert batch.images.shape[2:] in {(64, 96), (96, 64), (96, 96)}
        for image_id, instances in zip(batch.image_ids, batch.instances, strict=True):
            assert instances.labels.tolist() == [image_id % 2]
            assert instances.boxes.tolist() == [[8, 8, 26, 26]]
            assert int(instances.masks.sum()) == 18 * 18


def test_validation_alone_needs_no_training_data(coco: Path) -> None:
    data = data_module(coco, train_annotations=coco / "absent.json", train_images=coco / "absent")
    data.setup("validate")
    assert data.class_names == ("cat", "dog")
    assert len(data.val_dataloader()) == 5


def test_limit_images_uses_the_first_ones_and_says_so(coco: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = data_module(coco, limit_images=4)
    with caplog.at_level(logging.INFO):
        data.setup("fit")
    assert "training uses the first 4 of 11 images" in caplog.text
    assert {image_id for batch in data.train_dataloader() for image_id in batch.image_ids} == {100, 101, 102, 103}
    assert data.val_image_ids == (100, 101, 102, 103) and len(data.val_dataloader()) == 4


def test_different_categories_stop_with_both_files_named(coco: Path, tmp_path: Path) -> None:
    annotations, images = write_coco(tmp_path, "other", 3, [{"id": 3, "name": "cat"}, {"id": 7, "name": "wolf"}])
    data = data_module(coco, val_annotations=annotations, val_images=images)
    with pytest.raises(
        DataError, match=r"(?s)train\.json.*other\.json.*7 'dog' is only in training.*7 'wolf' is only in val"
    ):
        data.setup("fit")


def test_a_folder_in_the_layout_of_coco_is_all_that_it_takes(shared_data: Path, tmp_path: Path) -> None:
    data = CocoDataModule(shared_data / "coco2017_tiny", num_workers=0)
    data.setup("fit")
    assert (data.train_images.name, data.val_images.name, len(data.class_names)) == ("train2017", "val2017", 80)
    batch = next(iter(data.train_dataloader()))
    assert len(batch) == 2 and max(max(size) for size in batch.sizes) <= 1333
    assert next(iter(data.val_dataloader())).sizes == next(iter(data.val_dataloader())).original_sizes
    with pytest.raises(DataError, match=r"no annotations/instances_train\*\.json in it"):
        CocoDataModule(tmp_path)
    with pytest.raises(ConfigError, match="needs root, or train_annotations and train_images"):
        CocoDataModule()
    with pytest.raises(DataError, match=r"instances_val2017\.json: no images found beside"):
        CocoDataModule(shared_data / "coco2017_tiny", val_annotations=tmp_path / "a/b/instances_val2017.json")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_image_is_said_before_the_first_step(tmp_path: Path, split: str) -> None:
    for name in ("train", "val"):
        write_coco(tmp_path, name, 5)
    (tmp_path / split / "3.png").rename(tmp_path / split / "3.PNG")
    (tmp_path / split / "1.png").unlink()
    with pytest.raises(
        DataError, match=rf"{split}: 2 of the [45] files that .*{split}\.json names are missing"
    ) as error:
        data_module(tmp_path).setup("fit")
    assert [problem.partition(";")[0] for problem in error.value.problems] == [
        "image 101: 1.png: no such file",
        "image 103: 3.png: no such file, but there is '3.PNG'",
    ]
    data_module(tmp_path, limit_images=1).setup("fit")  # those that are not used may be absent


def test_what_is_left_out_of_training_is_counted_and_said(coco: Path, caplog: pytest.LogCaptureFixture) -> None:
    data_module(coco).setup("fit")
    assert "left out of training: 1 images without anything to learn from" in caplog.text
    assert {record.levelname for record in caplog.records} == {"WARNING"}  # what no handler holds back


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"limit_images": 0}, {"num_workers": -1}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(coco: Path, change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        data_module(coco, **change)


def test_ranks_share_the_images_and_know_their_rank_from_the_trainer(coco: Path) -> None:
    trained, predicted, lengths = [], [], set()
    for rank in (0, 1):
        data = data_module(coco)
        data.setup("fit")
        standing = SimpleNamespace(batch_idx=-1)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, current_epoch=5, fit_loop=standing)
        batches = list(data.train_dataloader())
        lengths.add(len(batches))
        trained += [image_id for batch in batches for image_id in batch.image_ids]
        predicted += [image_id for batch in data.val_dataloader() for image_id in batch.image_ids]
    assert lengths == {3} and set(trained) == set(range(100, 111))
    assert predicted == [100, 102, 104, 101, 103]


def test_what_workers_need_can_be_sent_to_a_spawned_process(coco: Path) -> None:
    data = data_module(coco)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        dataset, collate = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
        sent, ours = collate(dataset[[(1, 2)]]), loader.collate_fn(loader.dataset[[(1, 2)]])
        assert torch.equal(sent.images, ours.images) and sent.image_ids == ours.image_ids


def test_reading_samples_does_not_import_lightning() -> None:
    code = "import sys, swin_dense.data, swin_dense.data.loaders; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="NoSuchModule"):
        _ = swin_dense.data.NoSuchModule


def fingerprint(batch: Batch) -> tuple[Any, ...]:
    """Tells which images a batch has, and what random transform each went through."""
    return batch.image_ids, batch.sizes, int(batch.images.long().sum()), float(batch.images[..., ::3].float().sum())


class Recorder(LightningModule):
    """Trains one number and records every batch with the trainer's own counters."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []
        self.validated: list[tuple[int, ...]] = []
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        trainer = self.trainer
        self.seen.append((trainer.current_epoch, batch_idx, trainer.global_step, *fingerprint(batch)))
        return (self.weight - batch.images.float().mean()).pow(2).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.validated.append((self.trainer.current_epoch, *batch.image_ids))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.001)


def fit(data: CocoDataModule, resume: Path | None = None, **arguments: Any) -> tuple[Recorder, Trainer]:
    """Trains for three epochs of six batches, unless told otherwise; a warning about resuming is an error."""
    model = Recorder()
    trainer = Trainer(
        **({"max_epochs": 3} | arguments),
        accelerator="cpu",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in arguments.get("callbacks", [])),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*dataloader is not resumable.*")
        trainer.fit(model, datamodule=data, ckpt_path=resume)
    return model, trainer


def assert_goes_on(whole: Recorder, resumed: Recorder, records: int) -> None:
    """The resumed run has the last records of the whole one: batches, counters, validation images and the weight."""
    assert resumed.seen == whole.seen[-records:]
    assert resumed.validated == whole.validated[len(whole.validated) - len(resumed.validated) :]
    assert torch.equal(resumed.weight, whole.weight)


SCHEDULES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "plain": ({}, (1, 3, 5, 6, 7, 12, 17)),
    "validating within the epoch": ({"val_check_interval": 2}, (3, 4, 6, 7, 8)),
    "limited by steps": ({"max_steps": 15, "max_epochs": -1}, (3, 6, 7, 12)),
    "limited batches": ({"limit_train_batches": 4}, (3, 4, 5)),
    "accumulating": ({"accumulate_grad_batches": 2}, (1, 3, 4)),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_resumed_after_a_step_goes_on_as_if_never_interrupted(coco: Path, tmp_path: Path, schedule: str) -> None:
    arguments, resumed_after = SCHEDULES[schedule]
    every_step = ModelCheckpoint(
        tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False
    )
    whole, trainer = fit(data_module(coco), callbacks=[every_step], **arguments)
    steps, batches = trainer.global_step, trainer.num_training_batches
    assert batches == arguments.get("limit_train_batches", 6)
    assert [record[1] for record in whole.seen[: 2 * batches]] == [*range(batches), *range(batches)]
    assert {record[3:] for record in whole.seen[:batches]}.isdisjoint(record[3:] for record in whole.seen[batches:])
    for step in resumed_after:
        resumed, trainer = fit(data_module(coco), tmp_path / f"{step}.ckpt", **arguments)
        assert_goes_on(whole, resumed, sum(record[2] >= step for record in whole.seen))
        assert (trainer.global_step, trainer.num_training_batches) == (steps, batches)


@pytest.mark.parametrize(
    "when",
    [{"every_n_epochs": 1, "save_on_train_epoch_end": True}, {"every_n_epochs": 1, "save_on_train_epoch_end": False}],
)
def test_a_run_resumed_at_the_end_of_an_epoch_begins_the_next(coco: Path, tmp_path: Path, when: dict[str, Any]) -> None:
    at_epoch_end = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, auto_insert_metric_name=False, **when)
    whole, _ = fit(data_module(coco), callbacks=[at_epoch_end])
    for epoch in (0, 1):
        resumed, _ = fit(data_module(coco), tmp_path / f"{epoch}.ckpt")
        assert_goes_on(whole, resumed, 6 * (2 - epoch))


class Interrupt(Callback):
    """Stops in the middle of a training batch or of a validation, and leaves a checkpoint behind."""

    def __init__(self, path: Path, training: tuple[int, int] | None = None, validation: tuple[int, int] | None = None):
        self.path, self.training, self.validation = path, training, validation

    def on_train_batch_start(self, trainer: Trainer, model: LightningModule, batch: Batch, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.training:
            raise RuntimeError

    def on_validation_batch_start(self, trainer: Trainer, model: LightningModule, batch: Batch, batch_idx: int) -> None:
        if not trainer.sanity_checking and (trainer.current_epoch, batch_idx) == self.validation:
            raise RuntimeError

    def on_exception(self, trainer: Trainer, model: LightningModule, exception: BaseException) -> None:
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("where", [{"training": (1, 3)}, {"training": (1, 0)}, {"validation": (1, 2)}])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_stopped_in_the_middle_of_a_batch_repeats_that_batch(
    coco: Path, tmp_path: Path, where: dict[str, tuple[int, int]], num_workers: int
) -> None:
    whole, _ = fit(data_module(coco))
    before = multiprocessing.active_children()  # of tests whose loaders are still there
    with pytest.raises(RuntimeError):
        fit(data_module(coco, num_workers=num_workers), callbacks=[Interrupt(tmp_path / "stopped.ckpt", **where)])
    assert set(multiprocessing.active_children()) <= set(before)
    torch.load(tmp_path / "stopped.ckpt", weights_only=True)  # what we store is safe to load
    resumed, _ = fit(data_module(coco, num_workers=num_workers), tmp_path / "stopped.ckpt")
    assert_goes_on(whole, resumed, 12 - where["training"][1] if "training" in where else 6)


def test_a_changed_batch_size_cannot_continue_an_interrupted_epoch(coco: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped.ckpt"
    with pytest.raises(RuntimeError):
        fit(data_module(coco), callbacks=[Interrupt(stopped, training=(1, 3))])
    with pytest.raises(TrainingError, match="batch_size was 2, is 3"):
        fit(data_module(coco, batch_size=3), stopped)
