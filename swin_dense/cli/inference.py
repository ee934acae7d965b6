"""Commands that use trained weights: score, predict, serve, and write a page about runs."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from swin_dense.cli.app import (
    AsJson,
    DataRoot,
    Device,
    Devices,
    Override,
    app,
    device_count,
    importing,
    refuse_options,
)
from swin_dense.errors import ConfigError, nearest

LABEL_OPTIONS = ("classes", "label_shift", "prediction_shift", "ignore_index")
"""Options of `evaluate` for folders of label PNGs."""

TASK_OPTIONS = ("engine", "threshold", "min_score", "max_detections", "probabilities")
"""Options that only some tasks take."""

Source = Annotated[str, typer.Argument(help="Run folder, or config (with --weights).", metavar="RUN|CONFIG")]
Weights = Annotated[Path | None, typer.Option(help="Weights of the whole model, instead of those of the run.")]


@app.command()
def evaluate(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="Run folder, or config.", metavar="RUN|CONFIG")] = None,
    weights: Weights = None,
    data: DataRoot = None,
    gt: Annotated[
        Path | None,
        typer.Option(help="Ground truth: COCO instances JSON, folder of label PNGs or of classes, or .txt of labels."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="COCO result JSON, folder of label PNGs, or JSON of classes: read with --gt, written with RUN|CONFIG. "
            "With --gt also the CSV that predict writes, and the folder that it fills."
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="Detection: hotcoco, faster-coco-eval or pycocotools.")] = "hotcoco",
    onnx: Annotated[Path | None, typer.Option(help="Exported file that is scored in place of the model.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Class list of --gt, if it is not beside it.")] = None,
    label_shift: Annotated[
        int | None, typer.Option(help="Added to the labels in --gt DIR; -1 where ADE20K's class list lies beside it.")
    ] = None,
    prediction_shift: Annotated[
        int | None, typer.Option(help="Added to the labels in --predictions DIR; like --label-shift by default.")
    ] = None,
    ignore_index: Annotated[int, typer.Option(help="Label in --gt DIR that does not count.")] = 255,
    tables: Annotated[
        Path | None,
        typer.Option(
            "--metrics",
            help="Also write CSV tables into this folder: metrics by class; detection: by size, Boundary IoU and LVIS.",
        ),
    ] = None,
    corruptions: Annotated[
        Path | None,
        typer.Option(
            help="Score RUN on images corrupted as in ImageNet-C instead: folder for the scores, which can be resumed."
        ),
    ] = None,
    corruption: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Of --corruptions, only this one; repeatable.")
    ] = None,
    severity: Annotated[
        list[int] | None, typer.Option(min=1, max=5, help="Of --corruptions, only this one; repeatable.")
    ] = None,
    overrides: Override = None,
    device: Device = None,
    devices: Devices = "auto",
    as_json: AsJson = False,
) -> None:
    """Scores weights on the validation split of their config, or predictions on their ground truth."""
    scores: Any
    if corruptions is None:
        refuse_options(context, ("corruption", "severity"), "only with --corruptions DIR")
    elif model is not None and gt is None:
        without = ("predictions", "tables", "onnx", "engine")
        refuse_options(context, without, "not with --corruptions, which scores corrupted images")
        _evaluate_corruptions(
            _load(context, model, weights, data, overrides, device), corruptions, corruption, severity, devices, as_json
        )
        return
    else:
        raise ConfigError("--corruptions DIR scores RUN, or CONFIG --weights FILE, on corrupted images: name one")
    if gt is not None and predictions is not None and model is None:
        refuse_options(
            context,
            ("weights", "data", "overrides", "device", "devices", "onnx"),
            "only with RUN or CONFIG, not with --gt",
        )
        from swin_dense.metrics.accuracy import are_classes

        by_class = are_classes(gt, predictions)
        if gt.is_dir() and not by_class:
            refuse_options(context, ("engine",), f"only with a COCO JSON, and --gt {gt} is a folder of label PNGs")
        elif gt.exists():
            others = LABEL_OPTIONS[1:] if by_class else LABEL_OPTIONS
            what = "is a folder of classes" if gt.is_dir() else "is a file"
            refuse_options(context, others, f"only with a folder of label PNGs, and --gt {gt} {what}")
        from swin_dense import metrics
        from swin_dense.metrics.tables import write_class_table, write_coco_tables

        if by_class:
            scores = metrics.evaluate_predicted_classes(gt, predictions, classes=classes)
        elif gt.is_dir():
            scores = metrics.evaluate_label_map_files(
                gt,
                predictions,
                label_shift=label_shift,
                ignore_index=ignore_index,
                prediction_shift=prediction_shift,
                classes=classes,
            )
        else:
            scores = metrics.evaluate_coco_files(gt, predictions, engine=engine)
        if tables is not None and (gt.is_dir() or by_class):
            write_class_table(scores, tables)
        elif tables is not None:
            write_coco_tables(gt, predictions, tables)
    elif model is not None and gt is None:
        refuse_options(context, LABEL_OPTIONS, "only with --gt DIR; of a config, its data section says it")
        loaded = _load(context, model, weights, data, overrides, device)
        from swin_dense.tasks.run_folder import is_first_process

        options: dict[str, Any] = {} if engine == "hotcoco" else {"engine": engine}
        with TemporaryDirectory() as unnamed:
            if tables is not None and predictions is None:
                predictions = loaded.task.predictions_path(loaded.config, Path(unnamed))
            scores = loaded.evaluate(predictions=predictions, devices=device_count(devices), onnx=onnx, **options)
            if not is_first_process():
                return
            if tables is not None:
                assert predictions is not None
                loaded.task.write_metrics(loaded.config, scores, predictions, tables)
    else:
        raise ConfigError("evaluate takes either RUN, CONFIG --weights FILE, or --gt FILE --predictions FILE")
    from swin_dense.cli.report import print_report, score_tables

    print_report(scores, *score_tables(scores), as_json=as_json)


@app.command()
def predict(
    context: typer.Context,
    model: Source,
    images: Annotated[list[Path], typer.Argument(help="Images, videos, or folders of them.", metavar="FILE|DIR...")],
    output: Annotated[Path, typer.Option(help="Folder for pictures and results.")],
    weights: Weights = None,
    data: DataRoot = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Detection: least score of what is drawn.")] = 0.3,
    min_score: Annotated[float | None, typer.Option(help="Detection: least score of what is written.")] = None,
    max_detections: Annotated[int | None, typer.Option(help="Detection: most objects of an image.")] = None,
    probabilities: Annotated[bool, typer.Option(help="Segmentation: write the probability of every class.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images or frames at a time; changes no result.")] = 1,
    device: Device = None,
    overrides: Override = None,
    as_json: AsJson = False,
) -> None:
    """Finds objects in images and videos, or segments them: pictures for people, files for programs.

    Test-time augmentation: --set "inference.scales=[0.75, 1.0, 1.25]" --set inference.flip=True, for detection with
    --set inference.merge=vote.
    Slices of large images, detection: --set "inference.slice_size=[640, 640]". Soft-NMS in a two-stage detector: --set
    model.test_cfg.rcnn.nms.type=soft_nms.
    """
    shortcuts = {"inference.min_score": min_score, "inference.max_detections": max_detections}
    changes = [f"{key}={value}" for key, value in shortcuts.items() if value is not None]
    loaded = _load(context, model, weights, data, overrides, device, changes)
    from swin_dense.cli.report import print_report
    from swin_dense.tasks.prediction import predict_to_folder

    rows = predict_to_folder(
        loaded,
        images,
        output,
        threshold=threshold if "threshold" in loaded.task.options else None,
        probabilities=probabilities,
        batch_size=batch_size,
    )
    record = {"output": str(output), "predictions": rows}
    print_report(record, loaded.task.predicts.format(rows=len(rows), output=output), as_json=as_json)


def _evaluate_corruptions(
    model: Any, folder: Path, names: list[str] | None, severities: list[int] | None, devices: str, as_json: bool
) -> None:
    from swin_dense.cli.report import corruption_table, print_report
    from swin_dense.tasks.corruptions import CORRUPTIONS, SEVERITIES
    from swin_dense.tasks.run_folder import is_first_process

    if unknown := [name for name in names or () if name not in CORRUPTIONS]:
        raise ConfigError(f"--corruption {unknown[0]}: {nearest(unknown[0], CORRUPTIONS)}")
    options = {"names": names or CORRUPTIONS, "severities": severities or SEVERITIES}
    scores = model.evaluate_corruptions(folder, devices=device_count(devices), **options)
    if is_first_process():
        print_report(scores, corruption_table(scores, model.config.score_metric), as_json=as_json)


def _load(
    context: typer.Context,
    model: str,
    weights: Path | None,
    data: Path | None,
    overrides: list[str] | None,
    device: str | None,
    changes: list[str] | None = None,
) -> Any:
    """A whole model, once it is clear that its task takes the options that were typed, which may be `changes`."""
    with importing():
        from swin_dense import models
        from swin_dense.tasks import task_of

        config, run = models.find_config(model, data, overrides or ())
        if config is None:
            raise ConfigError(f"{model} is a backbone alone, without classes: name a run folder or a config")
        others = [name for name in TASK_OPTIONS if name in context.params and name not in task_of(config).options]
        refuse_options(context, others, f"not for {config.task}, which {model} is for")
        if weights is None and run is None:
            raise ConfigError(f"{model} is a config, and no run folder: name its weights with --weights FILE")
        return models.load(model, weights, device, data=data, overrides=[*(overrides or ()), *(changes or ())])


@app.command()
def serve(
    model: Source,
    weights: Weights = None,
    host: Annotated[
        str, typer.Option(help="Address to bind; 0.0.0.0 lets other machines in, without a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to bind.")] = 7860,
    max_mib: Annotated[int, typer.Option(min=1, help="Largest upload in MiB.")] = 64,
    overrides: Override = None,
    device: Device = None,
) -> None:
    """Serves a page in the browser to try a model on; nothing of what is dropped there stays on disk."""
    with importing():
        from swin_dense.models import load as load_model
        from swin_dense.serve import serve as serve_page

        loaded = load_model(model, weights, device, overrides=overrides or ())
    serve_page(loaded, host=host, port=port, max_mib=max_mib)


@app.command()
def report(
    context: typer.Context,
    output: Annotated[Path, typer.Option(help="The page, such as report.html.")],
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders; several are compared.", metavar="RUN...")
    ] = None,
    gt: Annotated[
        Path | None, typer.Option(help="Ground truth instead of a run, as evaluate takes it; with --predictions.")
    ] = None,
    predictions: Annotated[Path | None, typer.Option(help="What was predicted, as evaluate takes it.")] = None,
    images: Annotated[Path | None, typer.Option(help="Images of --gt; COCO's are found beside it.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Class list of --gt, if it is not beside it.")] = None,
    label_shift: Annotated[int | None, typer.Option(help="Added to the labels in --gt DIR; see evaluate.")] = None,
    prediction_shift: Annotated[int | None, typer.Option(help="Added to the labels in --predictions DIR.")] = None,
    ignore_index: Annotated[int, typer.Option(help="Label in --gt DIR that does not count.")] = 255,
    data: DataRoot = None,
    overrides: Override = None,
    device: Device = None,
) -> None:
    """Writes one page on how runs went, how good they are, and where they fail: curves, errors, images."""
    of_files = ("images", "classes", "label_shift", "prediction_shift", "ignore_index")
    if gt is not None and predictions is not None and not runs:
        refuse_options(context, ("data", "overrides", "device"), "only with RUN, not with --gt")
        from swin_dense.report.files import write_file_report

        write_file_report(
            gt,
            predictions,
            output,
            images=images,
            classes=classes,
            label_shift=label_shift,
            prediction_shift=prediction_shift,
            ignore_index=ignore_index,
        )
    elif runs and gt is None and predictions is None:
        refuse_options(context, of_files, "only with --gt; of a run, its config says it")
        with importing():
            from swin_dense import models
            from swin_dense.config import config_of_run
            from swin_dense.tasks.report import write_report

            for run in runs:
                config_of_run(run)
            loaded = [models.load(run, None, device, data=data, overrides=overrides or ()) for run in runs]
        write_report(loaded, runs, output, device=device)
    else:
        raise ConfigError("report takes either RUN, one or several, or --gt FILE --predictions FILE")
    print(f"{output}: {output.stat().st_size / 2**20:.1f} MiB", file=sys.stderr)
