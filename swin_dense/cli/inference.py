"""Commands that use trained weights, and those that count what a model costs."""

from __future__ import annotations

from dataclasses import replace
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
    load_config_or_variant,
    refuse_options,
)
from swin_dense.errors import ConfigError

LABEL_OPTIONS = ("classes", "label_shift", "prediction_shift", "ignore_index")
"""Options of `evaluate` for folders of label PNGs."""


@app.command()
def evaluate(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="Config file; not needed with --gt.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of the whole model.")] = None,
    data: DataRoot = None,
    gt: Annotated[
        Path | None, typer.Option(help="Ground truth: COCO instances JSON, or a folder of label PNGs.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="COCO result JSON, or folder of label PNGs: read with --gt, written with CONFIG."),
    ] = None,
    engine: Annotated[str, typer.Option(help="Detection: faster-coco-eval or pycocotools.")] = "faster-coco-eval",
    classes: Annotated[Path | None, typer.Option(help="Class list of --gt DIR, if it is not beside it.")] = None,
    label_shift: Annotated[
        int | None, typer.Option(help="Added to the labels in --gt DIR; -1 where ADE20K's class list lies beside it.")
    ] = None,
    prediction_shift: Annotated[
        int | None, typer.Option(help="Added to the labels in --predictions DIR; like --label-shift by default.")
    ] = None,
    ignore_index: Annotated[int, typer.Option(help="Label in --gt DIR that does not count.")] = 255,
    overrides: Override = None,
    devices: Devices = "auto",
    as_json: AsJson = False,
) -> None:
    """Scores weights on the validation split of a config, or predictions on their ground truth."""
    scores: Any
    if gt is not None and predictions is not None and config is None:
        refuse_options(context, ("weights", "data", "overrides", "devices"), "only with CONFIG, not with --gt")
        if gt.is_dir():
            refuse_options(context, ("engine",), f"only with a COCO JSON, and --gt {gt} is a folder of label PNGs")
        elif gt.is_file():
            refuse_options(context, LABEL_OPTIONS, f"only with a folder of label PNGs, and --gt {gt} is a file")
        from swin_dense import metrics

        if gt.is_dir():
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
    elif config is not None and weights is not None and gt is None:
        refuse_options(context, LABEL_OPTIONS, "only with --gt DIR; of a config, its data section says it")
        settings = load(config, data, overrides)
        if settings.task != "detection":
            refuse_options(context, ("engine",), f"only for detection, and {config} is for {settings.task}")
        from swin_dense.tasks import evaluation
        from swin_dense.tasks.run_folder import is_first_process

        scores = evaluation.evaluate(
            settings, weights, engine=engine, predictions=predictions, devices=device_count(devices)
        )
        if not is_first_process():
            return
    else:
        raise ConfigError("evaluate takes either CONFIG --weights FILE, or --gt FILE --predictions FILE")
    from swin_dense.cli.report import print_report, score_tables

    print_report(scores, *score_tables(scores), as_json=as_json)


@app.command()
def predict(
    context: typer.Context,
    config: ConfigFile,
    images: Annotated[list[Path], typer.Argument(help="Image files or folders.", metavar="IMAGE...")],
    weights: Annotated[Path, typer.Option(help="Weights of the whole model.")],
    output: Annotated[Path, typer.Option(help="Folder for pictures and results.")],
    data: DataRoot = None,
    score_threshold: Annotated[float, typer.Option(help="Detection: least score of what is drawn.")] = 0.3,
    min_score: Annotated[float | None, typer.Option(help="Detection: least score of what is written.")] = None,
    max_detections: Annotated[int | None, typer.Option(help="Detection: most objects of an image.")] = None,
    probabilities: Annotated[bool, typer.Option(help="Segmentation: write the probability of every class.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; changes no result.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    overrides: Override = None,
) -> None:
    """Finds objects in images, or segments them: pictures for people, files for programs.

    Test-time augmentation: --set "inference.scales=[0.75, 1.0, 1.25]" --set inference.flip=True, for detection with
    --set inference.merge=vote.
    Slices of large images, detection: --set "inference.slice_size=[640, 640]", with --set inference.merge=nmm and --set
    inference.merge_overlap=ios to unite the parts of an object. Soft-NMS in a two-stage detector: --set
    model.test_cfg.rcnn.nms.type=soft_nms.
    """
    settings = load(config, data, overrides)
    others = ("probabilities",) if settings.task == "detection" else ("score_threshold", "min_score", "max_detections")
    refuse_options(context, others, f"not for {settings.task}, which {config} is for")
    chosen = {"min_score": min_score, "max_detections": max_detections}
    shortcuts = {name: value for name, value in chosen.items() if value is not None}
    settings = replace(settings, inference=replace(settings.inference, **shortcuts))
    options: dict[str, Any] = {"batch_size": batch_size, "device": device}
    if settings.task == "detection":
        from swin_dense.tasks.predict_objects import predict_objects

        rows = predict_objects(settings, weights, images, output, score_threshold=score_threshold, **options)
        print(f"{len(rows)} detections in {output / 'predictions.json'}, pictures beside it")
    else:
        from swin_dense.tasks.predict_label_maps import predict_label_maps

        rows = predict_label_maps(settings, weights, images, output, probabilities=probabilities, **options)
        print(f"{len(rows)} label maps in {output / 'labels'}, pictures in {output / 'overlays'}")


@app.command()
def stats(
    model: Annotated[str, typer.Argument(help="Config file or backbone variant.", metavar="CONFIG|VARIANT")],
    shape: Annotated[str, typer.Option(help="Image height x width.")] = "800x1280",
    overrides: Override = None,
    as_json: AsJson = False,
) -> None:
    """Counts parameters and multiply-adds of a model."""
    height, width = height_and_width(shape)
    source = load_config_or_variant(model, overrides)
    from swin_dense.cli.report import print_report, stats_table
    from swin_dense.workflows.sizes import stats as model_sizes

    sizes = model_sizes(source, height, width).to_dict()

    print_report(sizes, stats_table(sizes, title=f"{model} at {height}x{width}"), as_json=as_json)
