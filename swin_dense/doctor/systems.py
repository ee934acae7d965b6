"""A training step of every system, and a whole training that is interrupted and resumed, on a device.

The systems are those of the demo configs, on generated images. Samplers that draw at random would draw other anchors
and proposals as soon as two scores change places by a rounding, so that here they take all, and non-maximum suppression
drops none: losses then differ by what is computed alone.
"""

from __future__ import annotations

import copy
import csv
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from swin_dense.config import load_config
from swin_dense.data.shapes import write_shapes
from swin_dense.doctor.backbone import autocast
from swin_dense.doctor.device import PRECISIONS, Measured, Measurement, difference
from swin_dense.errors import TrainingInterruptedError
from swin_dense.isolation import seeded
from swin_dense.records import IGNORE_INDEX, Batch
from swin_dense.tasks import data_module, task_of
from swin_dense.tasks.training import train
from swin_dense.training.base import total_loss
from swin_dense.training.optim import NO_DECAY, adamw

SYSTEMS = (
    "mask-rcnn",
    "cascade-mask-rcnn",
    "faster-rcnn",
    "cascade-rcnn",
    "atss",
    "reppoints-v2",
    "mask-reppoints-v2",
    "sparse-rcnn",
    "htc",
    "htc-pp",
    "upernet",
)
"""Those of the demo configs; HTC++ is HTC with its semantic branch."""

TOLERANCES = {"float32": 2e-3, "float16": 5e-2, "bfloat16": 1e-1}
"""Of the sum of all losses. Targets depend on what is predicted: a rounding may give an anchor another one."""

SIDE = 64
"""Of the images in pixels."""

STUFF_CLASSES = 5

SCENES = {"train": 8, "val": 4}

LOSS_SCALE = 2.0**8
"""Small gradients vanish in float16; training scales them as well."""

ALL = 100_000
"""More than there is to choose from."""


def step_checks(device: torch.device, folder: Path) -> Iterator[tuple[str, Measurement]]:
    """One training step of each system in each precision; `folder` takes the generated images."""
    for system in SYSTEMS:
        for precision in reversed(PRECISIONS) if device.type == "cpu" else PRECISIONS:
            yield f"training step: {system}, {precision}", partial(_measure_step, system, device, precision, folder)


def training_checks(device: torch.device, folder: Path) -> Iterator[tuple[str, Measurement]]:
    """Trainings that are stopped and resumed against ones that are not, bit for bit; others in mixed precision."""
    for system in ("atss", "mask-rcnn"):
        yield f"training: {system}, resumed", partial(_measure_resumed, system, device, folder / system)
    for system, precision in (
        ("mask-rcnn", "float16" if device.type == "cuda" else "bfloat16"),
        ("upernet", "bfloat16"),
    ):
        measure = partial(_measure_training, system, device, folder / f"{system} {precision}", precision)
        yield f"training: {system}, {precision}", measure


class StopAtStep(Callback):
    """Asks for a stop as Ctrl-C does, once a number of optimizer steps is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Signals during the step before."""
        if trainer.global_step == self.step - 1:
            signal.raise_signal(signal.SIGINT)


def config_of(system: str, folder: Path, **changes: Any) -> Any:
    """The demo config of a system on generated images in `folder`."""
    name = f"{system}_swin-nano_shapes"
    write_shapes(folder, **SCENES, size=SIDE)
    if system == "upernet":
        sizes: dict[str, Any] = {"data.root": str(folder / "ade20k"), "augmentation.crop_size": (SIDE, SIDE)}
        sizes |= {"augmentation.scale": (SIDE, SIDE), "model.data_preprocessor.size": (SIDE, SIDE)}
        sizes |= {"schedule.steps": 8, "training.validate_every": 4, "schedule.warmup_steps": 2}
    else:
        sides = ("test_short_side", "max_long_side", "test_max_long_side")
        sizes = {"data.root": str(folder), "augmentation.short_sides": (SIDE,)}
        sizes |= {f"augmentation.{side}": SIDE for side in sides}
        sizes |= {"schedule.epochs": 2, "schedule.milestones": [1], "schedule.warmup_steps": 2}
    return load_config(f"demo/{name}", {**sizes, "data.batch_size": 2, **changes})


def first_batch(config: Any) -> tuple[Batch, int]:
    """The first batch of a training, on the CPU, and the number of classes."""
    data = data_module(load_config(config, {"data.num_workers": 0}))
    data.setup("fit")
    return next(iter(data.train_dataloader())), len(data.class_names)


def taking_all(part: Any) -> Any:
    """A model dict whose samplers take all candidates, and whose proposals are all that there are."""
    if isinstance(part, Mapping):
        changed = {name: taking_all(value) for name, value in part.items()}
        if changed.get("type") == "RandomSampler":
            changed |= {"num": ALL, "pos_fraction": 1.0, "neg_pos_ub": -1}
        if "nms_pre" in changed and "max_per_img" in changed:
            changed |= {"nms_pre": ALL, "max_per_img": ALL, "nms": {"type": "nms", "iou_threshold": 1.0}}
        return changed
    return [taking_all(one) for one in part] if isinstance(part, list | tuple) else part


def with_semantic_branch(model: Mapping[str, Any]) -> dict[str, Any]:
    """The model dict of HTC with the branch that learns the class of every pixel."""
    extractor = {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": 14, "sampling_ratio": 2},
    }
    head = {"type": "FusedSemanticHead", "num_ins": 5, "fusion_level": 1, "seg_scale_factor": 1 / 8, "num_convs": 1}
    head |= {"in_channels": 64, "conv_out_channels": 64, "num_classes": STUFF_CLASSES}
    head |= {"loss_seg": {"type": "CrossEntropyLoss", "ignore_index": 255, "loss_weight": 0.2}}
    branch = {
        "semantic_roi_extractor": {**extractor, "out_channels": 64, "featmap_strides": [8]},
        "semantic_head": head,
    }
    preprocessor = {**model["data_preprocessor"], "pad_seg": True, "seg_pad_value": 255}
    return {**model, "data_preprocessor": preprocessor, "roi_head": {**model["roi_head"], **branch}}


