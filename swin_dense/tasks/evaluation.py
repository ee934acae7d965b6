"""Score trained weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from swin_dense import tasks
from swin_dense.config import Config, SegmentationConfig
from swin_dense.metrics import CocoMetric
from swin_dense.tasks.outputs import check_output_file, check_output_folder
from swin_dense.tasks.predict_label_maps import write_label_map
from swin_dense.tasks.run_folder import is_first_process, write_json
from swin_dense.tasks.trained import load_whole_model
from swin_dense.training.callbacks import PredictionFiles


def evaluate(
    config: Config,
    weights: Path,
    *,
    engine: str = "faster-coco-eval",
    predictions: Path | None = None,
    devices: int | str = "auto",
) -> dict[str, Any]:
    """Scores weights on the validation split of a config.

    Args:
        config: Names model and data.
        weights: Of the whole model.
        engine: "faster-coco-eval" or "pycocotools", for detection.
        predictions: Where to write the predictions: a COCO result file, or a folder of label PNGs; None writes none.
        devices: Number of devices of this node, or "auto".

    Returns:
        Detection: {"bbox": {"AP": ..., ..., "per_class": {...}}, "segm": {...}}. Segmentation, in percent: {"mIoU":
        ..., "mAcc": ..., "aAcc": ..., "per_class": {...}}.

    Raises:
        SwinDenseError: Data or weights are wrong, or do not belong together.
    """
    if predictions is not None:
        check = check_output_folder if isinstance(config, SegmentationConfig) else check_output_file
        check(predictions)
    data = tasks.data_module(config)
    data.setup("validate")
    module = tasks.training_module(config, data, engine)
    load_whole_model(module.network, weights, data.class_names)
    callbacks: list[Callback] = []
    if predictions is not None and isinstance(config, SegmentationConfig):
        callbacks = [PredictionFiles(partial(write_label_map, predictions, config.data.label_shift))]
    trainer = tasks.evaluation_trainer(devices, callbacks)
    trainer.validate(module, datamodule=data, verbose=False)
    if predictions is not None and isinstance(module.metric, CocoMetric):
        rows = module.metric.results()
        if is_first_process():
            write_json(predictions, rows)
    return module.scores
