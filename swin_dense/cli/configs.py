"""Commands about configs: the recipes that there are, one to edit, and what a model costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from swin_dense.cli.app import AsJson, Override, app, height_and_width
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
    model: Annotated[str, typer.Argument(help="Config or backbone variant.", metavar="CONFIG|VARIANT")],
    shape: Annotated[str, typer.Option(help="Image height x width.")] = "800x1280",
    overrides: Override = None,
    as_json: AsJson = False,
) -> None:
    """Counts parameters and multiply-adds of a model."""
    height, width = height_and_width(shape)
    from swin_dense.cli.report import print_report, stats_table
    from swin_dense.models.parts import sizes_of

    sizes = sizes_of(model, height, width, overrides=overrides or ()).to_dict()
    print_report(sizes, stats_table(sizes, title=f"{model} at {height}x{width}"), as_json=as_json)


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
