"""Commands that look for what is wrong: with data, with this installation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from swin_dense.cli.app import AsJson, DataRoot, app, load
from swin_dense.errors import ConfigError


@app.command("check-data")
def check_data(
    config: Annotated[Path | None, typer.Argument(help="Config file, whose splits are checked.")] = None,
    coco: Annotated[Path | None, typer.Option(help="COCO instances JSON to check.")] = None,
    images: Annotated[Path | None, typer.Option(help="Image folder or zip file of --coco.")] = None,
    data: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Reports everything that is wrong with a data set, and exits with status 1 if anything is."""
    if coco is not None and config is None:
        pairs: dict[str, tuple[Path, Path | None]] = {"coco": (coco, images)}
    elif config is not None and coco is None:
        pairs = _splits(load(config, data, None))
    else:
        raise ConfigError("check-data takes either CONFIG or --coco FILE")
    from swin_dense.data.check import check_coco
    from swin_dense.report import check_tables, print_report

    reports = {split: check_coco(*files, progress=progress) for split, files in pairs.items()}
    records = {split: report.to_dict() for split, report in reports.items()}
    tables = [table for record in records.values() for table in check_tables(record)]
    print_report(records.get("coco", records), *tables, as_json=as_json)
    sys.exit(0 if all(report.ok for report in reports.values()) else 1)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Examines this installation, and exits with status 1 if something would fail."""
    from swin_dense.doctor import examine
    from swin_dense.report import doctor_tables, print_report

    diagnosis = examine()
    record = diagnosis.to_dict()
    print_report(record, *doctor_tables(record), as_json=as_json)
    sys.exit(0 if diagnosis.ok else 1)


def _splits(settings: Any) -> dict[str, tuple[Path, Path | None]]:
    root, splits = Path(settings.data.root), {"train": settings.data.train, "val": settings.data.val}
    return {name: (root / split.annotations, root / split.images) for name, split in splits.items()}


def progress(items: Any, total: int) -> Any:
    """Shows on stderr how much of a long check is done.

    Args:
        items: What is gone through.
        total: How many there are.

    Returns:
        The same items.
    """
    from rich.progress import track

    return track(items, "checking", total=total, console=Console(stderr=True))
