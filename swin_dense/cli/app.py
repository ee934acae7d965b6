"""The program that the commands register with, and what they share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from swin_dense.errors import ConfigError

app = typer.Typer(
    name="swin-dense",
    help="One Swin Transformer backbone for every dense task.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Override = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Changes one key of the config, e.g. data.batch_size=4."),
]
DataRoot = Annotated[Path | None, typer.Option("--data", help="Folder of the data set, instead of data.root.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the best there is by default.", metavar="DEVICE")
]
Devices = Annotated[str, typer.Option(help='Number of devices on this machine, or "auto".')]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def load(source: str | Path, data: Path | None, overrides: Sequence[str] | None) -> Any:
    """A config by name or file with what the command line changes; `data` stands for `data.root`."""
    from swin_dense.config import load_config

    extra = [f"data.root={str(data)!r}"] if data is not None else []
    return load_config(source, [*(overrides or ()), *extra])


def refuse_options(context: typer.Context, names: Collection[str], reason: str) -> None:
    """Refuses options that would do nothing here.

    Args:
        context: Of the command.
        names: Parameters of the command's function; those that were not typed are passed over.
        reason: What they belong to.

    Raises:
        ConfigError: One of them was typed, be it with its default.
    """
    sources = {name: context.get_parameter_source(name) for name in names}
    typed = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    if typed:
        options = [parameter.opts[0] for parameter in context.command.params if parameter.name in typed]
        raise ConfigError(f"{', '.join(options)}: {reason}")


def device_count(text: str) -> int | str:
    """What `--devices` means to a trainer.

    Args:
        text: As typed.

    Returns:
        A number, or "auto".

    Raises:
        ConfigError: It is neither.
    """
    if text != "auto" and not text.isdecimal():
        raise ConfigError(f'--devices takes a number or "auto", not "{text}"')
    return text if text == "auto" else int(text)


def height_and_width(text: str, option: str = "--shape") -> tuple[int, int]:
    """Reads a size.

    Args:
        text: Such as "800x1280".
        option: Where it was typed.

    Returns:
        Height and width in pixels.

    Raises:
        ConfigError: It is none.
    """
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ConfigError(f'{option} takes HEIGHTxWIDTH, for instance 800x1280, not "{text}"')
    return int(height), int(width)
