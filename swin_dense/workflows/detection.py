"""Find objects in any images."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import Subset
from torchvision.transforms.v2 import Identity

from swin_dense.build.detection import inference
from swin_dense.config import DetectionConfig, config_text
from swin_dense.data.folder import ImageFiles
from swin_dense.data.loaders import evaluation_loader
from swin_dense.data.samplers import EvaluationSampler
from swin_dense.data.samples import Batch, Detections, Sample
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.visualize.detections import draw_detections
from swin_dense.visualize.pictures import save_picture
from swin_dense.workflows.prediction_journal import PredictionJournal, file_identity
from swin_dense.workflows.prediction_run import images_to_predict
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

    An interrupted prediction of the same images with the same weights and options goes on where it stopped.

    Args:
        config: Names the model, the test size and the inference.
        weights: Of the whole detector, as `train` writes them; they hold the class names.
        images: Image files, or folders that are searched for images.
        output: Folder for one picture per image and `predictions.json`.
        score_threshold: Objects below it are in the JSON but not in the pictures.
        batch_size: Images read at a time, and views that the detector sees at a time; changes no result.
        device: As in `torch.device`; None takes the best there is.

    Returns:
        The rows of `predictions.json`: image_id (position of the file), file_name, category_id, category, bbox (x, y,
        width, height in pixels), score and, where the model has masks, segmentation (compressed RLE).

    Raises:
        SwinDenseError: An image, the config or the weights are wrong.
    """
    files = images_to_predict(images, output)
    labels = labels_of(weights, config)
    class_names, category_ids = labels["class_names"], labels["category_ids"]
    detector = OpenMMLabDetector(config.model, len(class_names))
    load_whole_model(detector.network, weights, class_names)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    detector.to(target).eval()
    find = inference(config.inference, config.augmentation, batch_size)
    identity = {
        "config": config_text(config),
        "weights": file_identity(weights),
        "images": [file_identity(path) for path in files.paths],
        "score_threshold": score_threshold,
    }
    journal = PredictionJournal(output / "unfinished.jsonl", identity)
    for batch in _batches_to_do(files, set(journal.done), batch_size, config.data.num_workers):
        for i, found in enumerate(find.predict(detector, batch.to(target))):
            image_id, (height, width) = batch.image_ids[i], batch.sizes[i]
            image = batch.images[i, :, :height, :width]
            picture = draw_detections(image, found, class_names, score_threshold=score_threshold)
            save_picture(output / f"{files.stem(image_id)}.png", picture)
            journal.add(image_id, _result_rows(image_id, batch.file_names[i], found, class_names, category_ids))
    rows = journal.rows()
    write_json(output / "predictions.json", rows)
    journal.close()
    return rows


def _batches_to_do(files: ImageFiles, done: Set[int], batch_size: int, num_workers: int) -> Iterator[Batch]:
    """Reads the images that are not done yet, and shows the progress."""
    left = [i for i in range(len(files)) if i not in done]
    if done:
        print(f"{len(done)} of {len(files)} images were done before; going on with the others", file=sys.stderr)
    if left:
        loader = evaluation_loader(
            Subset[Sample](files, left),
            Identity(),
            EvaluationSampler(len(left)),
            batch_size=batch_size,
            num_workers=num_workers,
            size_divisor=1,
        )
        yield from track(cast(Iterable[Batch], loader), "predicting", len(loader), console=Console(stderr=True))


def _result_rows(
    image_id: int, file_name: str, found: Detections, class_names: Sequence[str], category_ids: Sequence[int]
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
