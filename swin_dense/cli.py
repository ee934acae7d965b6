"""The command line. Each command imports what it needs when it runs, so that `--help` and errors come at once.

Results go to stdout, everything else to stderr; with `--json`, stdout holds one JSON object. Errors that a user can
mend are printed without a traceback, and the exit status is 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from swin_dense.errors import ConfigError, SwinDenseError, TrainingInterruptedError

app = typer.Typer(
    name="swin-dense",
    help="One Swin Transformer backbone for every dense task.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[Path, typer.Argument(help="Config file (Python; it is executed).", metavar="CONFIG")]
Override = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Changes one key of the config, e.g. data.batch_size=4."),
]
DataRoot = Annotated[Path | None, typer.Option("--data", help="Folder of the data set, instead of data.root.")]
Devices = Annotated[str, typer.Option(help='Number of devices on this machine, or "auto".')]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits.

    Args:
        arguments: Those after the program's name; None takes them from the command line.
    """
    try:
        app(args=None if arguments is None else list(arguments), standalone_mode=True)
    except TrainingInterruptedError as stop:
        print(stop, file=sys.stderr)
        sys.exit(130)
    except SwinDenseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


@app.command()
def train(
    config: Annotated[Path | None, typer.Argument(help="Config file; not needed with --resume.")] = None,
    data: DataRoot = None,
    weights: Annotated[Path | None, typer.Option(help="Start from these weights.")] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="Parameters of --weights to leave out, by name or module."),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to continue.")] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME by default.")] = None,
    overrides: Override = None,
    devices: Devices = "auto",
) -> None:
    """Trains a detector and fills a run folder."""
    if resume is not None and (config is not None or weights is not None or run is not None):
        raise ConfigError("--resume RUN continues with the config and weights in RUN; change keys with --set")
    if resume is None and config is None:
        raise ConfigError("name a config file, or a run folder with --resume")
    source = config if config is not None else _run_config(resume)
    settings = _load(source, data, overrides)
    from swin_dense.workflows import training

    result = training.train(
        settings,
        resume or run or Path("runs") / source.stem,
        weights=weights,
        ignore=tuple(ignore or ()),
        resume=resume is not None,
        devices=_device_count(devices),
    )
    _say_what_next(result.run)


@app.command()
def evaluate(
    config: Annotated[Path | None, typer.Argument(help="Config file; not needed with --gt.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of the whole detector.")] = None,
    data: DataRoot = None,
    gt: Annotated[Path | None, typer.Option(help="Ground truth: COCO instances JSON.")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="COCO result JSON: read with --gt, written with CONFIG."),
    ] = None,
    engine: Annotated[str, typer.Option(help="faster-coco-eval or pycocotools.")] = "faster-coco-eval",
    overrides: Override = None,
    devices: Devices = "auto",
    as_json: AsJson = False,
) -> None:
    """Scores weights on the validation split of a config, or a result file on its ground truth."""
    scores: Any
    if gt is not None and predictions is not None and config is None:
        from swin_dense.metrics import evaluate_coco_files

        scores = evaluate_coco_files(gt, predictions, engine=engine)
    elif config is not None and weights is not None and gt is None:
        settings = _load(config, data, overrides)
        from swin_dense.workflows import inference
        from swin_dense.workflows.run_folder import is_first_process

        scores = inference.evaluate(
            settings, weights, engine=engine, predictions=predictions, devices=_device_count(devices)
        )
        if not is_first_process():
            return
    else:
        raise ConfigError("evaluate takes either CONFIG --weights FILE, or --gt FILE --predictions FILE")
    from swin_dense.report import ap_table, per_class_table, print_report

    print_report(scores, ap_table(scores), per_class_table(scores), as_json=as_json)


@app.command()
def predict(
    config: ConfigFile,
    images: Annotated[list[Path], typer.Argument(help="Image files or folders.", metavar="IMAGE...")],
    weights: Annotated[Path, typer.Option(help="Weights of the whole detector.")],
    output: Annotated[Path, typer.Option(help="Folder for pictures and predictions.json.")],
    data: DataRoot = None,
    score_threshold: Annotated[float, typer.Option(help="Least score of what is drawn.")] = 0.3,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    overrides: Override = None,
) -> None:
    """Finds objects in images: annotated pictures, and COCO results as JSON."""
    settings = _load(config, data, overrides)
    from swin_dense.workflows import inference

    rows = inference.predict(
        settings,
        weights,
        images,
        output,
        score_threshold=score_threshold,
        batch_size=batch_size,
        device=device,
    )
    print(f"{len(rows)} detections in {output / 'predictions.json'}, pictures beside it")


