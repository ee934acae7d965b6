"""Images per second of whole trainings: data loading, forward and backward pass, optimizer, under a Lightning Trainer.

Two forms. With the official augmentation, our training alone. At one size and without random crops and flips, our
training beside mmdet's own pipeline, detector, backbone and optimizer wrapper: both begin with the same weights and
read the same images in the same order, and their first losses are compared. Each training has a process of its own.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from swin_dense.backbones import VARIANTS
from swin_dense.benchmark.backbone import describe
from swin_dense.benchmark.entrant import GIB
from swin_dense.benchmark.peers import OURS, check_names, installed_peers
from swin_dense.benchmark.photos import CATEGORIES, write_ade, write_coco
from swin_dense.benchmark.processes import RemoteContestant
from swin_dense.benchmark.timing import Spread, TimeLimit, log
from swin_dense.config import Config, load_config
from swin_dense.config.detection import DetectionConfig
from swin_dense.devices import chosen_device, usable_cores
from swin_dense.errors import BenchmarkError
from swin_dense.isolation import keeping_freed_memory, seeded
from swin_dense.tasks import data_module, task_of
from swin_dense.training.trainer import PRECISIONS, placement, surroundings

RECIPES = {"mask-rcnn": "mask-rcnn_swin-t_fpn_1x_coco", "upernet": "upernet_swin-t_512_160k_ade20k"}
COMPARED = "mask-rcnn"
"""The recipe that mmdet trains beside us."""

ONE_SIZE = {
    "augmentation.short_sides": [800],
    "augmentation.crop_short_sides": None,
    "augmentation.flip_probability": 0.0,
    "model.backbone.drop_path_rate": 0.0,
}
"""Changes of the recipe under which both pipelines make the same batches."""

SAME_LOSS = 0.02
"""Largest relative difference of the first losses; the pipelines' images differ by one grey level here and there."""


@dataclass(frozen=True)
class TrainSettings:
    """What is trained, and for how long.

    Attributes:
        device: Where; None takes the best there is.
        recipes: Keys of `RECIPES`.
        precisions: "bf16", "16" or "32", as in `training.precision`.
        batch_size: Images of a step.
        workers: Loading processes; None takes one for each core but one, eight at most.
        warm_up: Steps before those that are measured.
        steps: Steps that are measured.
        images: Generated training images.
        peers: "mmdet", or nothing.
        changes: More values of config keys.
        repeats: How often the two of the comparison take turns.
        seconds_limit: After so many seconds no further training is begun, and none is waited for.
    """

    device: str | None = None
    recipes: Sequence[str] = tuple(RECIPES)
    precisions: Sequence[str] = ("32",)
    batch_size: int = 2
    workers: int | None = None
    warm_up: int = 2
    steps: int = 8
    images: int = 64
    peers: Sequence[str] = ("mmdet",)
    changes: Sequence[str] = ()
    repeats: int = 1
    seconds_limit: float | None = None

    def __post_init__(self) -> None:
        """Refuses what there is not."""
        check_names(self, recipes=RECIPES, precisions=PRECISIONS, peers=("mmdet",))


GPU_DEFAULTS = {"precisions": ("bf16",), "warm_up": 20, "steps": 100, "images": 400, "seconds_limit": 240.0}
"""What `TrainSettings` are on a GPU unless said otherwise."""


