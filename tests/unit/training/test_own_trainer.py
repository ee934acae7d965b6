"""The modules and data modules with a user's own Lightning trainer, and nothing else to set."""

from __future__ import annotations

import csv
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

import swin_dense
from helpers.trainers import BATCH_SIZE, IMAGES, Brightness, OneBox, Seen, ade, coco, trainer_of
from swin_dense.data import VideoDataModule
from swin_dense.data.moving_shapes import write_moving_shapes
from swin_dense.data.shapes import write_shapes
from swin_dense.errors import ConfigError
from swin_dense.records import Batch, Detections
from swin_dense.training import DetectorModule, SegmenterModule, VideoClassifierModule
from swin_dense.videos.clips import ClipSampling, Views


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=IMAGES, val=5, size=96)


class Rates(Callback):
    """The learning rate of every step, as a part of the full one."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        group = trainer.optimizers[0].param_groups[0]
        self.seen.append(group["lr"] / group["initial_lr"])


@pytest.mark.parametrize(
    ("epochs", "milestones", "expected"), [(6, None, [4, 5]), (12, None, [8, 11]), (4, (1, 3), [1, 3])]
)
def test_the_milestones_are_epochs_of_the_trainer(
    shapes: Path, tmp_path: Path, epochs: int, milestones: Any, expected: list[int]
) -> None:
    rates = Rates()
    trainer = trainer_of(tmp_path, max_epochs=epochs, callbacks=[rates], limit_val_batches=0)
    trainer.fit(DetectorModule(OneBox(), milestones=milestones, warmup_steps=0), datamodule=coco(shapes))
    batches = IMAGES // BATCH_SIZE
    drops = [i + 1 for i, (one, other) in enumerate(zip(rates.seen, rates.seen[1:], strict=False)) if other < one]
    assert [(drop + 1) / batches for drop in drops] == expected


@pytest.mark.parametrize("length", [{"max_steps": 6}, {"max_epochs": 3}])
def test_the_polynomial_decay_ends_with_the_trainer(shapes: Path, tmp_path: Path, length: dict[str, int]) -> None:
    rates = Rates()
    data = ade(shapes)
    data.setup("fit")
    module = SegmenterModule(Brightness(len(data.class_names)), warmup_steps=0)
    trainer = trainer_of(tmp_path, **length, callbacks=[rates], limit_val_batches=0)
    trainer.fit(module, datamodule=data)
    steps = trainer.global_step
    assert rates.seen == pytest.approx([1 - (step + 1) / steps for step in range(steps)])


def test_a_precision_that_converts_batches_is_refused(shapes: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_epochs=1, precision="bf16-true")
    with pytest.raises(ConfigError, match="Lightning would convert boxes and labels, too; take precision bf16-mixed"):
        trainer.fit(DetectorModule(OneBox()), datamodule=coco(shapes))


def test_a_model_in_evaluation_mode_is_set_to_train_and_one_with_parts_of_it_is_left_alone(
    shapes: Path, tmp_path: Path
) -> None:
    class Modes(Callback):
        def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
            self.seen = module.model.training, module.model.network.training

    loaded, partly = OneBox().eval(), OneBox()  # as `swin_dense.load` gives it; with a frozen part
    partly.network.eval()
    for model, expected in ((loaded, (True, True)), (partly, (True, False))):
        trainer = trainer_of(tmp_path, max_epochs=1, limit_val_batches=0, callbacks=[modes := Modes()])
        trainer.fit(DetectorModule(model), datamodule=coco(shapes))
        assert modes.seen == expected


def test_fit_validate_test_and_predict_need_nothing_else(shapes: Path, tmp_path: Path) -> None:
    module, trainer = DetectorModule(OneBox()), trainer_of(tmp_path, max_epochs=1)
    trainer.fit(module, datamodule=coco(shapes))
    assert 0 <= float(trainer.callback_metrics["val/bbox_AP"]) <= 1
    (validated,), (tested,) = (
        trainer.validate(module, datamodule=coco(shapes), verbose=False),
        trainer.test(module, datamodule=coco(shapes), verbose=False),
    )
    assert {name.replace("test/", "val/"): value for name, value in tested.items()} == validated
    predicted = trainer.predict(module, datamodule=coco(shapes))
    assert predicted is not None
    assert [len(batch) for batch in predicted] == [1] * 5
    assert all(isinstance(one, Detections) for batch in predicted for one in batch)


@pytest.mark.parametrize(
    "options",
    [{"fast_dev_run": True}, {"limit_val_batches": 2}, {"overfit_batches": 2}, {"limit_val_batches": 0.5}],
    ids=str,
)
def test_a_trainer_that_leaves_images_out_scores_the_others(
    shapes: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    trainer = trainer_of(tmp_path, max_epochs=2, **options)
    trainer.fit(DetectorModule(OneBox()), datamodule=coco(shapes))
    assert "val/bbox_AP" in trainer.callback_metrics


class Order(Callback):
    """The images of every epoch, in order."""

    def __init__(self) -> None:
        self.seen: dict[int, list[int]] = {}

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, *_: Any) -> None:
        self.seen.setdefault(trainer.current_epoch, []).extend(batch.image_ids)


def test_overfitting_sees_the_same_images_in_every_epoch(shapes: Path, tmp_path: Path) -> None:
    order = Order()
    trainer = trainer_of(tmp_path, max_epochs=3, overfit_batches=2, callbacks=[order])
    trainer.fit(DetectorModule(OneBox()), datamodule=coco(shapes))
    assert order.seen[0] == order.seen[1] == order.seen[2]
    assert len(order.seen[0]) == 2 * BATCH_SIZE


def test_two_spawned_processes_share_the_images_and_score_as_one(shapes: Path, tmp_path: Path) -> None:
    """Spawned ones are sent the module and the data module by pickle."""
    module = DetectorModule(OneBox())
    options = {"max_epochs": 1, "devices": 2, "strategy": "ddp_spawn"}
    trainer = trainer_of(tmp_path, callbacks=[Seen(tmp_path)], **options)
    trainer.fit(module, datamodule=coco(shapes))
    seen = {path.stem: path.read_text().split() for path in tmp_path.glob("*.txt")}
    assert len(seen["train0"]) == len(seen["train1"]) == IMAGES // 2
    assert not set(seen["train0"]) & set(seen["train1"])
    assert len({*seen["val0"], *seen["val1"]}) == len(seen["val0"]) + len(seen["val1"]) == 5
    (alone,) = trainer_of(tmp_path).validate(module, datamodule=coco(shapes), verbose=False)
    together = {name: float(trainer.callback_metrics[name]) for name in alone}
    assert together == alone and 0 <= alone["val/bbox_AP"] <= 1


def test_a_checkpoint_gives_the_module_back(shapes: Path, tmp_path: Path) -> None:
    module = DetectorModule(OneBox(), learning_rate=3e-3, milestones=(1,))
    trainer = trainer_of(tmp_path, max_epochs=2)
    trainer.fit(module, datamodule=coco(shapes))
    trainer.save_checkpoint(tmp_path / "mine.ckpt")
    loaded = DetectorModule.load_from_checkpoint(tmp_path / "mine.ckpt", model=OneBox(), weights_only=True)
    assert (loaded.hparams.learning_rate, loaded.hparams.milestones) == (3e-3, (1,))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), module.parameters(), strict=True))
    content = torch.load(tmp_path / "mine.ckpt", weights_only=True)
    assert content["swin_dense"]["class_names"] == list(coco_names(shapes))
    again = pickle.loads(pickle.dumps(loaded))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), module.parameters(), strict=True))


def coco_names(shapes: Path) -> tuple[str, ...]:
    data = coco(shapes)
    data.setup("validate")
    return data.class_names


def test_settings_that_were_changed_hold_after_a_resume(shapes: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_epochs": 2, "limit_val_batches": 0}
    trainer = trainer_of(tmp_path, **options)
    trainer.fit(DetectorModule(OneBox(), warmup_steps=0), datamodule=coco(shapes))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    changed = DetectorModule(OneBox(), learning_rate=7e-3, weight_decay=0.25, betas=(0.5, 0.75), warmup_steps=0)
    trainer = trainer_of(tmp_path, **{**options, "max_epochs": 9}, callbacks=[rates := Rates()])
    trainer.fit(changed, datamodule=coco(shapes), ckpt_path=tmp_path / "end.ckpt")
    (group,) = trainer.optimizers[0].param_groups
    assert (group["initial_lr"], group["weight_decay"], tuple(group["betas"])) == (7e-3, 0.25, (0.5, 0.75))
    steps = IMAGES // BATCH_SIZE
    assert rates.seen[: 4 * steps - 1] == [1.0] * (4 * steps - 1)  # the first milestone of nine epochs is the sixth
    assert math.isclose(group["lr"], 7e-3 * 0.01)


def test_a_line_of_the_log_is_the_mean_since_the_line_before(shapes: Path, tmp_path: Path) -> None:
    def lines(every: int, folder: Path) -> list[float]:
        logger = CSVLogger(folder, name="", version="")
        options = {"max_epochs": 3, "limit_val_batches": 0, "accumulate_grad_batches": 2}
        torch.manual_seed(0)
        trainer = trainer_of(folder, logger=logger, log_every_n_steps=every, **options)
        trainer.fit(DetectorModule(OneBox()), datamodule=coco(shapes))
        with (folder / "metrics.csv").open(newline="") as file:
            return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]

    each = lines(1, tmp_path / "each")
    assert len(each) == 6
    assert lines(3, tmp_path / "some") == pytest.approx([sum(each[:3]) / 3, sum(each[3:]) / 3])


def test_videos_are_looked_at_as_the_data_module_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Whatever the config of the model says: its clips would be cut elsewhere, and its timeline read files again."""
    root = write_moving_shapes(tmp_path / "videos", train=1, val=1, size=32)
    model = swin_dense.load("swin3d-nano_moving-shapes", data=root, device="cpu")
    views = Views(clips=2, crops=1, size=32, short_side=32)
    data = VideoDataModule(root, sampling=ClipSampling(frames=4), views=views, batch_size=1, num_workers=0)
    module = VideoClassifierModule(model)
    assert module.inference.timeline and module.inference.views.clips == 1
    seen: list[tuple[int, ...]] = []
    logits = module.model.logits
    monkeypatch.setattr(module.model, "logits", lambda clips: (seen.append(tuple(clips.shape)), logits(clips))[1])
    trainer_of(tmp_path).predict(module, datamodule=data)
    assert seen == [(2, 4, 3, 32, 32)] * len(data.class_names)
