"""Commands about configs: the recipes that there are, one to edit, and what a model costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from swin_dense.cli.app import AsJson, Override, app, height_and_width, refuse_options
from swin_dense.errors import ConfigError


@app.command()
def configs(
    word: Annotated[str | None, typer.Argument(help="Part of a name, or with --copy a whole one.")] = None,
    file: Annotated[Path | None, typer.Argument(help="File for --copy; NAME.py by default.")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Write the recipe to a file of yours.")] = False,
    as_json: AsJson = False,
) -> None:
    """Lists the recipes that train and the other commands know by name, or copies one to be edited."""
    from swin_dense.config import describe_recipe, list_recipes

    if copy:
        if word is None:
            raise ConfigError("name the recipe to copy: swin-dense configs NAME --copy [FILE]")
        copied = _copy(word, file)
        print(f"{copied} written; edit it, then: swin-dense train {copied} --data FOLDER")
        return
    if file is not None:
        raise ConfigError(f"{file}: a file is only written with --copy")
    found = {name: path for name, path in list_recipes().items() if word is None or word.lower() in name.lower()}
    if not found:
        raise ConfigError(f'no recipe has "{word}" in its name; swin-dense configs lists all')
    from swin_dense.cli.report import print_report

    lines = {name: describe_recipe(path) for name, path in found.items()}
    tables: dict[str, Table] = {}
    for name, line in lines.items():
        folder, _, stem = name.partition("/")
        table = tables.setdefault(folder, Table(Column(folder, no_wrap=True), "", box=None))
        table.add_row(stem, line)
    print_report(lines, *tables.values(), as_json=as_json)


@app.command()
def stats(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="Config or backbone variant.", metavar="[CONFIG|VARIANT]")] = None,
    shape: Annotated[str | None, typer.Option(help="Image height x width; 800x1280 by default.")] = None,
    architecture: Annotated[
        bool, typer.Option("--architecture", help="Print the stages of a variant, as Table 7 of the paper does.")
    ] = False,
    complexity: Annotated[
        bool,
        typer.Option("--complexity", help="Cost of attention, of the whole map and in windows: equations 1 and 2."),
    ] = False,
    size: Annotated[str, typer.Option(help="Map height x width in tokens, for --complexity.")] = "56x56",
    window: Annotated[int, typer.Option(help="Side of the windows in tokens, for --complexity.")] = 7,
    channels: Annotated[int, typer.Option(help="Channels of a token, for --complexity.")] = 96,
    plot: Annotated[Path | None, typer.Option(help="Picture of both costs by image side, for --complexity.")] = None,
    overrides: Override = None,
    as_json: AsJson = False,
) -> None:
    """Counts parameters and multiply-adds of a model, lays out its architecture, or compares kinds of attention."""
    if complexity:
        refuse_options(context, ("model", "shape", "architecture", "overrides"), "not taken with --complexity")
        _complexity(height_and_width(size, "--size"), window, channels, plot, as_json)
        return
    refuse_options(context, ("size", "window", "channels", "plot"), "only taken with --complexity")
    if model is None:
        raise ConfigError("stats takes CONFIG or VARIANT, or --complexity")
    pixels = None if shape is None else height_and_width(shape)
    if architecture:
        refuse_options(context, ("overrides",), "not taken with --architecture")
        _architecture(model, pixels, as_json)
        return
    height, width = pixels or (800, 1280)
    from swin_dense.cli.report import print_report, stats_table
    from swin_dense.models.parts import sizes_of

    sizes = sizes_of(model, height, width, overrides=overrides or ()).to_dict()
    print_report(sizes, stats_table(sizes, title=f"{model} at {height}x{width}"), as_json=as_json)


def _architecture(variant: str, pixels: tuple[int, int] | None, as_json: bool) -> None:
    from swin_dense.cli.report import architecture_table, print_report
    from swin_dense.stats import architecture

    stages = [stage.to_dict() for stage in architecture(variant, *(pixels or ()))]
    print_report({"variant": variant, "stages": stages}, architecture_table(variant, stages), as_json=as_json)


def _complexity(size: tuple[int, int], window: int, channels: int, plot: Path | None, as_json: bool) -> None:
    from swin_dense.cli.report import complexity_table, print_report
    from swin_dense.stats import attention_complexity, complexity_by_image_side

    record = attention_complexity(*size, window, channels).to_dict()
    if plot is not None:
        if plot.suffix not in (".png", ".svg", ".pdf"):
            raise ConfigError(f"--plot {plot}: name a file that ends in .png, .svg or .pdf")
        from swin_dense.visualize.curves import draw_complexity

        sides, costs = complexity_by_image_side(window, channels)
        equations = {label: [cost.equation for cost in of_kind] for label, of_kind in costs.items()}
        draw_complexity(sides, equations, [[cost.counted for cost in of_kind] for of_kind in costs.values()], plot)
    print_report(record, complexity_table(record), as_json=as_json)


def _copy(name: str, file: Path | None) -> Path:
    """Writes a config with its bases resolved, so that it loads from any folder."""
    from swin_dense.config import config_text, describe_recipe, find_config, load_config

    source = find_config(name)
    target = file or Path(f"{source.stem}.py")
    text = f'"""{describe_recipe(source) or source.stem}"""\n\n{config_text(load_config(source))}'
    try:
        with target.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{target} exists; name another file: swin-dense configs {name} --copy FILE") from error
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    return target


@app.command("convert-config")
def convert_config(
    source: Annotated[
        str,
        typer.Argument(
            help="Config file of mmdet 3 or mmseg 1, or mmdet::NAME, mmseg::NAME for one that the package brings "
            "along. It is executed: only convert files that you trust.",
            metavar="IN",
        ),
    ],
    output: Annotated[Path, typer.Argument(help="File to write.", metavar="OUT")],
    as_json: AsJson = False,
) -> None:
    """Translates a config of mmdet or mmseg into one of ours, and lists what has no counterpart."""
    from swin_dense.cli.report import print_report
    from swin_dense.migration import convert_config as convert

    done = convert(source, output)
    record = {
        "output": str(output),
        "task": done.config.task,
        "left_out": list(done.left_out),
        "weights": dict(done.weights),
    }
    lines = [f"left out: {line}" for line in done.left_out]
    lines += [f"weights: {key} is {where}; pass them with --weights FILE" for key, where in done.weights.items()]
    print_report(record, *lines, f"{output} written: swin-dense train {output} --data FOLDER", as_json=as_json)
