"""Weights from the format of one library to that of another."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from swin_dense.cli.app import AsJson, app


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
    from swin_dense.weights import convert_weights as convert

    report = convert(source, target, to, format=from_format, ignore=tuple(ignore or ()), ema=ema)
    print(report, file=sys.stderr)
    if as_json:
        print(json.dumps({"output": str(target), "tensors": report.written, **asdict(report)}))
    else:
        print(f"{target}: {report.written} tensors, {report.format} -> {report.to}")
