"""Train, and the demo, which is a training on the embedded shapes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from swin_dense import tasks
from swin_dense.cli.report import score_tables
from swin_dense.config import Config, DetectionConfig, load_config
from swin_dense.data.shapes import write_shapes
from swin_dense.errors import ConfigError, nearest
from swin_dense.tasks.initial_weights import load_initial_weights
from swin_dense.tasks.outputs import check_output_folder
from swin_dense.tasks.run_folder import Progress, is_first_process, open_run, progress_of, write_weights
from swin_dense.visualize.curves import draw_curves

DEMOS = {
    "detection": ("demo/mask-rcnn_swin-nano_shapes", "."),
    "segmentation": ("demo/upernet_swin-nano_shapes", "ade20k"),
}
"""The config of each task, and where in the shapes data set its data lies."""

DEMO_SCENES = {"train": 1200, "val": 200}

console = Console(stderr=True)


@dataclass(frozen=True)
class TrainingResult:
    """What a training has left.

    Attributes:
        run: The run folder.
        scores: Of the last validation.
    """

    run: Path
    scores: Mapping[str, Any]


def train(
    config: Config,
    run: Path,
    *,
    weights: Path | None = None,
    new_classes: bool | None = None,
    ignore: Sequence[str] = (),
    resume: bool = False,
    devices: int | str = "auto",
) -> TrainingResult:
    """Trains a model, validates it, and fills a run folder.

    Args:
        config: What to train on what and how.
        run: The run folder; must not exist yet, unless it is resumed.
        weights: Checkpoint to start from, of a whole model or of a backbone.
        new_classes: What becomes of the layers of that checkpoint that tell its classes; see `load_initial_weights`.
        ignore: Parameters of that checkpoint to leave out.
        resume: Continue the training in `run` from its `last.ckpt`.
        devices: Number of devices of this node, or "auto".

    Returns:
        The run folder and the last scores.

    Raises:
        SwinDenseError: Something in the config, the data or the weights is wrong, the loss became non-finite, or a
            signal stopped the training (which can then be resumed).
    """
    check_output_folder(run)
    checkpoint = run / "last.ckpt" if resume else None
    resumed_step = 0
    if checkpoint:
        done = progress_of(checkpoint)
        _check_length(config, done, run)
        resumed_step = done.steps
    data = tasks.data_module(config)
    data.setup("fit")
    module = tasks.training_module(config, data)
    tasks.check_validation(config, module.metric.figure_names)
    frozen_stages = config.model.get("backbone", {}).get("frozen_stages", -1)
    if frozen_stages >= 0 and weights is None and not resume:
        raise ConfigError(f"model.backbone.frozen_stages={frozen_stages} freezes random weights; pass --weights FILE")
    if weights is not None:
        load_initial_weights(module.network, weights, config, data.class_names, new_classes=new_classes, ignore=ignore)
    trainer = tasks.training_trainer(config, run, tasks.picture_drawer(data), devices, resumed_step)
    if not resume:
        open_run(run, config)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    finally:
        if is_first_process() and (run / "best.ckpt").is_file():
            write_weights(run, tasks.label_metadata(data))
            draw_curves(run / "metrics.csv", run / "curves.png")
    if is_first_process() and module.scores:
        console.print(score_tables(module.scores)[0])
    return TrainingResult(run, module.scores)


def _check_length(config: Config, progress: Progress, run: Path) -> None:
    """Refuses a schedule that ended before what is done."""
    if isinstance(config, DetectionConfig):
        unit, length, done = "epochs", config.schedule.epochs, progress.epochs
    else:
        unit, length, done = "steps", config.schedule.steps, progress.steps
    if done > length:
        raise ConfigError(f"schedule.{unit}={length}: {run} has been trained for {done} {unit} already")


def demo(task: str, run: Path, data_root: Path) -> TrainingResult:
    """Generates the shapes data set, trains the demo config of a task on it, and draws predictions.

    Args:
        task: A key of `DEMOS`.
        run: The run folder; an earlier demo there is replaced.
        data_root: Where the data set is written, or is already.

    Returns:
        The run folder and the scores.

    Raises:
        ConfigError: There is no demo of this task.
    """
    if task not in DEMOS:
        raise ConfigError(f'there is no demo of "{task}"; {nearest(task, DEMOS)}')
    name, folder = DEMOS[task]
    console.print(f"writing the shapes data set to {data_root}")
    write_shapes(data_root, **DEMO_SCENES)
    if run.is_dir() and (run / "run.json").is_file():
        shutil.rmtree(run)
    return train(load_config(name, {"data.root": data_root / folder}), run)
