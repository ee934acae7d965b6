"""What the commands do: train, evaluate, predict, demo. Everything here can be called from Python as well."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import track

from swin_dense import build
from swin_dense.backbones import create_backbone
from swin_dense.config import DetectionConfig, config_text, load_config
from swin_dense.data.folder import ImageFiles
from swin_dense.data.loaders import evaluation_loader
from swin_dense.data.samplers import EvaluationSampler
from swin_dense.data.shapes import write_shapes
from swin_dense.errors import ConfigError, TrainingError, WeightsError
from swin_dense.metrics import CocoResults
from swin_dense.openmmlab.counting import run_detector
from swin_dense.openmmlab.detection import OpenMMLabDetector, build_network
from swin_dense.report import ap_table
from swin_dense.stats import ModelStats, model_stats
from swin_dense.training import DetectorModule
from swin_dense.visualize import draw_curves, draw_detections, save_picture
from swin_dense.weights import load_weights, save_weights
from swin_dense.weights.metadata import read_metadata

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
DEMO_CONFIG = CONFIGS / "demo" / "mask-rcnn_swin-nano_shapes.py"
DEMO_SCENES = {"train": 1600, "val": 200}
NETWORK = "detector.network."
"""Prefix of the network's parameters in a training checkpoint."""

COCO_CLASSES = 80
"""Class count that published sizes are given for; `stats` reads no data set."""

console = Console(stderr=True)


@dataclass(frozen=True)
class TrainingResult:
    """What a training has left.

    Attributes:
        run: The run folder.
        scores: Of the last validation.
    """

    run: Path
    scores: Mapping[str, Mapping[str, Any]]


def train(
    config: DetectionConfig,
    run: Path,
    *,
    weights: Path | None = None,
    ignore: Sequence[str] = (),
    resume: bool = False,
    devices: int | str = "auto",
) -> TrainingResult:
    """Trains a detector, validates it, and fills a run folder.

    Args:
        config: What to train on what and how.
        run: The run folder; must not exist yet, unless it is resumed.
        weights: Checkpoint to start from, of a whole detector or of a backbone.
        ignore: Parameters of that checkpoint to leave out, for instance a head of other classes.
        resume: Continue the training in `run` from its `last.ckpt`.
        devices: Number of devices of this node, or "auto".

    Returns:
        The run folder and the last scores.

    Raises:
        SwinDenseError: Something in the config, the data or the weights is wrong, the loss became non-finite, or a
            signal stopped the training (which can then be resumed).
    """
    checkpoint = run / "last.ckpt" if resume else None
    resumed_step = _checkpoint_step(checkpoint) if checkpoint else 0
    data = build.detection_data(config)
    data.setup("fit")
    module = build.detector_module(config, data)
    if weights is not None:
        console.print(load_weights(_network(module), weights, ignore=ignore).summary(), highlight=False)
    if not resume:
        _open_run(run, config)
    trainer = build.training_trainer(config, data, run, devices, resumed_step)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    finally:
        if trainer.is_global_zero and (run / "best.ckpt").is_file():
            _write_weights(run, config, data.class_names, data.category_ids)
            draw_curves(run / "metrics.csv", run / "curves.png")
    if trainer.is_global_zero and module.scores:
        console.print(ap_table(module.scores))
    return TrainingResult(run, module.scores)


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
    _load_whole_detector(_network(module), weights, data.class_names)
    trainer = build.evaluation_trainer(config.training.precision, devices)
    trainer.validate(module, datamodule=data, verbose=False)
    if predictions is not None:
        _write_json(predictions, module.metric.results())
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
        for batch in track(loader, "predicting", console=console):
            for image_id, name, found in zip(
                batch.image_ids, batch.file_names, detector.predict(batch.to(target)), strict=True
            ):
                rows += _result_rows(image_id, name, found, class_names, category_ids)
                picture = draw_detections(files[image_id].image, found, class_names, score_threshold=score_threshold)
                save_picture(output / f"{files.stem(image_id)}.png", picture)
    _write_json(output / "predictions.json", rows)
    return rows


def stats(model: DetectionConfig | str, height: int, width: int) -> ModelStats:
    """Counts parameters and multiply-adds.

    Args:
        model: A config, or the name of a backbone variant.
        height: Of the image, in pixels.
        width: Likewise.

    Returns:
        The sizes, whole and by part.

    Raises:
        ConfigError: There is no such variant, or the model cannot be built.
    """
    if isinstance(model, str):
        backbone = create_backbone(model)
        return model_stats(backbone, lambda module: module(_blank_image(module, height, width)))
    network = build_network(model.model, num_classes=COCO_CLASSES)
    return model_stats(network, lambda module: run_detector(module, height, width))


def demo(run: Path, data_root: Path) -> TrainingResult:
    """Generates the shapes data set, trains the demo config on it, and draws predictions.

    Args:
        run: The run folder; an earlier demo there is replaced.
        data_root: Where the data set is written, or is already.

    Returns:
        The run folder and the scores.
    """
    if not DEMO_CONFIG.is_file():
        raise ConfigError(f"{DEMO_CONFIG} is missing: run the demo from a clone of the repository")
    console.print(f"writing the shapes data set to {data_root}")
    write_shapes(data_root, **DEMO_SCENES)
    if run.is_dir() and (run / "run.json").is_file():
        shutil.rmtree(run)
    return train(replace_root(load_config(DEMO_CONFIG), data_root), run)


def replace_root(config: DetectionConfig, root: Path) -> DetectionConfig:
    """The config with its data somewhere else.

    Args:
        config: Any.
        root: Folder of the data set.

    Returns:
        The new config.
    """
    return replace(config, data=replace(config.data, root=str(root)))


def _blank_image(module: torch.nn.Module, height: int, width: int) -> torch.Tensor:
    return torch.zeros(1, 3, height, width, device=next(module.parameters()).device)


def _network(module: DetectorModule) -> torch.nn.Module:
    network = module.detector.network
    assert isinstance(network, torch.nn.Module)
    return network


def _open_run(run: Path, config: DetectionConfig) -> None:
    """Writes down what is run, on the first process; the others may come before or after."""
    if getattr(rank_zero_only, "rank", 0) != 0:
        return
    if run.exists() and any(run.iterdir()):
        raise TrainingError(
            f"{run} holds an earlier run: continue it with --resume {run}, or name another folder with --run"
        )
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.py").write_text(config_text(config))
    packages = ("swin-dense", "torch", "torchvision", "lightning", "numpy", "faster-coco-eval", "pycocotools")
    facts = {
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in packages}},
        "seed": config.training.seed,
        "command": sys.argv,
    }
    _write_json(run / "run.json", facts)


def _checkpoint_step(path: Path) -> int:
    if not path.is_file():
        raise TrainingError(f"{path} does not exist: there is nothing to resume in {path.parent}")
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception as error:
        raise TrainingError(f"{path} is no training checkpoint that can be resumed: {error}") from error


def _write_weights(run: Path, config: DetectionConfig, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
    """The best weights without optimizer state, and what is needed to use them."""
    tensors = torch.load(run / "best.ckpt", map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    network = {name.removeprefix(NETWORK): value for name, value in tensors.items() if name.startswith(NETWORK)}
    metadata = {
        "swin_dense_version": version("swin-dense"),
        "config": config_text(config),
        "class_names": json.dumps(list(class_names)),
        "category_ids": json.dumps(list(category_ids)),
    }
    save_weights(network, run / "weights.safetensors", metadata=metadata)


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


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value))
    os.replace(partial, path)
