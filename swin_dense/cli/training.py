"""Commands that train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swin_dense.cli.app import DataRoot, Devices, Override, app, device_count, load
from swin_dense.errors import ConfigError


@app.command()
def train(
    config: Annotated[Path | None, typer.Argument(help="Config file; not needed with --resume.")] = None,
    data: DataRoot = None,
    weights: Annotated[Path | None, typer.Option(help="Start from these weights.")] = None,
    new_classes: Annotated[
        bool | None,
        typer.Option(
            "--new-classes/--same-classes",
            help="Start the layers that tell classes apart anew, or take them although the names of classes differ.",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="Parameters of --weights to leave out, by name or module."),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to continue.")] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME by default.")] = None,
    overrides: Override = None,
    devices: Devices = "auto",
) -> None:
    """Trains a model and fills a run folder."""
    if resume is not None and (config is not None or weights is not None or run is not None):
        raise ConfigError("--resume RUN continues with the config and weights in RUN; change keys with --set")
    if weights is None and (ignore or new_classes is not None):
        raise ConfigError("--ignore, --new-classes and --same-classes say what to take of --weights FILE; name it")
    if config is not None:
        source = config
    elif resume is not None:
        source = _run_config(resume)
    else:
        raise ConfigError("name a config file, or a run folder with --resume")
    settings = load(source, data, overrides)
    from swin_dense.tasks import training

    result = training.train(
        settings,
        resume or run or Path("runs") / source.stem,
        weights=weights,
        new_classes=new_classes,
        ignore=tuple(ignore or ()),
        resume=resume is not None,
        devices=device_count(devices),
    )
    _say_what_next(result.run, settings.task)


@app.command()
def demo(
    task: Annotated[str, typer.Option(help="detection or segmentation.")] = "detection",
    run: Annotated[Path, typer.Option(help="Run folder; an earlier demo there is replaced.")] = Path("runs/demo"),
    data: Annotated[Path, typer.Option(help="Where the shapes data set is written.")] = Path("data/shapes"),
) -> None:
    """Trains a small Mask R-CNN (or UperNet) on the embedded shapes, from random weights, on any machine."""
    from swin_dense.tasks import training

    result = training.demo(task, run, data)
    _say_what_next(result.run, task)


def _run_config(run: Path) -> Path:
    path = run / "config.py"
    if not path.is_file():
        raise ConfigError(f"{run} is no run folder: it holds no config.py")
    return path


def _say_what_next(run: Path, task: str) -> None:
    from swin_dense.tasks.run_folder import is_first_process

    if not is_first_process():
        return
    curves, official, data = {
        "detection": ("losses and AP", "detection/mask-rcnn_swin-t_fpn_1x_coco.py", "YOUR_COCO_FOLDER"),
        "segmentation": ("losses and mIoU", "segmentation/upernet_swin-t_512_160k_ade20k.py", "ADEChallengeData2016"),
    }[task]
    print(f"""
run folder: {run}
  weights.safetensors   the best weights          curves.png   {curves}
  pictures/             validation predictions    metrics.csv  every figure (tensorboard --logdir {run})
next:
  swin-dense evaluate {run}/config.py --weights {run}/weights.safetensors
  swin-dense predict {run}/config.py IMAGE_OR_FOLDER --weights {run}/weights.safetensors --output outputs
  swin-dense train configs/{official} --data {data}""")
