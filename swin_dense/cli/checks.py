"""Commands that bring data in, and that look for what is wrong: with data, with this installation."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from swin_dense.cli.app import AsJson, DataRoot, Override, app, load, show_progress
from swin_dense.errors import ConfigError


@app.command("check-data")
def check_data(
    config: Annotated[str | None, typer.Argument(help="Config, whose splits are checked.", metavar="CONFIG")] = None,
    coco: Annotated[Path | None, typer.Option(help="COCO instances JSON to check.")] = None,
    images: Annotated[Path | None, typer.Option(help="Image folder or zip file of --coco.")] = None,
    ade: Annotated[Path | None, typer.Option(help="Folder or zip file in ADE20K's layout to check.")] = None,
    imagenet: Annotated[Path | None, typer.Option(help="Folder with train and val, of a folder per class.")] = None,
    video: Annotated[
        Path | None, typer.Option(help="List of videos and their classes, or folder with a folder per class.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Where the videos of --video LIST lie; else beside the list.")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="Class list of --ade, --imagenet or --video.")] = None,
    label_shift: Annotated[int, typer.Option(help="Added to the labels of --ade; ADE20K's begin at 1.")] = -1,
    ignore_index: Annotated[int, typer.Option(help="Label of --ade that stands for no class.")] = 255,
    samples: Annotated[
        Path | None,
        typer.Option(help="Also draw training samples of CONFIG, as the model sees them, into this folder."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--report", help="Also write a page: classes, sizes, samples, and what looks wrong.")
    ] = None,
    data: DataRoot = None,
    overrides: Override = None,
    as_json: AsJson = False,
) -> None:
    """Reports everything that is wrong with a data set, and exits with status 1 if anything is."""
    if [config, coco, ade, imagenet, video].count(None) != 4:
        raise ConfigError("check-data takes one of CONFIG, --coco FILE, --ade DIR, --imagenet DIR and --video LIST")
    if root is not None and video is None:
        raise ConfigError("--root says where the videos of --video LIST lie; name the list")
    if config is None and (data is not None or overrides):
        raise ConfigError("--data and --set change what a CONFIG names; there is none")
    if config is None and samples is not None:
        raise ConfigError("--samples draws what a CONFIG makes of images or clips; name one")
    from swin_dense.cli.report import check_tables, print_report

    reports: dict[str, Any]
    progress = partial(show_progress, "checking")
    if config is not None:
        settings = load(config, data, overrides)
        from swin_dense.tasks import task_of

        reports = task_of(settings).check_data(settings, progress)
    elif coco is not None:
        from swin_dense.coco.check import check_coco

        reports = {"coco": check_coco(coco, images, progress=progress)}
    elif imagenet is not None:
        from swin_dense.images.labelled_check import check_imagenet

        reports = dict(check_imagenet(imagenet, classes=classes, progress=progress))
    elif video is not None:
        from swin_dense.videos.check import check_videos

        place = (video, None) if video.is_dir() else (root or video.parent, video)
        reports = dict(check_videos({"videos": place}, classes, progress=progress))
    else:
        assert ade is not None
        from swin_dense.label_maps.check import check_ade

        reports = {
            "ade": check_ade(
                ade, classes=classes, label_shift=label_shift, ignore_index=ignore_index, progress=progress
            )
        }
    records = {name: report.to_dict() for name, report in reports.items()}
    shown = next(iter(records.values())) if len(records) == 1 else records
    print_report(shown, *check_tables(*records.values()), as_json=as_json)
    if page is not None:
        from swin_dense.report.dataset import write_data_report

        write_data_report(reports, page)
        print(f"{page}: {page.stat().st_size / 2**20:.1f} MiB", file=sys.stderr)
    sound = all(report.ok for report in reports.values())
    if samples is not None and sound:
        from swin_dense.tasks.samples import draw_samples

        paths = draw_samples(settings, samples)
        print(f"{len(paths) - 1} training samples are drawn in {paths[0]}", file=sys.stderr)
    raise typer.Exit(0 if sound else 1)


@app.command("import-data")
def import_data(
    source: Annotated[Path, typer.Argument(help="Folder of a data set, or its annotation file.")],
    output: Annotated[Path, typer.Argument(help="New folder.")],
    format: Annotated[
        str | None, typer.Option(help="coco, yolo, labelme, voc, cvat, label-studio or masks; recognised by default.")
    ] = None,
    to: Annotated[str, typer.Option(help="coco, or label-maps for semantic segmentation.")] = "coco",
    classes: Annotated[
        Path | None, typer.Option(help="File with a class name per line: what is taken, in that order.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Such as train=0.8,val=0.2; the source's own splits by default, if it has any.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of --split.")] = 0,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="Images stay together whose names agree in this regular expression; or: duplicates.", metavar="PATTERN"
        ),
    ] = None,
    images: Annotated[str, typer.Option(help="copy, hardlink or symlink.")] = "copy",
    masks: Annotated[
        bool | None,
        typer.Option("--masks/--no-masks", help="Only images whose objects all have outlines, or boxes alone."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Makes COCO files or label maps of Labelme, YOLO, Pascal VOC, CVAT, Label Studio, COCO or masks."""
    from swin_dense.cli.report import print_report
    from swin_dense.importing import importer, splits

    report = importer.import_data(
        source,
        output,
        format=format,
        to=to,
        classes=classes,
        split=None if split is None else splits.parse_split(split),
        seed=seed,
        group_by=group_by,
        images=images,
        masks=masks,
        progress=partial(show_progress, "reading images"),
    )
    for line in report.lines():
        print(line, file=sys.stderr)
    print_report(report.to_dict(), *report.summary(), as_json=as_json)


@app.command()
def doctor(
    device: Annotated[
        str | None,
        typer.Option(help="Check instead that this device (cuda, cuda:1, cpu) computes what the CPU computes."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="Of --device: the checks whose name holds it; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Examines this installation, or a device, and exits with status 1 if something would fail."""
    from swin_dense.cli.report import device_tables, doctor_tables, print_report

    if device is None:
        if only:
            raise ConfigError("--only chooses among the checks of a device: name one with --device")
        from swin_dense.doctor.installation import examine

        diagnosis = examine()
        print_report(diagnosis.to_dict(), *doctor_tables(diagnosis.to_dict()), as_json=as_json)
        raise typer.Exit(0 if diagnosis.ok else 1)
    from swin_dense.doctor.device import check_device

    report = check_device(device, only or ())
    print_report(report.to_dict(), *device_tables(report.to_dict()), as_json=as_json)
    raise typer.Exit(0 if report.ok else 1)
