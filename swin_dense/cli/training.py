"""Commands that train."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swin_dense.cli.app import AsJson, DataRoot, Device, Devices, Override, app, device_count, importing, load
from swin_dense.errors import ConfigError

if TYPE_CHECKING:
    from swin_dense.tasks.training import Run


@app.command()
def train(
    config: Annotated[
        str | None, typer.Argument(help="Config, by name or file; not needed with --resume.", metavar="CONFIG")
    ] = None,
    data: DataRoot = None,
    weights: Annotated[Path | None, typer.Option(help="Start from these weights.")] = None,
    new_classes: Annotated[
        bool | None,
        typer.Option(
            "--new-classes/--same-classes",
            help="Re-initialise the layers that depend on the classes, or keep them although class names differ.",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="Parameters of --weights to leave out, by name or module."),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to continue.")] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME by default.")] = None,
    overrides: Override = None,
    trainer: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An argument of Lightning's Trainer, e.g. limit_train_batches=10."),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the backbone; the first steps wait for it.")
    ] = False,
    overfit: Annotated[
        int | None,
        typer.Option(min=1, help="Learn so many training images by heart, to see whether all fits together."),
    ] = None,
    early_stopping: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many validations without a better score.")
    ] = None,
    tune: Annotated[
        str | None, typer.Option(help="learning-rate or batch-size: only try some out, and say which to take.")
    ] = None,
    device: Device = None,
    devices: Devices = "auto",
    as_json: AsJson = False,
) -> None:
    """Trains a model and fills a run folder."""
    if overfit is not None and (resume is not None or early_stopping is not None):
        raise ConfigError("--overfit is a short training of its own; leave out --resume and --early-stopping")
    if tune is not None and not (resume is None and run is None and overfit is None and early_stopping is None):
        raise ConfigError("--tune only tries out; leave out --resume, --run, --overfit and --early-stopping")
    if weights is None and (ignore or new_classes or (new_classes is not None and resume is None)):
        raise ConfigError("--ignore, --new-classes and --same-classes say what to take of --weights FILE; name it")
    if (config is None) == (resume is None):
        raise ConfigError("name a config, or a run folder with --resume RUN, which continues with the config in RUN")
    if resume is not None and (weights is not None or run is not None):
        raise ConfigError("--resume RUN continues with the config and weights in RUN; change keys with --set")
    from swin_dense.config import config_of_run, stopping_early

    source = str(config) if resume is None else str(config_of_run(resume))
    changes = [*(overrides or ()), *(f"trainer.{option}" for option in trainer or ())]
    settings = load(source, data, [*changes, *(["training.compile=True"] if compiled else [])])
    settings = stopping_early(settings, early_stopping)
    if tune is not None:
        from swin_dense.cli.report import print_report
        from swin_dense.tasks import tuning

        found = tuning.tune(
            settings, tune, weights=weights, new_classes=new_classes, ignore=tuple(ignore or ()), device=device
        )
        return print_report(found, *_found(found), as_json=as_json)
    from swin_dense.coco.ahead import reading_ahead

    with reading_ahead(settings.annotation_file):
        with importing():
            from swin_dense.tasks import training

        name = Path(source).stem
        if overfit is not None:
            from swin_dense.tasks.overfit import overfitting

            settings, name = overfitting(settings, overfit, changes), f"{name}-overfit"
        result = training.train(
            settings,
            resume or run or Path("runs") / name,
            weights=weights,
            new_classes=new_classes,
            ignore=tuple(ignore or ()),
            resume=resume is not None,
            devices=device_count(devices),
            device=device,
        )
    _report(result, settings.task, as_json)
    if overfit is not None:
        from swin_dense.tasks.overfit import verdict

        learnt, message = verdict(result, settings)
        print(message, file=sys.stderr)
        raise typer.Exit(0 if learnt else 1)


@app.command()
def demo(
    task: Annotated[str, typer.Option(help="detection, segmentation, classification or video.")] = "detection",
    run: Annotated[
        Path | None, typer.Option(help="Run folder, runs/demo-TASK by default; an earlier demo there is replaced.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Where the data set is written; data/shapes, or data/moving-shapes of videos.")
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Trains a small Mask R-CNN (or UperNet, or classifier) on shapes that are drawn for it, from random weights."""
    from swin_dense.tasks import training

    _report(training.demo(task, run or Path(f"runs/demo-{task}"), data, device), task, as_json, demo=True)


def _found(found: dict[str, Any]) -> list[str]:
    """What was found by trials, for people."""
    sets = " ".join(f"--set {one}" for one in found["set"])
    if "learning_rate" in found:
        low, high = found["tried"]
        return [
            f"learning rate {found['learning_rate']:g}: there the loss falls most steeply, of {found['steps']} steps "
            f"from {low:.0e} to {high:.0e}; the config has {found['in_config']:g}",
            f"it is a start, not the best: compare short trainings; train with {sets}",
        ]
    return [
        f"batch size {found['batch_size']}: up to {found['largest']} images at a time could be trained on; the config "
        f"has {found['in_config']}",
        f"a step then learns from {found['images_per_step']} images, which the learning rate belongs to; other batches "
        f"may hold larger images and more objects, so leave some memory free; train with {sets}",
    ]


def _report(run: Run, task: str, as_json: bool, *, demo: bool = False) -> None:
    """The metrics, what lies where, and what to do next; after a demo, a training at full size."""
    from swin_dense.cli.report import print_report, score_tables
    from swin_dense.tasks import task_named
    from swin_dense.tasks.run_folder import is_first_process

    if not is_first_process():
        return
    full, folder = task_named(task).demo, shlex.quote(str(run.folder))
    files = f"""
run folder: {folder}
  weights.safetensors   the best weights          curves.png   losses and {full.metric}
  pictures/             validation predictions    metrics.csv  every metric (tensorboard --logdir {folder})
next:
  swin-dense evaluate {folder}
  swin-dense predict {folder} FILE_OR_FOLDER --output outputs"""
    if demo:
        files += f"\n  swin-dense train {full.recipe} --data {full.data}"
    tables = score_tables(run.metrics)[:1] if run.metrics else ()
    print_report({"run": str(run.folder), "metrics": run.metrics}, *tables, files, as_json=as_json)
