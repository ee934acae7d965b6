"""Commands that look for what is wrong: with data, with this installation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
from rich.console import Console

from swin_dense.cli.app import AsJson, DataRoot, Override, app, load
from swin_dense.errors import ConfigError


@app.command("check-data")
def check_data(
    config: Annotated[Path | None, typer.Argument(help="Config file, whose splits are checked.")] = None,
    coco: Annotated[Path | None, typer.Option(help="COCO instances JSON to check.")] = None,
    images: Annotated[Path | None, typer.Option(help="Image folder or zip file of --coco.")] = None,
    ade: Annotated[Path | None, typer.Option(help="Folder or zip file in ADE20K's layout to check.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Class list of --ade, instead of its own.")] = None,
    label_shift: Annotated[int, typer.Option(help="Added to the labels of --ade; ADE20K's begin at 1.")] = -1,
    ignore_index: Annotated[int, typer.Option(help="Label of --ade that stands for no class.")] = 255,
    data: DataRoot = None,
    overrides: Override = None,
    as_json: AsJson = False,
) -> None:
    """Reports everything that is wrong with a data set, and exits with status 1 if anything is."""
    if [config, coco, ade].count(None) != 2:
        raise ConfigError("check-data takes one of CONFIG, --coco FILE and --ade DIR")
    if config is None and (data is not None or overrides):
        raise ConfigError("--data and --set change what a CONFIG names; there is none")
    from swin_dense.cli.report import print_report, segmentation_check_tables
    from swin_dense.label_maps.check import check_ade

    settings = load(config, data, overrides) if config is not None else None
    if ade is not None:
        report = check_ade(ade, classes=classes, label_shift=label_shift, ignore_index=ignore_index, progress=progress)
    elif settings is not None and settings.task == "segmentation":
        report = _check_label_maps(settings.data)
    else:
        _check_coco(settings, coco, images, as_json)
        return
    record = report.to_dict()
    print_report(record, *segmentation_check_tables(record), as_json=as_json)
    sys.exit(0 if report.ok else 1)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Examines this installation, and exits with status 1 if something would fail."""
    from swin_dense.cli.report import doctor_tables, print_report
    from swin_dense.doctor import examine

    diagnosis = examine()
    record = diagnosis.to_dict()
    print_report(record, *doctor_tables(record), as_json=as_json)
    sys.exit(0 if diagnosis.ok else 1)


def _check_coco(settings: Any, coco: Path | None, images: Path | None, as_json: bool) -> NoReturn:
    from swin_dense.cli.report import check_tables, print_report
    from swin_dense.coco.check import check_coco, check_splits

    if settings is None:
        reports = {"coco": check_coco(cast("Path", coco), images, progress=progress)}
    else:
        from swin_dense.openmmlab.model_dicts import has_masks

        data, root = settings.data, Path(settings.data.root)
        train, val = ((root / split.annotations, root / split.images) for split in (data.train, data.val))
        reports = check_splits(
            train,
            val,
            masks=has_masks(settings.model),
            keep_empty=data.keep_empty,
            min_side=data.min_side,
            progress=progress,
        )
    records = {split: report.to_dict() for split, report in reports.items()}
    tables = [table for record in records.values() for table in check_tables(record)]
    print_report(records.get("coco", records), *tables, as_json=as_json)
    sys.exit(0 if all(report.ok for report in reports.values()) else 1)


def _check_label_maps(data: Any) -> Any:
    from swin_dense.label_maps.check import check_segmentation

    root = Path(data.root)
    return check_segmentation(
        {
            name: (root / split.images, root / split.labels)
            for name, split in (("train", data.train), ("val", data.val))
        },
        root / data.classes,
        label_shift=data.label_shift,
        ignore_index=data.ignore_index,
        progress=progress,
    )


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