@app.command()
def stats(
    model: Annotated[str, typer.Argument(help="Config file or backbone variant.", metavar="CONFIG|VARIANT")],
    shape: Annotated[str, typer.Option(help="Image height x width.")] = "800x1280",
    overrides: Override = None,
    as_json: AsJson = False,
) -> None:
    """Counts parameters and multiply-adds of a model."""
    height, width = _height_and_width(shape)
    settings = _load(Path(model), None, overrides) if model.endswith(".py") else None
    from swin_dense.report import print_report, stats_table
    from swin_dense.workflows.sizes import stats as model_sizes

    sizes = model_sizes(settings or model, height, width).to_dict()

    print_report(sizes, stats_table(sizes, title=f"{model} at {height}x{width}"), as_json=as_json)


@app.command("check-data")
def check_data(
    config: Annotated[Path | None, typer.Argument(help="Config file, whose splits are checked.")] = None,
    coco: Annotated[Path | None, typer.Option(help="COCO instances JSON to check.")] = None,
    images: Annotated[Path | None, typer.Option(help="Image folder or zip file of --coco.")] = None,
    data: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Reports everything that is wrong with a data set, and exits with status 1 if anything is."""
    if (config is None) == (coco is None):
        raise ConfigError("check-data takes either CONFIG or --coco FILE")
    from swin_dense.data.check import check_coco
    from swin_dense.report import check_tables, print_report

    pairs = {"coco": (coco, images)} if coco else _splits(_load(_given(config), data, None))
    reports = {split: check_coco(*files, progress=_progress) for split, files in pairs.items()}
    records = {split: report.to_dict() for split, report in reports.items()}
    tables = [table for record in records.values() for table in check_tables(record)]
    print_report(records.get("coco", records), *tables, as_json=as_json)
    sys.exit(0 if all(report.ok for report in reports.values()) else 1)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Examines this installation, and exits with status 1 if something would fail."""
    from swin_dense.doctor import examine
    from swin_dense.report import doctor_tables, print_report

    diagnosis = examine()
    record = diagnosis.to_dict()
    print_report(record, *doctor_tables(record), as_json=as_json)
    sys.exit(0 if diagnosis.ok else 1)


@app.command()
def demo(
    run: Annotated[Path, typer.Option(help="Run folder; an earlier demo there is replaced.")] = Path("runs/demo"),
    data: Annotated[Path, typer.Option(help="Where the shapes data set is written.")] = Path("data/shapes"),
) -> None:
    """Trains a small Mask R-CNN on the embedded shapes, from random weights, on any machine."""
    from swin_dense.workflows import training

    result = training.demo(run, data)
    _say_what_next(result.run)


def _load(path: Path, data: Path | None, overrides: Sequence[str] | None) -> Any:
    from swin_dense.config import load_config

    extra = [f"data.root={str(data)!r}"] if data is not None else []
    return load_config(path, [*(overrides or ()), *extra])


def _given(path: Path | None) -> Path:
    assert path is not None
    return path


def _run_config(run: Path | None) -> Path:
    path = _given(run) / "config.py"
    if not path.is_file():
        raise ConfigError(f"{run} is no run folder: it holds no config.py")
    return path


def _splits(settings: Any) -> dict[str, tuple[Path, Path]]:
    root, splits = Path(settings.data.root), {"train": settings.data.train, "val": settings.data.val}
    return {name: (root / split.annotations, root / split.images) for name, split in splits.items()}


def _device_count(text: str) -> int | str:
    if text != "auto" and not text.isdigit():
        raise ConfigError(f'--devices takes a number or "auto", not "{text}"')
    return text if text == "auto" else int(text)


def _height_and_width(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not (cross and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ConfigError(f'--shape takes HEIGHTxWIDTH, for instance 800x1280, not "{text}"')
    return int(height), int(width)


def _progress(items: Any, total: int) -> Any:
    from rich.progress import track

    return track(items, "checking", total=total, console=Console(stderr=True))


def _say_what_next(run: Path) -> None:
    from swin_dense.workflows.run_folder import is_first_process

    if not is_first_process():
        return
    print(f"""
run folder: {run}
  weights.safetensors   the best weights          curves.png   losses and AP
  pictures/             validation predictions    metrics.csv  every figure (tensorboard --logdir {run})
next:
  swin-dense evaluate {run}/config.py --weights {run}/weights.safetensors
  swin-dense predict {run}/config.py IMAGE_OR_FOLDER --weights {run}/weights.safetensors --output outputs
  swin-dense train configs/detection/mask-rcnn_swin-t_fpn_1x_coco.py --data YOUR_COCO_FOLDER""")


if __name__ == "__main__":
    main()
