"""The command that writes a page about runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from swin_dense.cli.app import DataRoot, Device, Override, app
from swin_dense.errors import ConfigError


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are compared.", metavar="RUN...")],
    output: Annotated[Path, typer.Option(help="The page, such as report.html.")],
    data: DataRoot = None,
    overrides: Override = None,
    device: Device = None,
) -> None:
    """Writes one page on how runs went, how good they are, and where they fail: curves, errors, images."""
    from swin_dense import models
    from swin_dense.tasks.report import write_report

    for run in runs:
        if not (run / "config.py").is_file():
            raise ConfigError(f"{run} is no run folder: it holds no config.py")
    loaded = [models.load(run, None, device, data=data, overrides=overrides or ()) for run in runs]
    write_report(loaded, runs, output, device=device)
    print(f"{output}: {output.stat().st_size / 2**20:.1f} MiB", file=sys.stderr)
