"""Find objects in any images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from swin_dense.build.detection import test_transform
from swin_dense.config import DetectionConfig
from swin_dense.data.folder import ImageFiles
from swin_dense.data.loaders import evaluation_loader
from swin_dense.data.samplers import EvaluationSampler
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.visualize.detections import draw_detections
from swin_dense.visualize.pictures import save_picture
from swin_dense.workflows.run_folder import write_json
from swin_dense.workflows.trained import labels_of, load_whole_model


def predict_objects(
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
    labels = labels_of(weights, config)
    class_names, category_ids = labels["class_names"], labels["category_ids"]
    detector = OpenMMLabDetector(config.model, len(class_names))
    load_whole_model(detector.network, weights, class_names)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    detector.to(target).eval()
    files = ImageFiles(images)
    loader = evaluation_loader(
        files,
        test_transform(config.augmentation),
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
