"""Commands that list, fetch and verify published weights, and one that converts any."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from swin_dense.cli.app import AsJson, app

if TYPE_CHECKING:
    from swin_dense.weights.releases import Release

weights = typer.Typer(
    help="Published weights: what there is, and getting it.\n\n"
    "Environment: SWIN_DENSE_CACHE (folder), SWIN_DENSE_MIRROR (address or folder that stands for scheme and host), "
    "SWIN_DENSE_OFFLINE=1 (no network).",
    no_args_is_help=True,
)
app.add_typer(weights, name="weights")

Sha256 = Annotated[
    str | None,
    typer.Option("--sha256", metavar="HEX", help="SHA-256 that it must have, or at least its first 8 digits."),
]


@weights.command("list")
def list_weights(
    words: Annotated[list[str] | None, typer.Argument(help="Show those with all of these words.")] = None,
    as_json: AsJson = False,
) -> None:
    """Lists the published weights, with the size and SHA-256 that their publishers give."""
    from swin_dense.cli.report import print_report
    from swin_dense.weights.hub import cached_path
    from swin_dense.weights.releases import search_releases

    found = search_releases(" ".join(words or ()))
    paths = {release.name: cached_path(release.name) for release in found}
    cached = {name: str(path) if path.is_file() else None for name, path in paths.items()}
    record = {"releases": [{**asdict(one), "file_name": one.file_name, "cached": cached[one.name]} for one in found]}
    lines = [line for one in found for line in _lines(one, cached[one.name] is not None)]
    print_report(record, *(lines or ["none has all of these words"]), as_json=as_json)


@weights.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A listed name, or an http(s) address.", metavar="NAME|URL")],
    sha256: Sha256 = None,
) -> None:
    """Downloads weights to the cache, unless they are there, checks them, and prints their path."""
    from swin_dense.weights.hub import fetch_weights

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    task = bar.add_task(escape(name), visible=False, total=None)
    try:
        with bar:
            path = fetch_weights(
                name,
                sha256=sha256,
                progress=lambda done, total: bar.update(task, completed=done, total=total, visible=True),
                tell=lambda message: bar.console.print(escape(message)),
            )
    except KeyboardInterrupt:
        print("stopped; what has arrived is kept, and the same command resumes there", file=sys.stderr)
        raise typer.Exit(130) from None
    print(path)


@weights.command()
def verify(
    name: Annotated[str, typer.Argument(help="A listed name, its address, or any file.", metavar="NAME|FILE")],
    sha256: Sha256 = None,
) -> None:
    """Computes the checksum of weights; exits with status 1 if it is not the expected one."""
    from swin_dense.errors import WeightsError
    from swin_dense.weights.hub import verify_weights

    found = verify_weights(name, sha256=sha256)
    if found.expected is None:
        raise WeightsError(
            f"{found.path}: no checksum to compare it with, neither published nor recorded at download; "
            f"its SHA-256 is {found.sha256}"
        )
    if not found.matches:
        print(f"{found.path}: WRONG\n  expected ({found.source}): {found.expected}\n  actual: {found.sha256}")
        raise typer.Exit(1)
    if found.source == "recorded":
        print(f"{found.path}: no published checksum: SHA-256 is {found.sha256}, as recorded at download")
    else:
        print(f"{found.path}: right\n  expected ({found.source}): {found.expected}\n  actual: {found.sha256}")


@app.command("convert-weights")
def convert_weights(
    source: Annotated[Path, typer.Argument(help="Checkpoint of any known format.", metavar="IN")],
    target: Annotated[Path, typer.Argument(help="File to write: .safetensors, or .pth for torch.save.", metavar="OUT")],
    to: Annotated[
        str,
        typer.Option(metavar="FORMAT", help="swin-dense, official, openmmlab, torchvision, timm, huggingface(-4)."),
    ],
    from_format: Annotated[
        str, typer.Option("--from", metavar="FORMAT", help="Format of IN; by default detected from its key names.")
    ] = "auto",
    ignore: Annotated[
        list[str] | None, typer.Option(help="Tensors of IN to leave out, by name or module; repeat for several.")
    ] = None,
    ema: Annotated[
        bool,
        typer.Option("--ema", help="Take the averages that mmcv's EMA hook keeps in IN as ema_... beside the weights."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Converts the weights of a classifier, a backbone, or a whole detector or segmenter."""
    from swin_dense.cli.report import print_report
    from swin_dense.weights import convert_weights as convert

    report = convert(source, target, to, format=from_format, ignore=tuple(ignore or ()), ema=ema)
    print(report, file=sys.stderr)
    record = {"output": str(target), "tensors": report.written, **asdict(report)}
    print_report(record, f"{target}: {report.written} tensors, {report.format} -> {report.to}", as_json=as_json)


def _lines(release: Release, cached: bool) -> Iterator[RenderableType]:
    """A release in two lines, since names are too long for a table: the name alone, to be copied, and what is known."""
    size = "size not published" if release.size_mib is None else f"{release.size_mib:.1f} MiB"
    checksum = "SHA-256 not published" if release.sha256_prefix is None else f"SHA-256 {release.sha256_prefix}..."
    known = (f"{release.task} ({release.data})", release.variant, f"{release.format} format", size, checksum)
    yield Text(release.name, style="bold")
    yield Padding("; ".join((*known, "in the cache") if cached else known), (0, 0, 0, 4), expand=False)
