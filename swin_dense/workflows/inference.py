"""Use trained weights: evaluate on a validation split, predict on any images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from swin_dense import build
from swin_dense.config import DetectionConfig
from swin_dense.data.folder import ImageFiles
from swin_dense.data.loaders import evaluation_loader
from swin_dense.data.samplers import EvaluationSampler
from swin_dense.errors import WeightsError
from swin_dense.metrics import CocoResults
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.visualize.detections import draw_detections
from swin_dense.visualize.pictures import save_picture
from swin_dense.weights import load_weights
from swin_dense.weights.metadata import read_metadata
from swin_dense.workflows.run_folder import is_first_process, write_json


def evaluate(
    config: DetectionConfig,
    weights: Path,
    *,
    engine: str = "faster-coco-eval",
    predictions: Path | None = None,
    devices: int | str = "auto",
) -> CocoResults:
    """Scores weights on the validation split of a config.

    Args:
        config: Names model and data.
        weights: Of the whole detector.
        engine: "faster-coco-eval" or "pycocotools".
        predictions: Where to write the detections as a COCO result file; None writes none.
        devices: Number of devices of this node, or "auto".

    Returns:
        {"bbox": {"AP": ..., ..., "per_class": {...}}, "segm": {...}}.

    Raises:
        SwinDenseError: Data or weights are wrong, or do not belong together.
    """
    data = build.detection_data(config)
    data.setup("validate")
    module = build.detector_module(config, data, engine)
    _load_whole_detector(module.network, weights, data.class_names)
    trainer = build.evaluation_trainer(config.training.precision, devices)
    trainer.validate(module, datamodule=data, verbose=False)
    if predictions is not None:
        rows = module.metric.results()
        if is_first_process():
            write_json(predictions, rows)
    return module.scores


def predict(
    config: DetectionConfig,
    weights: Path,
    images: Sequence[Path],
    output: Path,
    *,
    score_threshold: float = 0.3,
    batch_size: int = 1,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Finds objects in images, draws them, and writes them as COCO results.

    Args:
        config: Names the model and the test size.
        weights: Of the whole detector, as `train` writes them; they hold the class names.
        images: Image files, or folders that are searched for images.
        output: Folder for one picture per image and `predictions.json`.
        score_threshold: Objects below it are in the JSON but not in the pictures.
        batch_size: Images at a time.
        device: As in `torch.device`; None takes the best there is.

    Returns:
        The rows of `predictions.json`: image_id (position of the file), file_name, category_id, category, bbox (x, y,
        width, height in pixels), score and, where the model has masks, segmentation (compressed RLE).

    Raises:
        SwinDenseError: An image, the config or the weights are wrong.
    """
    class_names, category_ids = _classes_of(weights, config)
    detector = OpenMMLabDetector(config.model, len(class_names))
    _load_whole_detector(detector.network, weights, class_names)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    detector.to(target).eval()
    files = ImageFiles(images)
    loader = evaluation_loader(
        files,
        build.test_transform(config.augmentation),
        EvaluationSampler(len(files)),
        batch_size=batch_size,
        num_workers=config.data.num_workers,
        size_divisor=config.data.size_divisor,
    )
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for batch in track(loader, "predicting", console=Console(stderr=True)):
            for image_id, name, found in zip(
                batch.image_ids, batch.file_names, detector.predict(batch.to(target)), strict=True
            ):
                rows += _result_rows(image_id, name, found, class_names, category_ids)
                picture = draw_detections(files[image_id].image, found, class_names, score_threshold=score_threshold)
                save_picture(output / f"{files.stem(image_id)}.png", picture)
    write_json(output / "predictions.json", rows)
    return rows


def _load_whole_detector(network: torch.nn.Module, weights: Path, class_names: Sequence[str]) -> None:
    """Loads weights that must cover every parameter: nobody wants the score of a random head."""
    named = read_metadata(weights).get("class_names")
    if named is not None and json.loads(named) != list(class_names):
        raise WeightsError(
            f"{weights} was trained on {', '.join(json.loads(named))}; the data has {', '.join(class_names)}"
        )
    report = load_weights(network, weights)
    if report.missing:
        raise WeightsError(
            f"{weights} does not hold the whole detector: {len(report.missing)} parameters are missing, for instance "
            f"{next(iter(report.missing))}; train it first"
        )


def _classes_of(weights: Path, config: DetectionConfig) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if not weights.is_file():
        raise WeightsError(f"there is no file {weights}")
    metadata = read_metadata(weights)
    if "class_names" in metadata:
        return tuple(json.loads(metadata["class_names"])), tuple(json.loads(metadata["category_ids"]))
    data = build.detection_data(config)
    data.setup("validate")
    return data.class_names, data.category_ids


def _result_rows(
    image_id: int, file_name: str, found: Any, class_names: Sequence[str], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    rows = []
    for i, (x1, y1, x2, y2) in enumerate(found.boxes.tolist()):
        label = int(found.labels[i])
        row = {
            "image_id": image_id,
            "file_name": file_name,
            "category_id": category_ids[label],
            "category": class_names[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(found.scores[i]),
        }
        if found.masks is not None:
            row["segmentation"] = {"size": found.masks[i]["size"], "counts": found.masks[i]["counts"].decode("ascii")}
        rows.append(row)
    return rows