class Meter(Callback):
    """Measures a training from the end of the warm-up on."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.losses: list[torch.Tensor] = []
        self.ends: list[float] = []
        self.waits: list[float] = []
        self.images = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Takes note of how long the batch was waited for."""
        if self.ends:
            self.waits.append(time.perf_counter() - self.ends[-1])
            self.images += len(batch)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Takes note of the loss and the time."""
        self.losses.append(outputs["loss"].detach())
        self.step_done(pl_module.device)

    def step_done(self, device: torch.device) -> None:
        """Counts a step; the last one of the warm-up starts the clock."""
        if len(self.losses) == self.warm_up and device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        if len(self.losses) >= self.warm_up:
            self.ends.append(time.perf_counter())

    def results(self, device: torch.device) -> dict[str, Any]:
        """What was measured; to be asked right after the last step."""
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self.ends[0]
        steps = [end - begin for begin, end in pairwise(self.ends)]
        return {
            "images_per_second": self.images / seconds,
            "step_ms": Spread.of(steps).milliseconds(),
            "steps": len(steps),
            "waiting_for_data": sum(self.waits) / seconds,
            "peak_memory_gib": peak_memory(device) / GIB,
            "first_loss": float(self.losses[0]),
            "last_loss": float(self.losses[-1]),
        }


@dataclass(frozen=True)
class Training:
    """One training, in its own process.

    Attributes:
        name: `OURS` or "mmdet".
        recipe: Key of `RECIPES`.
        precision: As in `training.precision`.
        data: Folder of the generated data.
        device: Where.
        settings: The others.
        weights: File of weights to begin with; None takes random ones.
    """

    name: str
    recipe: str
    precision: str
    data: str
    device: str
    settings: TrainSettings
    weights: str | None = None

    def run(self) -> dict[str, Any]:
        """Trains, and says what it took."""
        config, device = self.config(), torch.device(self.device)
        with surroundings(config.training.matmul_precision):
            data = data_module(config)
            data.setup("fit")
            torch.manual_seed(0)
            meter = Meter(self.settings.warm_up)
            if self.name == OURS:
                self._ours(config, data, meter)
            else:
                self._mmdet(config, data, meter, device)
            return meter.results(device)

    def config(self) -> Config:
        """The recipe with what the benchmark changes: an optimizer step for each batch, above all."""
        settings = self.settings
        workers = max(1, min(8, usable_cores() - 1)) if settings.workers is None else settings.workers
        changes = {
            "data.root": self.data,
            "data.batch_size": settings.batch_size,
            "data.num_workers": workers,
            "training.precision": self.precision,
            "training.images_per_step": None,
            **(ONE_SIZE if self.weights is not None else {}),
        }
        return load_config(load_config(RECIPES[self.recipe], changes), settings.changes)

    def save_weights(self) -> None:
        """Writes random weights of the peer's model to the file that both begin with."""
        torch.manual_seed(0)
        assert self.weights is not None
        detector = _mmdet_detector(self.config(), CATEGORIES)
        torch.save(detector.state_dict(), self.weights)

    def _ours(self, config: Config, data: Any, meter: Meter) -> None:
        from swin_dense.weights import load_weights

        task = task_of(config)
        module = task.training_module(config, data, task.build_model(config.model, len(data.class_names)))
        if self.weights is not None:
            load_weights(module.network, self.weights)
        trainer = Trainer(
            **placement(1, self.device),
            precision=PRECISIONS[self.precision] or None,  # type: ignore[arg-type]  # a name of Lightning's
            max_steps=self.settings.warm_up + self.settings.steps,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[meter],
        )
        with keeping_freed_memory(torch.device(self.device)):
            trainer.fit(module, datamodule=data)

    def _mmdet(self, config: Config, data: Any, meter: Meter, device: torch.device) -> None:
        """The plain loop around mmdet's `train_step`; its runner would add hooks."""
        from swin_dense.openmmlab.peers import mmdet_loader, mmdet_optimizer
        from swin_dense.training.optim import adamw
        from swin_dense.weights import load_weights

        detector = _mmdet_detector(config, len(data.class_names))
        assert self.weights is not None
        load_weights(detector, self.weights)
        detector.to(device).train()
        options = {**vars(config.optimizer), "learning_rate": 1e-7}  # where our warm-up begins
        optimizer = mmdet_optimizer(adamw(detector, **options), self.precision)
        ids = data.train_dataset.image_ids
        order = ([int(ids[index]) for _, index in keys] for keys in _batches(data.train_dataloader().order))
        assert isinstance(config, DetectionConfig)
        scale = config.augmentation.max_long_side, config.augmentation.short_sides[0]
        loader = mmdet_loader(data.train_annotations, data.train_images, scale, order, config.data.num_workers)
        for step, batch in enumerate(islice(loader, self.settings.warm_up + self.settings.steps)):
            if meter.ends:
                meter.waits.append(time.perf_counter() - meter.ends[-1])
                meter.images += len(batch["inputs"])
            with seeded(0, 0, step, 0, device=device):
                terms = detector.train_step(batch, optimizer)
            meter.losses.append(terms["loss"].detach())
            meter.step_done(device)


