"""Commands that take a model elsewhere, or look into it: exports and pictures of features."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from swin_dense.cli.app import AsJson, Override, app, height_and_width
from swin_dense.errors import ConfigError

Model = Annotated[str, typer.Argument(help="Run folder, config or backbone variant.", metavar="RUN|CONFIG|VARIANT")]
Weights = Annotated[Path | None, typer.Option(help="Weights of the model.")]
RandomWeights = Annotated[bool, typer.Option("--random-weights", help="Go on without --weights.")]


@app.command("export-onnx")
def export_onnx(
    model: Model,
    output: Annotated[Path, typer.Argument(help="File to write: .onnx, or .pt2 with --to torch-export.")],
    weights: Weights = None,
    to: Annotated[str, typer.Option(help="onnx or torch-export.")] = "onnx",
    part: Annotated[
        str | None,
        typer.Option(help="backbone, neck (with the backbone) or whole (a segmenter); the most there is by default."),
    ] = None,
    shape: Annotated[
        str, typer.Option(help="Size of the largest image checked, and of all if it is fixed.")
    ] = "800x1280",
    fixed: Annotated[bool, typer.Option("--fixed", help="Only one image of --shape at a time.")] = False,
    opset: Annotated[int, typer.Option(min=18, help="Version of ONNX's operators.")] = 18,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Largest relative deviation that is accepted.")] = 1e-4,
    images: Annotated[Path | None, typer.Option(help="Folder of images to check on; else some are generated.")] = None,
    overrides: Override = None,
    random_weights: RandomWeights = False,
    as_json: AsJson = False,
) -> None:
    """Writes a model as ONNX or torch.export and compares the file with it; exits with 1 beyond the tolerance."""
    size = height_and_width(shape)
    from swin_dense.cli.report import print_report
    from swin_dense.export.deploy import check_output, export_model
    from swin_dense.models.parts import load_part

    check_output(output, to)
    record = export_model(
        load_part(model, weights, part=part, random_weights=random_weights, overrides=overrides or ()),
        output,
        to=to,
        size=size,
        fixed=fixed,
        opset=opset,
        tolerance=tolerance,
        images=images,
    )
    print_report(record, _parity_table(record), *_remarks(record), as_json=as_json)
    sys.exit(0 if record["ok"] else 1)


@app.command("visualize-features")
def visualize_features(
    model: Model,
    image: Annotated[Path, typer.Argument(help="Image file.")],
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    weights: Weights = None,
    stage: Annotated[
        list[int] | None, typer.Option(help="Stage to draw, from 1; may be repeated; all by default.")
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(metavar="ROW,COLUMN", help="Window whose attention is drawn, from 0; else a middle one."),
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="Class that Grad-CAM explains; else the one the model is surest of.")
    ] = None,
    short_side: Annotated[int, typer.Option(min=32, help="Shorter side of the image, in pixels.")] = 480,
    overrides: Override = None,
    random_weights: RandomWeights = False,
    as_json: AsJson = False,
) -> None:
    """Draws principal components, attention, position biases and Grad-CAM of one image."""
    place = _row_and_column(window)
    from swin_dense.cli.report import print_report
    from swin_dense.images.finder import ImageFiles
    from swin_dense.models.parts import load_inspected
    from swin_dense.visualize.inspection import visualize_features as draw

    inspected = load_inspected(
        model, weights, class_name=class_name, random_weights=random_weights, overrides=overrides or ()
    )
    record = draw(
        inspected,
        ImageFiles([image])[0].image,
        output,
        stages=stage or (),
        window=place,
        short_side=short_side,
    )
    print_report(record, *record["files"], f"Grad-CAM explains: {record['gradcam']}", as_json=as_json)


def _row_and_column(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    row, comma, column = text.partition(",")
    if not (comma and row.isdecimal() and column.isdecimal()):
        raise ConfigError(f'--window takes ROW,COLUMN, for instance 2,3, not "{text}"')
    return int(row), int(column)


def _parity_table(record: dict[str, Any]) -> Table:
    title = f"{record['file']} against PyTorch, {record['model']}, {record['part']}"
    table = Table("images", "output", "largest difference", "relative", title=title, title_justify="left")
    for row in record["parity"]:
        relative = row["relative"]
        style = None if relative is not None and relative <= record["tolerance"] else "bold red"
        numbers = (
            "wrong shape or NaN" if number is None else f"{number:.1e}" for number in (row["absolute"], relative)
        )
        table.add_row("x".join(map(str, row["shape"])), row["output"], *numbers, style=style)
    return table


def _remarks(record: dict[str, Any]) -> list[str]:
    shape = dict(zip(("batch", "", "height", "width"), record["traced_shape"], strict=True))
    fixed = {name: shape[name] for name in ("batch", "height", "width") if name not in record["open_axes"]}
    remarks = [f"input {record['input']}"]
    if record["open_axes"]:
        remarks.append(f"any {', '.join(record['open_axes'])}")
    if fixed:
        reason = f", because {record['why_fixed']}" if record["why_fixed"] else ""
        remarks.append(f"fixed: {', '.join(f'{name} {size}' for name, size in fixed.items())}{reason}")
    if record["not_in_weights"]:
        remarks.append(f"not in the weights, left as initialised: {', '.join(record['not_in_weights'])}")
    verdict = "within" if record["ok"] else "beyond"
    names = ", ".join(dict.fromkeys(Path(name).name for name in record["images"]))
    return [*remarks, f"{verdict} the tolerance of {record['tolerance']:g}, on {names}"]
