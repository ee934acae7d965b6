"""The program that the commands register with, and what they share."""

from __future__ import annotations

import atexit
import gc
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from swin_dense.errors import ConfigError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Override = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Changes one key of the config, e.g. data.batch_size=4."),
]
DataRoot = Annotated[Path | None, typer.Option("--data", help="Folder of the data set, instead of data.root.")]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:1, mps; the best there is by default.", metavar="DEVICE"),
]
Devices = Annotated[str, typer.Option(help='Number of devices on this machine, or "auto".')]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.callback()
def swin_dense(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, and its cause; also SWIN_DENSE_DEBUG=1.")
    ] = False,
) -> None:
    """One Swin Transformer backbone for every dense task."""
    # `main` takes --debug out wherever it stands; here it is only declared.


@contextmanager
def importing() -> Iterator[None]:
    """Imports and loads without looking for garbage: a sixth of the time; nor is it sought in what is there then."""
    atexit.register(_pass_over_frozen_objects)  # first, so that it runs when nothing else has anything left to say
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _pass_over_frozen_objects() -> None:
    """Keeps nanobind, which Triton uses from 3.9 on, from listing what is frozen as leaks when the process ends.

    To collect it all would take two seconds.
    """
    libtriton = sys.modules.get("triton._C.libtriton")
    if libtriton is not None and type(libtriton.ir.attribute).__module__ == "nanobind":
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def load(source: Any, data: Path | None, overrides: Sequence[str] | None) -> Any:
    """A config by name or file, or one that was loaded, with what is typed; `data` stands for `data.root`."""
    from swin_dense.config import load_config

    extra = [f"data.root={str(data)!r}"] if data is not None else []
    return load_config(source, [*(overrides or ()), *extra])


def refuse_options(context: typer.Context, names: Collection[str], reason: str) -> None:
    """Refuses options that were typed, be it with their default, where they would do nothing; `reason` says why."""
    sources = {name: context.get_parameter_source(name) for name in names}
    typed = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    if typed:
        options = [parameter.opts[0] for parameter in context.command.params if parameter.name in typed]
        raise ConfigError(f"{', '.join(options)}: {reason}")


def whole_numbers(text: str, separator: str) -> list[int] | None:
    """The numbers in a text such as "2,3"; None where anything else is in it, or numbers of which bytes overflow."""
    parts = [part.strip() for part in text.split(separator)]
    # Not `str.isdigit`: "²" is one of its digits, and digits of other scripts are easily taken for others.
    return [int(part) for part in parts] if all(re.fullmatch("[0-9]{1,8}", part) for part in parts) else None


def device_count(text: str) -> int | str:
    """What `--devices` means to a trainer: a number, or "auto"."""
    numbers = whole_numbers(text, ",")
    if text != "auto" and (numbers is None or len(numbers) > 1):
        raise ConfigError(f'--devices takes a number or "auto", not "{text}"')
    return numbers[0] if numbers else text


def height_and_width(text: str, option: str = "--shape") -> tuple[int, int]:
    """Height and width in pixels of a size such as "800x1280"."""
    numbers = whole_numbers(text, "x")
    if numbers is None or len(numbers) != 2 or 0 in numbers:
        raise ConfigError(f'{option} takes HEIGHTxWIDTH, for instance 800x1280, not "{text}"')
    return numbers[0], numbers[1]


def show_progress(what: str, items: Iterable[Any], total: int) -> Iterable[Any]:
    """The same items; a bar on stderr shows how many of them are done."""
    from rich.progress import track

    return track(items, what, total=total, console=Console(stderr=True)) if total else items