def benchmark_train(settings: TrainSettings) -> dict[str, Any]:
    """Trains on generated data of full size and measures it.

    Args:
        settings: What is trained, and for how long.

    Returns:
        A record ready for JSON: `runs` holds a result, or what went wrong, for each training; `comparisons` those
        beside mmdet, `not_measured` what there was no time for, `left_out` the peers that are not there.

    Raises:
        ConfigError: The device cannot be used.

    Example:
        >>> from swin_dense.benchmark.train import TrainSettings
        >>> TrainSettings(recipes=["upernet"], precisions=["bf16"]).batch_size
        2
    """
    limit, device = TimeLimit(settings.seconds_limit), chosen_device(settings.device)
    peers, left_out = installed_peers(settings.peers)
    record: dict[str, Any] = {
        "benchmark": "train",
        "device": describe(device),
        "cores": usable_cores(),
        "settings": asdict(replace(settings, device=str(device))),
        "left_out": left_out,
        "runs": [],
        "comparisons": [],
        "not_measured": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        log("writing the data")
        data = {"mask-rcnn": str(Path(folder) / "coco"), "upernet": str(Path(folder) / "ade")}
        if "mask-rcnn" in settings.recipes:
            write_coco(Path(data["mask-rcnn"]), settings.images)
        if "upernet" in settings.recipes:
            write_ade(Path(data["upernet"]), settings.images)
        for precision in settings.precisions:
            for recipe in settings.recipes:
                one = Training(OURS, recipe, precision, data[recipe], str(device), settings)
                _add(record, "runs", one, limit)
        weights = str(Path(folder) / "weights.pth")
        for precision in settings.precisions if COMPARED in settings.recipes and peers else ():
            both = [
                Training(name, COMPARED, precision, data[COMPARED], str(device), settings, weights)
                for name in (OURS, *peers)
            ]
            if not Path(weights).is_file():
                _in_own_process(both[0], "save_weights", limit)
            for _ in range(settings.repeats):
                for one in both:
                    _add(record, "comparisons", one, limit)
    _compare(record)
    record["seconds"] = limit.spent()
    return record


def _add(record: dict[str, Any], where: str, training: Training, limit: TimeLimit) -> None:
    """Runs a training and adds its result, or what went wrong."""
    what = {"contestant": training.name, "recipe": training.recipe, "precision": training.precision}
    if limit.left() == 0:
        record["not_measured"].append({**what, "part": where})
        return
    result = {**what, **_in_own_process(training, "run", limit)}
    record[where].append(result)
    log(line(result))


def _in_own_process(training: Training, method: str, limit: TimeLimit) -> dict[str, Any]:
    with closing(RemoteContestant(_itself, training)) as process:
        try:
            process.ask(method)
            return process.receive(limit.left()) or {}
        except BenchmarkError as error:
            return {"failed": str(error)}


def _itself(training: Training) -> Training:
    return training


def _compare(record: dict[str, Any]) -> None:
    """Adds how fast ours is beside mmdet, where both did the same."""
    record["speedup"] = {}
    for precision in record["settings"]["precisions"]:
        done = {
            name: [
                one
                for one in record["comparisons"]
                if one["contestant"] == name and one["precision"] == precision and "failed" not in one
            ]
            for name in (OURS, "mmdet")
        }
        if not all(done.values()):
            continue
        ours, theirs = (done[name][0]["first_loss"] for name in (OURS, "mmdet"))
        if abs(ours - theirs) > SAME_LOSS * abs(theirs):
            log(f"{precision}: the first losses are {ours:.4f} and {theirs:.4f}: the times mean nothing")
            continue
        medians = [statistics.median(one["step_ms"]["median"] for one in done[name]) for name in (OURS, "mmdet")]
        record["speedup"][precision] = medians[1] / medians[0]


def line(result: dict[str, Any]) -> str:
    """A training as text."""
    what = f"{result['contestant']:<6} {result['recipe']:<10} {result['precision']:<5}"
    if "failed" in result:
        return f"{what} failed: {result['failed']}"
    step = result["step_ms"]
    return (
        f"{what} {result['images_per_second']:7.2f} images/s  {step['median']:8.1f} ms a step ({step['lowest']:.1f} to "
        f"{step['highest']:.1f})  {100 * result['waiting_for_data']:.0f} % waiting for data  "
        f"{result['peak_memory_gib']:.2f} GiB  loss {result['first_loss']:.3f}"
    )


def _mmdet_detector(config: Config, num_classes: int) -> Any:
    from swin_dense.openmmlab.peers import mmdet_detector

    return mmdet_detector(config.model, VARIANTS[config.model["backbone"]["variant"]], num_classes)


def _batches(order: Any) -> Iterator[Any]:
    """Keys (epoch, index) of one epoch after the other."""
    epoch = 0
    while True:
        order.set_epoch(epoch)
        yield from order
        epoch += 1


def peak_memory(device: torch.device) -> int:
    """Bytes on a GPU since the warm-up; on a CPU those of the process, libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
