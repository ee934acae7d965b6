"""Score trained weights on the validation split of a config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from swin_dense.config import Config
from swin_dense.errors import WeightsError
from swin_dense.files import check_output_file, check_output_folder
from swin_dense.records import Sample
from swin_dense.tasks import data_module
from swin_dense.tasks.base import Task
from swin_dense.tasks.run_folder import is_first_process, write_json
from swin_dense.weights.files import same_classes


def evaluate_module(
    task: Task[Any],
    config: Config,
    model: Any,
    class_names: Sequence[str],
    *,
    predictions: Path | None = None,
    devices: int | str = "auto",
    device: str | None = None,
    corruption: Callable[[Sample], Sample] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Scores a model with weights on the data of its config, which has to have these classes.

    Args:
        task: Of the config.
        config: Names the data.
        model: The detector or segmenter.
        class_names: What it was trained on.
        predictions: Where to write the predictions: a COCO result file, a folder of label PNGs, or a JSON
            file of classes; None writes none.
        devices: Number of devices of this node, or "auto".
        device: Their type, as in `torch.device`; None takes the best there is.
        corruption: What is done to every sample before the model sees it.
        **options: Of the metric.
    """
    from torchvision.transforms.v2 import Compose

    from swin_dense.training.callbacks import PredictionFiles
    from swin_dense.training.trainer import evaluation_trainer, surroundings

    config = task.for_evaluation(config)
    write = None if predictions is None else task.prediction_writer(config, predictions)
    if predictions is not None:
        (check_output_folder if write else check_output_file)(predictions)
    data = data_module(config)
    if corruption is not None:
        data.test_transform = Compose([corruption, data.test_transform])
    data.setup("validate")
    if not same_classes(class_names, data.class_names):
        fix = "evaluate on data that lists the classes of the weights in their order"
        raise WeightsError(
            f"the weights were trained on {', '.join(class_names)}; the data has {', '.join(data.class_names)}; {fix}"
        )
    module: Any = task.training_module(config, data, model, **options)
    with surroundings():
        trainer = evaluation_trainer(devices, [PredictionFiles(write)] if write else [], device)
        trainer.validate(module, datamodule=data, verbose=False)
    if predictions is not None and write is None:
        rows = module.metric.results()
        if is_first_process():
            write_json(predictions, rows)
    scores: dict[str, Any] = module.scores
    return scores