_prepared: dict[str, tuple[Batch, nn.Module, dict[str, Tensor]]] = {}


def _prepare(system: str, folder: Path) -> tuple[Batch, nn.Module, dict[str, Tensor]]:
    """A batch, the model, and its losses in float32 on the CPU; those of the last system are kept."""
    if system not in _prepared:
        _prepared.clear()
        config = config_of("htc" if system == "htc-pp" else system, folder)
        batch, classes = first_batch(config)
        torch.manual_seed(0)
        description = taking_all(config.model)
        if system == "htc-pp":
            description = with_semantic_branch(description)
            maps = [torch.randint(IGNORE_INDEX, STUFF_CLASSES, size, dtype=torch.int32) for size in batch.sizes]
            batch = replace(batch, label_maps=tuple(maps))
        model = task_of(config).build_model(description, classes).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout | nn.Dropout2d):
                module.p = 0.0  # devices draw different numbers
        _prepared[system] = batch, model, _losses(copy.deepcopy(model), batch, torch.device("cpu"))
    return _prepared[system]


def _losses(model: Any, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    with warnings.catch_warnings(), seeded(0, device=device):
        warnings.simplefilter("ignore")  # of mmdet, about torch
        terms: dict[str, Tensor] = model.losses(batch)
    return {name: value for name, value in terms.items() if "loss" in name}


def _measure_step(system: str, device: torch.device, precision: str, folder: Path) -> Measured:
    batch, original, expected = _prepare(system, folder)
    model = copy.deepcopy(original).to(device)
    options: dict[str, Any] = {"learning_rate": 1e-4, "weight_decay": 0.05, "betas": (0.9, 0.999)}
    optimizer = adamw(model, **options, no_decay=NO_DECAY)
    moved = batch.pin_memory() if device.type == "cuda" else batch
    with autocast(device, precision):
        terms = _losses(model, moved.to(device, non_blocking=True), device)
    scale = LOSS_SCALE if precision == "float16" else 1.0
    torch.autograd.backward(scale * total_loss(terms))
    broken = [name for name, one in model.named_parameters() if one.grad is not None and not one.grad.isfinite().all()]
    if broken:
        raise ArithmeticError(f"gradients that are not finite: {', '.join(broken[:4])} ({len(broken)} in all)")
    for one in model.parameters():
        if one.grad is not None:
            one.grad.div_(scale)
    optimizer.step()
    if not all(bool(one.isfinite().all()) for one in model.parameters()):
        raise ArithmeticError("weights are not finite after the step")
    wanted = float(total_loss(expected).detach())
    found = {name: float(value.detach()) for name, value in terms.items()}
    apart = {name: abs(found[name] - float(value.detach())) / wanted for name, value in expected.items()}
    worst = max(apart, key=apart.__getitem__)
    return Measured(
        apart[worst], TOLERANCES[precision], f"loss {sum(found.values()):.5g} of {wanted:.5g}, worst {worst}"
    )


def _measure_resumed(system: str, device: torch.device, folder: Path) -> Measured:
    """Three trainings: a whole one, one that is stopped in its second epoch, and its resumption."""
    changes: dict[str, Any] = {"trainer": {"deterministic": True}, "training.ema_decay": 0.9}
    changes["data.num_workers"] = int(system == "mask-rcnn")  # its batches come from another process
    config = config_of(system, folder / "shapes", **_SHORT, **changes)
    stop = {"type": "swin_dense.doctor.systems.StopAtStep", "step": 6}
    whole, resumed = folder / "whole", folder / "resumed"
    with _same_determinism():
        run = train(config, whole, devices=1, device=str(device))
        try:
            train(load_config(config, {"callbacks": [stop]}), resumed, devices=1, device=str(device))
            raise ArithmeticError("the training did not stop")
        except TrainingInterruptedError:
            pass
        train(config, resumed, resume=True, devices=1, device=str(device))
    states = [_weights(whole), _weights(resumed)]
    names = [name for name, value in states[0].items() if value.is_floating_point()]
    measured = difference([states[1][name] for name in names], [states[0][name] for name in names])
    return Measured(measured, 0.0, f"{len(names)} tensors, scores of {', '.join(run.metrics)}")


def _measure_training(system: str, device: torch.device, folder: Path, precision: str) -> Measured:
    """A training and its validation end, and leave finite weights; it begins with the loss of float32 on the CPU.

    Later losses differ more: a gradient scaler leaves out the first steps of a training in float16.
    """
    logged = []
    for place, kind in (("cpu", "32"), (str(device), {"float16": "16", "bfloat16": "bf16"}[precision])):
        config = config_of(system, folder / "shapes", **_SHORT, **{"training.precision": kind, "data.num_workers": 0})
        run = folder / kind
        train(config, run, devices=1, device=place)
        difference(list(_weights(run).values()), list(_weights(run).values()))  # which refuses what is not finite
        with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
            logged.append([float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]][0])
    apart = abs(logged[1] - logged[0]) / logged[0]
    return Measured(apart, 0.1, f"loss {logged[1]:.5g} of {logged[0]:.5g}")


_SHORT: dict[str, Any] = {"training.log_every": 2, "training.pictures": 1}
"""Two epochs of four steps, or as many steps, each validated."""


def _weights(run: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    return state


@contextmanager
def _same_determinism() -> Iterator[None]:
    """Takes back what a deterministic trainer sets for the whole process."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
