"""Find objects in any images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swin_dense.config import DetectionConfig
from swin_dense.devices import chosen_device
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.records import Detections
from swin_dense.tasks.detection import inference
from swin_dense.tasks.prediction_journal import file_identity
from swin_dense.tasks.prediction_run import PredictionRun, images_to_predict
from swin_dense.tasks.trained import labels_of, load_whole_model
from swin_dense.visualize.detections import draw_detections
from swin_dense.visualize.pictures import save_picture


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

    An interrupted prediction with the same weights and options goes on where it stopped; the images may be others. One
    that cannot be read does not stop the others.

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
        SwinDenseError: The config, the weights or an option is wrong, or, once the others are done, some images.
    """
    labels = labels_of(weights, config)
    files = images_to_predict(images, output)
    target = chosen_device(device)
    class_names, category_ids = labels["class_names"], labels["category_ids"]
    detector = OpenMMLabDetector(config.model, len(class_names))
    load_whole_model(detector.network, weights, class_names)
    detector.to(target).eval()
    find = inference(config.inference, config.augmentation, batch_size)
    run = PredictionRun(
        files,
        output,
        {
            "model": repr(config.model),
            "inference": asdict(config.inference),
            "test_size": [config.augmentation.test_short_side, config.augmentation.test_max_long_side],
            "weights": file_identity(weights),
            "labels": labels,
            "score_threshold": score_threshold,
        },
    )
    for batch in run.batches(batch_size, config.data.num_workers):
        for i, found in enumerate(find.predict(detector, batch.to(target))):
            image_id, (height, width) = batch.image_ids[i], batch.sizes[i]
            image = batch.images[i, :, :height, :width]
            picture = draw_detections(image, found, class_names, score_threshold=score_threshold)
            save_picture(output / f"{files.stem(image_id)}.png", picture)
            run.add(image_id, _result_rows(found, class_names, category_ids))
    return run.finish()


def _result_rows(found: Detections, class_names: Sequence[str], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for i, (x1, y1, x2, y2) in enumerate(found.boxes.tolist()):
        label = int(found.labels[i])
        row = {
            "category_id": category_ids[label],
            "category": class_names[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(found.scores[i]),
        }
        if found.masks is not None:
            row["segmentation"] = {"size": found.masks[i]["size"], "counts": found.masks[i]["counts"].decode("ascii")}
        rows.append(row)
    return rows
