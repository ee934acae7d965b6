"""Commands that take a model elsewhere, or look into it: features of images, exported graphs, pictures of features."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from swin_dense.cli.app import (
    AsJson,
    Device,
    Override,
    app,
    height_and_width,
    importing,
    show_progress,
    whole_numbers,
)
from swin_dense.errors import ConfigError

Model = Annotated[str, typer.Argument(help="Run folder, config or backbone variant.", metavar="RUN|CONFIG|VARIANT")]
Weights = Annotated[Path | None, typer.Option(help="Checkpoint of any known format, instead of the weights of a run.")]
RandomWeights = Annotated[bool, typer.Option("--random-weights", help="Go on without --weights.")]


@app.command("export-features")
def export_features(
    model: Model,
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images or videos, folders, zip files, text files with a path per line.",
            metavar="IMAGE|DIR|LIST|ZIP...",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the feature store.")],
    weights: Weights = None,
    random_weights: RandomWeights = False,
    stages: Annotated[
        str | None, typer.Option(help="Stages of the backbone, e.g. 3,4; without this and --neck, all of them.")
    ] = None,
    neck: Annotated[bool, typer.Option("--neck", help="Levels of the config's neck.")] = False,
    maps: Annotated[bool, typer.Option(help="Store the feature maps.")] = True,
    pool: Annotated[bool, typer.Option("--pool", help="Store the mean of each map.")] = False,
    roi: Annotated[Path | None, typer.Option(help="JSON file of boxes; store their 7x7 features.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    size: Annotated[str | None, typer.Option(help="Resize to HEIGHTxWIDTH.")] = None,
    short_side: Annotated[int | None, typer.Option(min=1, help="Resize to this shorter side.")] = None,
    native: Annotated[
        bool, typer.Option("--native", help="Keep the size of the images, where a config would resize them.")
    ] = False,
    frames: Annotated[int | None, typer.Option(min=1, help="Videos: frames of a clip; a config's, or 32.")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Videos: from one of them to the next; or 2.")] = None,
    segments: Annotated[
        bool | None,
        typer.Option(
            "--segments/--consecutive",
            help="Videos: one clip with a frame of each of equal segments, or clips one after another; a config's.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one size at a time.")] = 4,
    device: Device = None,
    on_error: Annotated[str, typer.Option(help="At an image that cannot be used: stop or skip.")] = "stop",
    shard_size: Annotated[float, typer.Option(help="Most MiB of features in a file.")] = 256,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 0,
    rank: Annotated[int | None, typer.Option(help="This process of several; torchrun sets it.")] = None,
    world_size: Annotated[int | None, typer.Option(help="Number of processes; torchrun sets it.")] = None,
    overrides: Override = None,
    as_json: AsJson = False,
) -> None:
    """Stores the features of images or videos; started again, it continues where it was interrupted."""
    resize: dict[str, Any] = {}
    if sum((size is not None, short_side is not None, native)) > 1:
        raise ConfigError("--size, --short-side and --native exclude each other")
    if size is not None:
        resize["size"] = height_and_width(size, "--size")
    if short_side is not None:
        resize["short_side"] = short_side
    numbers = None if stages is None else whole_numbers(stages, ",")
    if stages is not None and numbers is None:
        raise ConfigError(f'--stages takes numbers with commas between, for instance 1,2,3,4, not "{stages}"')
    if weights is not None and random_weights:
        raise ConfigError("pass --weights FILE or --random-weights, not both")
    with importing():
        from swin_dense import export
        from swin_dense.cli.report import print_report
        from swin_dense.models.parts import features_of, view_of

        view: dict[str, Any] = view_of(model, resized=not (resize or native), overrides=overrides or ())
        part = features_of(
            model, weights, random_weights=random_weights, stages=numbers, neck=neck, overrides=overrides or ()
        )
    typed = {"frames": frames, "stride": stride, "segments": segments}
    view |= resize | {name: value for name, value in typed.items() if value is not None}
    store = export.export_features(
        part,
        images,
        output,
        **view,
        maps=maps,
        pool=pool,
        boxes=roi,
        dtype=dtype,
        batch_size=batch_size,
        shard_size=shard_size,
        device=device,
        num_workers=num_workers,
        on_error=on_error,
        rank=rank,
        world_size=world_size,
        progress=partial(show_progress, "exporting"),
    )
    summary = {
        "output": str(output),
        store.items: len(store),
        "features": store.names,
        "failures": store.failures,
        "complete": store.is_complete,
    }
    lines = [f"skipped {path}: {error}" for path, error in store.failures.items()]
    lines.append(f"{len(store)} {store.items} in {output}: {', '.join(store.names)}")
    if not store.is_complete:
        lines.append("other processes are still at work")
    print_report(summary, *lines, as_json=as_json)


@app.command("export-onnx")
def export_onnx(
    model: Model,
    output: Annotated[Path, typer.Argument(help="File to write: .onnx, or .pt2 with --to torch-export.")],
    weights: Weights = None,
    to: Annotated[str, typer.Option(help="onnx or torch-export.")] = "onnx",
    part: Annotated[
        str | None,
        typer.Option(help="backbone, neck (with the backbone) or whole; the most there is by default."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="Size of the largest image checked, and of all if it is fixed; the model's own, or 800x1280.",
        ),
    ] = None,
    fixed: Annotated[bool, typer.Option("--fixed", help="Only one image of --shape at a time.")] = False,
    opset: Annotated[int | None, typer.Option(min=18, help="Version of ONNX's operators; else the first.")] = None,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Largest relative deviation that is accepted.")] = 1e-4,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images to check on; else a detector's validation images, or generated ones."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise matrix products dynamically: smaller, less exact.")
    ] = False,
    overrides: Override = None,
    random_weights: RandomWeights = False,
    as_json: AsJson = False,
) -> None:
    """Writes a model as ONNX or torch.export and compares the file with it; exits with 1 beyond the tolerance."""
    size = None if shape is None else height_and_width(shape)
    with importing():
        from swin_dense.cli.report import print_report
        from swin_dense.export.deploy import check_output, export_model
        from swin_dense.models.parts import load_part

        check_output(output, to)
        loaded = load_part(model, weights, part=part, random_weights=random_weights, overrides=overrides or ())
    record = export_model(
        loaded,
        output,
        to=to,
        size=size,
        fixed=fixed,
        opset=opset,
        tolerance=tolerance,
        images=images,
        int8=int8,
    )
    print_report(record, _parity_table(record), *_remarks(record), as_json=as_json)
    raise typer.Exit(0 if record["ok"] else 1)


@app.command("visualize-features")
def visualize_features(
    model: Model,
    image: Annotated[Path, typer.Argument(help="Image file; of a model of videos, a video file.")],
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    weights: Weights = None,
    stage: Annotated[
        list[int] | None, typer.Option(help="Stage to draw, from 1; may be repeated; all by default.")
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(metavar="ROW,COLUMN", help="Window whose attention is drawn, from 0; of videos TIME,ROW,COLUMN."),
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="Class that Grad-CAM explains; else the one the model is surest of.")
    ] = None,
    short_side: Annotated[int, typer.Option(min=32, max=4096, help="Shorter side of the image, in pixels.")] = 480,
    device: Device = None,
    overrides: Override = None,
    random_weights: RandomWeights = False,
    as_json: AsJson = False,
) -> None:
    """Draws principal components, attention, position biases and Grad-CAM of one image, or the last over a video."""
    place = None if window is None else whole_numbers(window, ",")
    if window is not None and (place is None or len(place) not in (2, 3)):
        raise ConfigError(f'--window takes ROW,COLUMN, for instance 2,3, not "{window}"')
    chosen: dict[str, Any] = {"class_name": class_name, "random_weights": random_weights, "device": device}
    with importing():
        from swin_dense.cli.report import print_report
        from swin_dense.images.finder import ImageFiles
        from swin_dense.models.parts import load_inspected
        from swin_dense.visualize.inspection import visualize_features as draw

        inspected = load_inspected(model, weights, overrides=overrides or (), **chosen)
    record = draw(
        inspected,
        ImageFiles([image])[0].image if inspected.read is None else inspected.read(image),
        output,
        stages=stage or (),
        window=None if place is None else tuple(place),
        short_side=short_side,
    )
    print_report(record, *record["files"], f"Grad-CAM explains: {record['gradcam']}", as_json=as_json)


def _parity_table(record: dict[str, Any]) -> Table:
    title = f"{record['file']} against PyTorch, {record['model']}, {record['part']}"
    if "matched" in record["parity"][0]:
        return _detections_table(record, title)
    table = Table("images", "output", "largest difference", "relative", title=title, title_justify="left")
    for row in record["parity"]:
        relative = row["relative"]
        style = None if relative is not None and relative <= record["tolerance"] else "bold red"
        numbers = (
            "wrong shape or NaN" if number is None else f"{number:.1e}" for number in (row["absolute"], relative)
        )
        table.add_row("x".join(map(str, row["shape"])), row["output"], *numbers, style=style)
    return table


def _detections_table(record: dict[str, Any], title: str) -> Table:
    columns = ("images", "detections", "matched", "box, pixels", "score", "mask, part of its box")
    table = Table(*columns, title=title, title_justify="left")
    for row in record["parity"]:
        numbers = ("" if row[key] is None else f"{row[key]:.1e}" for key in ("box_pixels", "score", "mask"))
        counts = f"{row['expected']}" if row["expected"] == row["found"] else f"{row['expected']} and {row['found']}"
        style = None if row["within"] else "bold red"
        table.add_row("x".join(map(str, row["shape"])), counts, str(row["matched"]), *numbers, style=style)
    return table


def _remarks(record: dict[str, Any]) -> list[str]:
    axes = (
        ("batch", "", "height", "width")
        if len(record["traced_shape"]) == 4
        else ("batch", "frames", "", "height", "width")
    )
    shape = dict(zip(axes, record["traced_shape"], strict=True))
    fixed = {name: shape[name] for name in axes if name and name not in record["open_axes"]}
    remarks = [f"input {record['input']}"]
    if record["open_axes"]:
        remarks.append(f"any {', '.join(record['open_axes'])}")
    if fixed:
        reason = f", because {record['why_fixed']}" if record["why_fixed"] else ""
        remarks.append(f"fixed: {', '.join(f'{name} {size}' for name, size in fixed.items())}{reason}")
    if record["not_in_weights"]:
        remarks.append(f"not in the weights, left as initialised: {', '.join(record['not_in_weights'])}")
    if not any(row.get("expected", 1) for row in record["parity"]):
        remarks.append("the model finds nothing in these images, so nothing was compared: name others with --images")
    verdict = "within" if record["ok"] else "beyond"
    names = ", ".join(dict.fromkeys(Path(name).name for name in record["images"]))
    return [*remarks, f"{verdict} the tolerance of {record['tolerance']:g}, on {names}"]
