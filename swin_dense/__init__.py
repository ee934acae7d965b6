"""One Swin Transformer backbone for every dense task.

The functions here are all that most uses need; nothing heavy is imported before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from swin_dense.export import FeatureStore
    from swin_dense.importing.importer import ImportReport
    from swin_dense.models import Model
    from swin_dense.tasks.training import Run

__all__ = ["__version__", "evaluate", "export_features", "import_data", "load", "predict", "train", "tune"]

PathText = str | PathLike[str]

_TRAINING_OPTIONS = {"new_classes", "ignore", "devices", "device"}
"""What `train` and `tune` take by name beside their arguments; anything else is a key of the config."""


def load(
    source: Any,
    weights: PathText | None = None,
    device: str | torch.device | None = None,
    *,
    data: PathText | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> Model:
    """Loads a detector, a segmenter or a bare backbone, ready for `predict`, `features`, `export` and `evaluate`.

    Args:
        source: A run folder (or what `train` returned), the name or file of a config, a config as dict or dataclass,
            or a backbone variant such as "swin_tiny".
        weights: Checkpoint in any known format; None takes the best weights of a run folder, and random ones
            elsewhere.
        device: As in `torch.device`; None takes the best there is.
        data: Folder of the data set, instead of data.root: gives the classes where the weights do not say them.
        overrides: Changes of config keys, as "key=value" texts or as a mapping.

    Returns:
        The model, in evaluation mode.

    Raises:
        ConfigError: There is no such run, config or variant, or the model cannot be built.
        WeightsError: The weights are missing, do not fit, or hold a part of the model alone.

    Example:
        >>> import swin_dense, torch
        >>> model = swin_dense.load("swin_tiny", device="cpu")
        >>> {name: tuple(maps.shape) for name, maps in model.features(torch.zeros(3, 64, 96).byte()).items()}
        {'stage1': (96, 16, 24), 'stage2': (192, 8, 12), 'stage3': (384, 4, 6), 'stage4': (768, 2, 3)}
    """
    from swin_dense.isolation import isolated

    with isolated():
        from swin_dense import models

        return models.load(source, weights, device, data=data, overrides=overrides)


def predict(source: Any, images: Any, *, weights: PathText | None = None, device: Any = None, **options: Any) -> Any:
    """Finds the objects of images, or the class of every pixel; `load(...).predict(...)` in one call.

    Args:
        source: As for `load`.
        images: A path, PIL image, (H, W, 3) uint8 array, (3, H, W) uint8 tensor, a folder, or several of these; or the
            path of a video.
        weights: As for `load`.
        device: As for `load`.
        **options: `threshold`, `batch_size`, `probabilities`; see `Model.predict`.

    Returns:
        A result, a list of results, or an iterator over those of the frames of a video.

    Raises:
        SwinDenseError: The model cannot be loaded or an image cannot be read.

    Example:
        >>> import numpy, swin_dense, warnings
        >>> warnings.simplefilter("ignore")  # no weights are given: they are random
        >>> street = numpy.zeros((64, 64, 3), dtype=numpy.uint8)
        >>> found = swin_dense.predict("mask-rcnn_swin-nano_shapes", street, device="cpu", threshold=0.9)
        >>> found.names, tuple(found.boxes.shape)
        ([], (0, 4))
    """
    return load(source, weights, device).predict(images, **options)


def train(
    config: Any = None,
    *,
    data: PathText | None = None,
    weights: PathText | None = None,
    run: PathText | None = None,
    resume: PathText | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    compile: bool | None = None,
    early_stopping: int | None = None,
    **options: Any,
) -> Run:
    """Trains a model and fills a run folder.

    Args:
        config: Name or file of a config, or a config as dict or dataclass; None with `resume`.
        data: Folder of the data set, instead of the config's data.root.
        weights: Checkpoint to start from, of a whole model or of a backbone.
        run: The run folder; None is runs/NAME.
        resume: A run folder to continue instead, with its config.
        epochs: Length of the training, where the schedule counts epochs; its milestones are scaled with it.
        steps: Length of the training, where the schedule counts optimizer steps.
        batch_size: Training images per device.
        learning_rate: Of the whole batch.
        compile: Compile the backbone; the first steps wait for it.
        early_stopping: Stop after so many validations without a better score.
        **options: `new_classes`, `ignore`, `devices`, `device` as on the command line; and any other config key:
            `loggers=["csv"]`, or dotted where it is inside another: `**{"data.num_workers": 2}`.

    Returns:
        The run: its `folder` and its `metrics`; `load(run)` and `evaluate(run)` take it as it is.

    Raises:
        SwinDenseError: Config, data or weights are wrong, or the training had to stop.

    Example:
        >>> import swin_dense, tempfile
        >>> from swin_dense.data.shapes import write_shapes
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_shapes(folder, train=4, val=2)
        ...     run = swin_dense.train(
        ...         "mask-rcnn_swin-nano_shapes", data=folder, run=f"{folder}/run", epochs=1, batch_size=2,
        ...         device="cpu", devices=1, **{"data.num_workers": 0},
        ...     )
        ...     sorted(run.metrics), swin_dense.load(run, device="cpu").class_names[:2]
        (['bbox', 'segm'], ('circle', 'square'))
    """
    from swin_dense.isolation import isolated

    shortcuts = {
        "schedule.epochs": epochs,
        "schedule.steps": steps,
        "data.batch_size": batch_size,
        "optimizer.learning_rate": learning_rate,
        "training.compile": compile,
        "data.root": None if data is None else str(data),
    }
    changes = {key: value for key, value in shortcuts.items() if value is not None}
    changes |= {key: options.pop(key) for key in options.keys() - _TRAINING_OPTIONS}
    with isolated():
        from swin_dense.tasks import training

        options |= {"weights": weights, "run": run, "resume": resume, "early_stopping": early_stopping}
        return training.train_source(config, changes, **options)


def tune(
    config: Any,
    what: str = "learning-rate",
    *,
    data: PathText | None = None,
    weights: PathText | None = None,
    steps: int = 100,
    **options: Any,
) -> dict[str, Any]:
    """Tries out a learning rate or a batch size before a training, by Lightning's Tuner; nothing of it is kept.

    Args:
        config: As for `train`.
        what: "learning-rate": the rate rises over a few steps, and where the loss falls most steeply is a rate to start
            from, for the images that the config's steps see. All layers learn at one rate meanwhile. "batch-size": the
            number of images doubles until the memory of a CUDA device is full.
        data: Folder of the data set, instead of the config's data.root.
        weights: Checkpoint that the training will start from.
        steps: Of the search for a learning rate.
        **options: `new_classes`, `ignore` and `device` as for `train`; and any config key.

    Returns:
        What was found, under "learning_rate" or "batch_size"; "set" has it as changes of config keys.

    Raises:
        SwinDenseError: Config, data or weights are wrong, or nothing can be found.

    Example:
        >>> import swin_dense, tempfile
        >>> from swin_dense.data.shapes import write_shapes
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_shapes(folder, train=4, val=1)
        ...     found = swin_dense.tune(
        ...         "swin-nano_shapes", data=f"{folder}/imagenet", steps=20, device="cpu", **{"data.num_workers": 0}
        ...     )
        >>> found["set"] == [f"optimizer.learning_rate={found['learning_rate']:g}"], len(found["losses"]) <= 20
        (True, True)
    """
    from swin_dense.isolation import isolated

    changes = {key: options.pop(key) for key in options.keys() - _TRAINING_OPTIONS}
    changes |= {} if data is None else {"data.root": str(data)}
    with isolated():
        from swin_dense.config import load_config
        from swin_dense.tasks import tuning

        return tuning.tune(load_config(config, changes), what, weights=weights, steps=steps, **options)


def import_data(source: PathText, output: PathText, **options: Any) -> ImportReport:
    """Makes a data set that trains with this package of one from an annotation tool or another project.

    Args:
        source: Folder of the data set, or the one annotation file that is meant.
        output: The new folder.
        **options: See `swin_dense.importing.importer.import_data`.

    Returns:
        What was written, and all that was left out.

    Raises:
        SwinDenseError: Nothing can be imported, or an argument is wrong.

    Example:
        >>> import swin_dense, tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a", "b"):
        ...     Image.new("RGB", (40, 30)).save(folder / f"{name}.png")
        ...     _ = (folder / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.4")
        >>> _ = (folder / "classes.txt").write_text("cup")
        >>> half = {"train": 0.5, "val": 0.5}
        >>> swin_dense.import_data(folder, folder / "out", format="yolo", split=half).images
        {'train': 1, 'val': 1}
    """
    from swin_dense.importing import importer

    return importer.import_data(source, output, **options)


def evaluate(source: Any, *, weights: PathText | None = None, data: PathText | None = None, **options: Any) -> Any:
    """Scores a model on the validation split of its config.

    Args:
        source: As for `load`.
        weights: As for `load`.
        data: Folder of the data set; None takes the config's own.
        **options: `device`; and `devices`, `predictions` and `engine` as for `Model.evaluate`.

    Returns:
        Detection: {"bbox": {"AP": ..., "per_class": {...}}, "segm": {...}} in 0..1. Segmentation, in percent:
        {"mIoU": ..., "mAcc": ..., "aAcc": ..., "per_class": {...}}.

    Raises:
        SwinDenseError: Data or weights are wrong, or do not belong together.

    Example:
        >>> import swin_dense, tempfile, warnings
        >>> from swin_dense.data.shapes import write_shapes
        >>> warnings.simplefilter("ignore")  # no weights are given: they are random
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_shapes(folder, train=1, val=1)
        ...     scores = swin_dense.evaluate("upernet_swin-nano_shapes", data=f"{folder}/ade20k", device="cpu")
        >>> sorted(scores), 0 <= scores["mIoU"] <= 100
        (['aAcc', 'mAcc', 'mIoU', 'per_class'], True)
    """
    return load(source, weights, options.pop("device", None), data=data).evaluate(**options)


def export_features(
    source: Any, images: Any, output: PathText, *, weights: PathText | None = None, **options: Any
) -> FeatureStore:
    """Stores the features of images, or of clips of videos, on disk; interrupted, the same call continues.

    Args:
        source: As for `load`.
        images: Image files, folders, zip files, and text files that name an image per line; one or several. Likewise
            videos, without zip files, where the model takes those.
        output: Folder of the store.
        weights: As for `load`; `random_weights=True` does without.
        **options: `stages`, `neck` and all that `swin_dense.export.export_features` takes. A config's test size is
            used unless `size` or `short_side` is given, or `native=True`; so are its clips.

    Returns:
        The store, a map-style data set.

    Raises:
        SwinDenseError: Model, weights or an option is wrong, or an image cannot be read.

    Example:
        >>> import swin_dense, tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (64, 48)).save(f"{folder}/black.png")
        ...     store = swin_dense.export_features(
        ...         "swin_tiny", f"{folder}/black.png", f"{folder}/features", random_weights=True, device="cpu"
        ...     )
        ...     tuple(store[0]["stage4"].shape)
        (768, 2, 2)
    """
    from swin_dense.isolation import isolated

    with isolated():
        from swin_dense import export
        from swin_dense.models.parts import features_of, view_of

        overrides = options.pop("overrides", ())
        chosen = {key: options.pop(key) for key in ("random_weights", "stages", "neck") if key in options}
        model = features_of(source, weights, overrides=overrides, **chosen)
        native = options.pop("native", False) or not {"size", "short_side"}.isdisjoint(options)
        options = view_of(source, resized=not native, overrides=overrides) | options
        return export.export_features(model, images, Path(output), **options)


def __getattr__(name: str) -> Any:
    """The version, read when it is asked for (PEP 562)."""
    if name == "__version__":
        return import_module("importlib.metadata").version("swin-dense")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
