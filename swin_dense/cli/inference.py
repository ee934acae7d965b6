"""Commands that use trained weights, and those that count what a model costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from swin_dense.cli.app import (
    AsJson,
    ConfigFile,
    DataRoot,
    Devices,
    Override,
    app,
    device_count,
    height_and_width,
    load,
)
from swin_dense.errors import ConfigError


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
        settings = load(config, data, overrides)
        from swin_dense.workflows import inference
        from swin_dense.workflows.run_folder import is_first_process

        scores = inference.evaluate(
            settings, weights, engine=engine, predictions=predictions, devices=device_count(devices)
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
    settings = load(config, data, overrides)
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
    height, width = height_and_width(shape)
    settings = load(Path(model), None, overrides) if model.endswith(".py") else None
    from swin_dense.report import print_report, stats_table
    from swin_dense.workflows.sizes import stats as model_sizes

    sizes = model_sizes(settings or model, height, width).to_dict()

    print_report(sizes, stats_table(sizes, title=f"{model} at {height}x{width}"), as_json=as_json)
