"""Hands the files of a case to what a command reads them with, and asserts what holds of every answer."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from hostile import samples


def coco(folder: Path) -> None:
    _check_and_load(folder / "train.json", folder / "images")


def coco_zip(folder: Path) -> None:
    _check_and_load(folder / "annotations.zip" / "annotations" / "train.json", folder / "images.zip")


def _check_and_load(annotations: Path, images: Path) -> None:
    """What `check-data --coco` says, and then what training reads: what is ready must load."""
    from swin_dense.coco.check import check_coco
    from swin_dense.data.coco import CocoDataset
    from swin_dense.errors import DataError

    report = check_coco(annotations, images)
    json.dumps(report.to_dict(), allow_nan=False)
    for masks in (False, True):
        try:
            dataset = CocoDataset(annotations, images, masks=masks)
            for index in range(len(dataset)):
                dataset[index]
        except DataError:
            assert masks or not report.ok, "checked as ready, and refused by training"
            raise


def results(folder: Path) -> None:
    from swin_dense.metrics import ENGINES, evaluate_coco_files

    for engine in ENGINES:
        scores = evaluate_coco_files(folder / "gt.json", folder / "predictions.json", engine=engine)
        assert all(-1 <= one["AP"] <= 1 for one in scores.values()), scores


def labels(folder: Path) -> None:
    from swin_dense.metrics import evaluate_label_map_files

    scores = evaluate_label_map_files(folder / "gt", folder / "predictions", label_shift=0)
    assert math.isnan(scores["mIoU"]) or 0 <= scores["mIoU"] <= 100


def ade(folder: Path) -> None:
    from swin_dense.data import ADE20KDataModule
    from swin_dense.label_maps.check import check_ade

    json.dumps(check_ade(folder / "ade").to_dict(), allow_nan=False)
    data = ADE20KDataModule(folder / "ade", num_workers=0)
    data.setup("fit")
    for dataset in (data.train_dataset, data.val_dataset):
        assert dataset is not None
        for index in range(len(dataset)):
            dataset[index]


def images(folder: Path) -> None:
    """Every file alone: one that is damaged must not hide another."""
    from swin_dense.errors import DataError
    from swin_dense.export.compute import ImageReader, TargetSize
    from swin_dense.images.finder import find_images, read_image

    sources = find_images([folder])
    exported = ImageReader(sources, TargetSize(short_side=800))
    errors = []
    for number, source in enumerate(sources):
        try:
            pixels = read_image(source.root / source.name)
            assert pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.numel()
        except DataError as error:
            errors.append(error)
        loaded = exported[number]
        assert (loaded.error is None) == (loaded.pixels is not None)
    if errors:
        raise errors[0]


def image_list(folder: Path) -> None:
    _read_all(folder / "list.txt")


def image_zip(folder: Path) -> None:
    _read_all(folder / "images.zip")


def _read_all(path: Path) -> None:
    from swin_dense.images.finder import ImageFiles

    files = ImageFiles([path])
    for index in range(len(files)):
        sample = files[index]
        assert sample.image.shape[0] == 3 and "/" not in files.stem(index)


def weights(folder: Path) -> None:
    """Each file into a model of its own; what is refused leaves the model as it was."""
    import torch

    from swin_dense.errors import WeightsError
    from swin_dense.weights import load_weights
    from swin_dense.weights.files import read_class_names, read_labels

    errors = []
    for path in sorted(folder.iterdir()):
        model, before = samples.backbone(), samples.backbone().state_dict()
        try:
            read_labels(path)
            read_class_names(path)
            report = load_weights(model, path)
            assert str(report)
        except WeightsError as error:
            errors.append(error)
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    if errors:
        raise errors[0]


def classes(folder: Path) -> None:
    from swin_dense.errors import DataError
    from swin_dense.label_maps.classes import read_classes

    errors = []
    for path in sorted(folder.iterdir()):
        try:
            names, _ = read_classes(path)
            assert names and "" not in names and len({*names}) == len(names)
        except DataError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def boxes(folder: Path) -> None:
    from swin_dense.errors import DataError
    from swin_dense.export.boxes import check_inside, read_boxes

    errors = []
    for path in sorted(folder.iterdir()):
        try:
            for rows in read_boxes(path, samples.IMAGE_PATHS).values():
                assert rows.shape[1:] == (4,) and bool(rows.isfinite().all())
                check_inside(rows, (samples.HEIGHT, samples.WIDTH), "image")
        except DataError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def store(folder: Path) -> None:
    from swin_dense.export import FeatureStore
    from swin_dense.export.manifest import done_ranges

    place = folder / "store"
    done_ranges(place)
    opened = FeatureStore(place)
    for index, item in enumerate(opened):
        for name, record in opened.records(index).items():
            assert tuple(item[name].shape) == record.shape
            if record.stride:
                assert opened.read(index, name)[record.inside].numel()
                assert bool(record.centers().isfinite().all())
    opened.to_npy(folder / "arrays")


def imports(form: str, folder: Path) -> None:
    """What `import-data` makes of an export can be read, and each of its two images is there or named."""
    from swin_dense.coco.check import check_coco
    from swin_dense.importing.importer import import_data

    to = "label-maps" if form == "label-maps" else "coco"
    named = "masks" if form == "label-maps" else form
    half = {"train": 0.5, "val": 0.5}
    report = import_data(folder / "in", folder / "out", format=named, to=to, split=half)
    json.dumps(report.to_dict(), allow_nan=False)
    assert sum(report.images.values()) >= 2 or report.dropped
    for path in (folder / "out").glob("annotations/*.json"):
        problems = check_coco(path, None).problems
        assert {one.kind for one in problems if one.severity == "error"} <= {"nothing-to-train-on"}, problems


def settings(folder: Path) -> None:
    from swin_dense.config import config_text, load_config

    content = json.loads((folder / "settings.json").read_bytes())
    config = load_config(content["tree"], content["set"])
    (folder / "again.py").write_text(config_text(config), encoding="utf-8")
    assert load_config(folder / "again.py") == config


def config_file(folder: Path) -> None:
    from swin_dense.config import config_text, load_config

    config = load_config(folder / "run" / "config.py")
    (folder / "again.py").write_text(config_text(config), encoding="utf-8")
    assert load_config(folder / "again.py") == config


def options(folder: Path) -> None:
    """Whole commands: they exit with 0, or with 2 and a message."""
    for path in sorted(folder.glob("*.json")):
        _command(json.loads(path.read_bytes()), folder)


def _command(words: list[str], folder: Path) -> None:
    from swin_dense.cli import main

    os.chdir(folder)
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code in (0, 2), f"exit status {stop.code}"


def run(folder: Path) -> None:
    """What resuming, drawing and using a run read of its folder."""
    from swin_dense.config import load_config
    from swin_dense.errors import SwinDenseError
    from swin_dense.tasks import run_folder
    from swin_dense.training.plugins import MetricsTable
    from swin_dense.visualize.curves import draw_curves
    from swin_dense.weights.files import read_labels

    place = folder / "run"
    errors: list[Exception] = []

    def log() -> None:
        table = MetricsTable(place / "metrics.csv", resumed_step=5)
        table.log_metrics({"epoch": 1, "train/loss": 0.25}, step=9)
        table.save()

    def resume() -> None:
        done, config = run_folder.read_checkpoint(place / "last.ckpt"), load_config(place / "config.py")
        run_folder.check_resumable(place, config, {}, done)
        run_folder.check_same_classes(place, done, samples.CLASSES, False)

    steps: tuple[Any, ...] = (
        resume,
        lambda: run_folder.record_resume(place, load_config(place / "config.py"), {}),
        lambda: read_labels(place / "weights.safetensors"),
        lambda: run_folder.write_weights(place, {"class_names": samples.CLASSES}),
        lambda: draw_curves(place / "metrics.csv", place / "curves.svg"),
        log,
    )
    for step in steps:
        try:
            step()
        except SwinDenseError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def videos(folder: Path) -> None:
    """What `check-data --video` says of each list, and then what training and features read."""
    from swin_dense.data.video import VideoDataset
    from swin_dense.errors import SwinDenseError
    from swin_dense.export.compute import find_clips
    from swin_dense.videos.check import check_videos
    from swin_dense.videos.clips import ClipSampling
    from swin_dense.videos.labelled import find_video_classes, read_labelled_videos

    sampling, refused = ClipSampling(4, 2), None
    for listed in (None, folder / "list.txt", folder / "kinetics.csv", folder / "train.json"):
        place = (folder, listed)
        report = check_videos({"train": place}, folder / "classes.txt", sampling=sampling)["train"]
        json.dumps(report.to_dict(), allow_nan=False)
        try:
            labelled = read_labelled_videos(*place, find_video_classes([place], folder / "classes.txt"))
            dataset = VideoDataset(labelled, sampling, 16)
            for index in range(len(dataset)):
                assert dataset[index].image.shape[:2] == (4, 3)
        except SwinDenseError as error:
            assert not report.ok, "checked as ready, and refused by training"
            refused = error
    assert all(source.error or source.number >= 0 for source in find_clips([folder], sampling))
    if refused is not None:
        raise refused


def program(folder: Path) -> None:
    """Runs a program in the folder."""
    exec((folder / "program.py").read_text(encoding="utf-8"), {})
