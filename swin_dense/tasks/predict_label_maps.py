"""Name the class of every pixel of any images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from swin_dense.config import SegmentationConfig
from swin_dense.devices import chosen_device
from swin_dense.files import atomic_write
from swin_dense.label_maps.files import label_image
from swin_dense.openmmlab.segmentation import OpenMMLabSegmenter
from swin_dense.records import Segmentation
from swin_dense.tasks.prediction_journal import file_identity
from swin_dense.tasks.prediction_run import PredictionRun, images_to_predict
from swin_dense.tasks.segmentation import inference
from swin_dense.tasks.trained import labels_of, load_whole_model
from swin_dense.visualize.pictures import save_picture
from swin_dense.visualize.segmentation import draw_segmentation


def predict_label_maps(
    config: SegmentationConfig,
    weights: Path,
    images: Sequence[Path],
    output: Path,
    *,
    probabilities: bool = False,
    batch_size: int = 1,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Segments images: `labels/NAME.png`, `overlays/NAME.png`, and `predictions.json` with the classes of each image.

    An interrupted prediction with the same weights and options goes on where it stopped; the images may be others. One
    that cannot be read does not stop the others.

    Args:
        config: Names the model, the test size and the inference.
        weights: Of the whole model, as `train` writes them; they hold the class names and colours.
        images: Image files, or folders that are searched for images.
        output: Folder to write into.
        probabilities: Whether to write `probabilities/NAME.safetensors` too, (K, H, W) float16 under "probabilities".
        batch_size: Images read at a time; those of one size run together.
        device: As in `torch.device`; None takes the best there is.

    Returns:
        The rows of `predictions.json`: image_id (position of the file), file_name, labels (the PNG), and classes, the
        part of the pixels that each class present takes, by name.

    Raises:
        SwinDenseError: The config, the weights or an option is wrong, or, once the others are done, some images.
    """
    labels = labels_of(weights, config)
    files = images_to_predict(images, output, "labels", "overlays")
    target = chosen_device(device)
    class_names = labels["class_names"]
    palette = np.array(labels["palette"], dtype=np.uint8) if "palette" in labels else None
    segmenter = OpenMMLabSegmenter(config.model, len(class_names))
    load_whole_model(segmenter.network, weights, class_names)
    segmenter.to(target).eval()
    segment = inference(config.inference, config.augmentation.test_scale, probabilities=probabilities)
    run = PredictionRun(
        files,
        output,
        {
            "model": repr(config.model),
            "inference": asdict(config.inference),
            "test_scale": config.augmentation.test_scale,
            "weights": file_identity(weights),
            "labels": labels,
            "label_shift": config.data.label_shift,
            "probabilities": probabilities,
        },
    )
    for batch in run.batches(batch_size, config.data.num_workers):
        for i, found in enumerate(segment.predict(segmenter, batch.to(target))):
            image_id, (height, width) = batch.image_ids[i], batch.sizes[i]
            stem = files.stem(image_id)
            write_label_map(output / "labels", config.data.label_shift, f"{stem}.png", found)
            image = batch.images[i, :, :height, :width]
            picture = draw_segmentation(image, found.label_map.cpu(), class_names, palette)
            save_picture(output / "overlays" / f"{stem}.png", picture)
            if found.probabilities is not None:
                _write_probabilities(output / "probabilities" / f"{stem}.safetensors", found.probabilities)
            run.add(image_id, [{"labels": f"labels/{stem}.png", "classes": _shares(found, class_names)}])
    return run.finish()


def write_label_map(folder: Path, label_shift: int, file_name: str, segmentation: Segmentation) -> None:
    """Writes a label PNG with the numbers that the data set itself uses.

    Args:
        folder: Where to.
        label_shift: Of the data set; what turns its numbers into classes is undone.
        file_name: Of the image, relative to its data set; the suffix becomes .png.
        segmentation: What was predicted.
    """
    stored = segmentation.label_map.cpu().numpy() - label_shift
    with atomic_write(folder / Path(file_name).with_suffix(".png")) as unfinished:
        label_image(stored).save(unfinished)


def _write_probabilities(path: Path, probabilities: torch.Tensor) -> None:
    with atomic_write(path) as unfinished:
        save_file({"probabilities": probabilities.contiguous()}, unfinished)


def _shares(segmentation: Segmentation, class_names: Sequence[str]) -> dict[str, float]:
    counts = torch.bincount(segmentation.label_map.flatten(), minlength=len(class_names)).tolist()
    return {name: count / sum(counts) for name, count in zip(class_names, counts, strict=True) if count}
