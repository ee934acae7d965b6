"""The command that writes a page about runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from swin_dense.cli.app import DataRoot, Device, Override, app, refuse_options
from swin_dense.errors import ConfigError


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
        from swin_dense import models
        from swin_dense.tasks.report import write_report

        for run in runs:
            if not (run / "config.py").is_file():
                raise ConfigError(f"{run} is no run folder: it holds no config.py")
        loaded = [models.load(run, None, device, data=data, overrides=overrides or ()) for run in runs]
        write_report(loaded, runs, output, device=device)
    else:
        raise ConfigError("report takes either RUN, one or several, or --gt FILE --predictions FILE")
    print(f"{output}: {output.stat().st_size / 2**20:.1f} MiB", file=sys.stderr)
