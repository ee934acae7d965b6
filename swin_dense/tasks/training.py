"""Train, from random weights or others, and the demo, which is a training on the embedded shapes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from torch import nn

from swin_dense.config import Config, config_of_run, load_config, settings_of, stopping_early
from swin_dense.data.moving_shapes import write_moving_shapes
from swin_dense.data.shapes import write_shapes
from swin_dense.errors import ConfigError, DataError, OutputError, TrainingError, WeightsError, option, setting
from swin_dense.files import check_output_folder
from swin_dense.images.files import exists
from swin_dense.importing.layouts import hint_to_import
from swin_dense.isolation import keeping_freed_memory
from swin_dense.openmmlab.model_dicts import class_dependent_tensors
from swin_dense.tasks import data_module, task_named, task_of
from swin_dense.tasks.base import path_notes
from swin_dense.tasks.run_folder import (
    best_network,
    changed_settings,
    check_resumable,
    check_same_classes,
    held,
    is_first_process,
    open_run,
    read_checkpoint,
    record_resume,
    write_weights,
)
from swin_dense.training.trainer import (
    check_trainer_options,
    check_validation,
    describe,
    placement,
    surroundings,
    training_trainer,
)
from swin_dense.visualize.curves import draw_curves
from swin_dense.weights import load_weights
from swin_dense.weights.files import read_class_names, same_classes

DEMO_SCENES = {"train": 1200, "val": 200}
DEMO_VIDEOS = {"train": 160, "val": 30}
"""Of each class."""

SHOWN = 5
"""Class names in a message."""

console = Console(stderr=True)


@dataclass(frozen=True)
class Run:
    """What a training has left; `swin_dense.load` and the other functions take it like the path of its folder.

    Attributes:
        folder: The run folder.
        metrics: Of the last validation.
    """

    folder: Path
    metrics: Mapping[str, Any]

    def __fspath__(self) -> str:
        return str(self.folder)


def train_source(
    source: Any,
    changes: Mapping[str, Any],
    *,
    run: str | PathLike[str] | None = None,
    resume: str | PathLike[str] | None = None,
    early_stopping: int | None = None,
    **options: Any,
) -> Run:
    """Trains what a source names; see `swin_dense.train`.

    `changes` are new values of config keys; milestones follow the number of epochs unless they are changed themselves.
    """
    if (source is None) == (resume is None):
        raise ConfigError("name a config, or a run folder to resume, and not both")
    if resume is not None:
        if run is not None or options.get("weights") is not None:
            raise ConfigError(
                "resume continues with the config and the weights of its run; run and weights are not for it"
            )
        config = load_config(config_of_run(Path(resume)), changes)
        return train(stopping_early(config, early_stopping), Path(resume), resume=True, **options)
    epochs, milestones = changes.get("schedule.epochs"), "schedule.milestones"
    config = load_config(source)
    if isinstance(epochs, int) and milestones not in changes and hasattr(config.schedule, "milestones"):
        scale = epochs / config.schedule.length
        changes = {**changes, milestones: [max(1, round(one * scale)) for one in config.schedule.milestones]}
    name = Path(source).stem if isinstance(source, str | PathLike) else config.task
    config = stopping_early(load_config(config, changes), early_stopping)
    return train(config, Path(run or Path("runs") / name), **options)


def train(
    config: Config,
    run: Path,
    *,
    weights: str | PathLike[str] | None = None,
    new_classes: bool | None = None,
    ignore: Sequence[str] = (),
    resume: bool = False,
    devices: int | str = "auto",
    device: str | None = None,
) -> Run:
    """Trains a model, validates it, and fills a run folder that must not exist yet, unless `resume` continues it.

    `new_classes` and `ignore` are those of `load_initial_weights`; with `resume`, a `new_classes` of False goes on with
    data that calls the same classes by other names. `devices` is a number, or "auto"; `device` their type.
    """
    run = run.absolute()  # whoever changes the working folder meanwhile, or before it is used
    config = replace(config, trainer={**config.trainer, **placement(devices, device)})
    with surroundings(config.training.matmul_precision), ExitStack() as stack:
        check_output_folder(run)
        try:
            str(run).encode()  # TensorBoard and checkpoints write it as UTF-8
        except UnicodeEncodeError as error:
            fix = "name another folder, or run with PYTHONUTF8=1 where its name is UTF-8"
            raise ConfigError(f"{ascii(str(run))}: the name of a run folder must be UTF-8; {fix}") from error
        check_trainer_options(config.trainer)
        done: dict[str, Any] = {}
        changes: dict[str, tuple[Any, Any]] = {}
        if resume:
            done = read_checkpoint(run / "last.ckpt")
            changes = changed_settings(settings_of(load_config(run / "config.py")), settings_of(config))
            check_resumable(run, config, changes, done)
            if (run / "best.ckpt").is_file():
                best_network(run)
        task, data = task_of(config), data_set_up(config)
        check_same_classes(run, done, data.class_names, renamed=new_classes is False)
        module = initial_module(config, data, weights, new_classes=new_classes, ignore=ignore, resume=resume)
        trainer = training_trainer(config, run, partial(task.draw_validation, data), done.get("steps", 0))
        stack.enter_context(held(run, "training", "run"))
        if resume:
            record_resume(run, config, changes)
        else:
            open_run(run, config)
        if is_first_process():
            console.print(describe(trainer, config), highlight=False, markup=False, soft_wrap=True)
        try:
            with keeping_freed_memory(trainer.strategy.root_device):
                trainer.fit(module, datamodule=data, ckpt_path=run / "last.ckpt" if resume else None, weights_only=True)
        except (MisconfigurationException, ModuleNotFoundError) as error:  # of a callback, when it is set up
            raise ConfigError(f"trainer and callbacks: {' '.join(str(error).split())}") from error
        except OSError as error:
            if error.errno is None or error.filename is not None or isinstance(error, ConnectionError):
                raise
            raise OutputError(f"{run} cannot be written: {error.strerror}") from error  # by a logger
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"the device ran out of memory with data.batch_size={config.data.batch_size}: lower it (and set "
                "training.images_per_step to what a step shall see), or set "
                "model.backbone.activation_checkpointing=True"
            ) from error
        finally:
            if is_first_process() and (run / "best.ckpt").is_file():
                _leave_results(run, task.labels(data).metadata())
        unit, length = config.schedule.unit, config.schedule.length
        trained = trainer.current_epoch if unit == "epochs" else trainer.global_step
        if resume and not module.scores and trained >= length and is_first_process():
            longer = f"{setting(f'schedule.{unit}')} trains longer"
            said = f"nothing was left to train: all {length} {unit} are done; {longer}"
            console.print(said, highlight=False, markup=False, soft_wrap=True)
        for one in trainer.early_stopping_callbacks:
            if one.wait_count >= one.patience and is_first_process():
                said = f"stopped early: no better {one.monitor} in {one.wait_count} validations"
                console.print(said, highlight=False, markup=False)
        return Run(run, module.scores)


def initial_module(
    config: Config,
    data: Any,
    weights: str | PathLike[str] | None,
    *,
    new_classes: bool | None = None,
    ignore: Sequence[str] = (),
    resume: bool = False,
) -> Any:
    """The Lightning module of a config as its training starts; where it resumes, a checkpoint has the weights."""
    task = task_of(config)
    torch.manual_seed(config.training.seed)
    module = task.training_module(config, data, task.build_model(config.model, len(data.class_names)))
    check_validation(config, module.metric.metric_names)
    frozen_stages = config.model.get("backbone", {}).get("frozen_stages", -1)
    if frozen_stages >= 0 and weights is None and not resume:
        raise ConfigError(
            f"model.backbone.frozen_stages={frozen_stages} freezes random weights; pass {option('weights', 'FILE')}"
        )
    if weights is not None:
        load_initial_weights(
            module.network, Path(weights), config, data.class_names, new_classes=new_classes, ignore=ignore
        )
    return module


def data_set_up(config: Config) -> Any:
    """The data of a config, read; a folder of another format is an error that says how to import it."""
    try:
        data = data_module(config)
        data.setup("fit")
    except DataError as error:
        form = task_of(config).imported_as
        hint = None
        if form is not None and not all(map(exists, path_notes(config))):
            hint = hint_to_import(Path(config.data.root), form)
        if hint is None:
            raise
        raise DataError(f"{hint}\n({error})") from error
    return data


def _leave_results(run: Path, labels: Mapping[str, Any]) -> None:
    """Writes weights and curves; where the training has failed, its own error is the one that counts."""
    failed = sys.exc_info()[1] is not None
    try:
        write_weights(run, labels)
        if (run / "metrics.csv").is_file():
            draw_curves(run / "metrics.csv", run / "curves.png")
    except Exception as error:
        if not failed:
            raise
        console.print(f"besides, the results cannot be written: {error}", highlight=False, markup=False)


def load_initial_weights(
    network: nn.Module,
    weights: Path,
    config: Config,
    class_names: Sequence[str],
    *,
    new_classes: bool | None = None,
    ignore: Sequence[str] = (),
) -> None:
    """Loads weights to train on from, and says what became of them.

    Layers that depend on the classes are never taken from weights of other classes.

    Where `new_classes` is True, the layers whose size depends on the number of classes are re-initialised, whatever is
    there; False takes them, even if the names of the classes differ; None takes them unless the names differ. `ignore`
    are further parameters to leave out.
    """
    task = task_of(config)
    layers = class_dependent_tensors(config.model, task.build_network)
    source = task.initial_weights(config, weights)
    theirs = read_class_names(weights) if source is weights else tuple(class_names)
    trained_on = f"was trained on {'other' if theirs is None else len(theirs)} classes{_first(theirs or ())}"
    wanted = f"the {len(class_names)} classes of the data{_first(class_names)}"
    try:
        report = load_weights(network, source, ignore=[*ignore, *layers] if new_classes else ignore)
    except WeightsError as error:
        if new_classes or not _fits_without(layers, network, weights, ignore):
            raise
        raise WeightsError(
            f"{weights} {trained_on}: {_modules(layers)} do not fit {wanted}; pass {option('new_classes')} to "
            "re-initialise them"
        ) from error
    missing = {note.name for note in report.missing}
    kept = [name for name in layers if name not in missing]
    if kept and new_classes is None and theirs is not None and not same_classes(theirs, class_names):
        raise WeightsError(
            f"{weights} {trained_on}, and {_modules(kept)} would predict those as {wanted}; pass "
            f"{option('new_classes')} to re-initialise these layers, or {option('new_classes', False)} if only the "
            "names differ"
        )
    if is_first_process():
        lines = [report.summary()]
        if new_classes:
            lines.append(f"re-initialised for {wanted}: {_modules(layers)}")
        elif kept and theirs is None:
            lines.append(f"the weights do not name their classes; they are taken for {wanted}")
        console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _fits_without(layers: Sequence[str], network: nn.Module, weights: Path, ignore: Sequence[str]) -> bool:
    """Whether nothing but the layers of the classes stands in the way."""
    try:
        load_weights(network, weights, ignore=[*ignore, *layers])
    except WeightsError:
        return False
    return True


def _modules(names: Sequence[str]) -> str:
    """The modules that hold some tensors."""
    return ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _first(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"


def demo(task: str, run: Path, data_root: Path | None = None, device: str | None = None) -> Run:
    """Generates the data set of shapes, or of moving ones, trains the demo of a task on it, and draws predictions."""
    demo = task_named(task).demo
    data_root = data_root or Path("data/moving-shapes" if demo.moving else "data/shapes")
    config = load_config(demo.config, {"data.root": data_root / demo.folder})
    # What a run was placed on is in its config, too.
    if (run / "config.py").is_file() and replace(load_config(run / "config.py"), trainer=config.trainer) != config:
        raise ConfigError(
            f"{run} holds another run than this demo; remove it, or name another folder: {option('run', 'FOLDER')}"
        )
    console.print(f"writing the {'moving ' if demo.moving else ''}shapes data set to {data_root}")
    if demo.moving:
        write_moving_shapes(data_root, **DEMO_VIDEOS)
    else:
        write_shapes(data_root, **DEMO_SCENES)
    if run.is_dir() and (run / "run.json").is_file():
        shutil.rmtree(run)
    return train(config, run, device=device)
