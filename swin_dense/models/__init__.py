"""Models with their weights, ready to use: the only place that builds and loads them, whole or a part.

A model is named by a run folder, a config (name, file, dict or dataclass), or a backbone variant.
"""

from __future__ import annotations

import difflib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.backbones import VARIANTS
from swin_dense.config import Config, config_of_run, load_config
from swin_dense.devices import chosen_device
from swin_dense.errors import ConfigError, DataError, WeightsError, option, setting
from swin_dense.images.finder import each_image, is_single, is_video_file, read_image
from swin_dense.isolation import isolated
from swin_dense.records import collate, rescaled_size
from swin_dense.tasks import Task, data_module, task_of
from swin_dense.tasks.base import Labels, Result, declared_classes
from swin_dense.weights import LoadReport, load_weights
from swin_dense.weights.files import missing_file, read_class_names, read_labels, same_classes

logger = logging.getLogger(__name__)

SEED = 0
"""Of random weights, so that what is made of them can be made again."""

WEIGHTS = "weights.safetensors"
"""The best weights of a run folder."""


def load(
    source: Any,
    weights: str | PathLike[str] | None = None,
    device: str | torch.device | None = None,
    *,
    data: str | PathLike[str] | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> Model:
    """Loads a model; see `swin_dense.load`."""
    config, folder = find_config(source, data, overrides)
    path = weights_file(weights, folder)
    if config is None:
        from swin_dense.models.parts import build_backbone

        return Model(None, str(source), build_backbone(str(source), path)[0], Labels(()), path, device)
    labels = labels_in_data(config) if path is None and data is not None else labels_of(config, path)
    if path is None:
        warnings.warn(f"{name_of(source)}: no weights given, these are random", stacklevel=3)
    model = build_whole(config, path, labels.class_names)
    return Model(config, name_of(source), model, labels, path, device)


class Model:
    """A model with its weights, in evaluation mode; `swin_dense.load` makes one.

    Attributes:
        config: Its config; None for a backbone alone.
        name: What it was loaded as.
        module: The detector, segmenter or backbone as a PyTorch module; `module.network` is mmdet's or mmseg's own.
        labels: What its labels mean: class names, category ids, colours.
        weights: The file that they came from; None for random ones.
        device: Where it computes.

    Example:
        >>> import swin_dense
        >>> model = swin_dense.load("swin_nano", device="cpu")
        >>> model, model.class_names
        (Model(swin_nano: backbone, on cpu), ())
    """

    def __init__(
        self,
        config: Config | None,
        name: str,
        module: nn.Module,
        labels: Labels,
        weights: Path | None,
        device: str | torch.device | None,
    ) -> None:
        self.config, self.name, self.labels, self.weights = config, name, labels, weights
        self.device = chosen_device(None if device is None else str(device))
        self.module: Any = module.to(self.device).eval()

    def __repr__(self) -> str:
        """Such as `Model(runs/mine: detection, 80 classes, on cuda:0)`."""
        kind = "backbone" if self.config is None else f"{self.config.task}, {len(self.class_names)} classes"
        return f"Model({self.name}: {kind}, on {self.device})"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes by label; empty for a backbone alone."""
        return self.labels.class_names

    @property
    def task(self) -> Task[Any]:
        """The task of its config.

        Raises:
            ConfigError: It is a backbone alone.
        """
        if self.config is None:
            raise ConfigError(f"{self.name} is a backbone alone, without classes: load a run folder or a config")
        return task_of(self.config)

    @property
    def inference(self) -> Any:
        """How it is run on images: test size, views and what is kept, by its config."""
        return self.task.inference(self.config, 1)

    def to(self, device: str | torch.device) -> Model:
        """Moves the model; returns it."""
        self.device = chosen_device(str(device))
        self.module.to(self.device)
        return self

    def predict(
        self, images: Any, *, threshold: float | None = None, batch_size: int = 1, probabilities: bool = False
    ) -> Any:
        """Finds the objects of images, or the class of every pixel.

        Args:
            images: One image (path, PIL image, (H, W, 3) uint8 array, (3, H, W) uint8 tensor, all RGB), a folder, or
                an iterable of these. For detection and segmentation also the path of a video, which is decoded as its
                frames are asked for. For a model of videos, a video (path, or (T, 3, H, W) uint8 tensor RGB).
            threshold: Detection: least score of what is returned; None is 0.3.
            batch_size: Images that are predicted on together; changes no result.
            probabilities: Segmentation: also return every class's probability, (K, H, W) float16.

        Returns:
            For one image its result; for a folder or a list, a list of results; for an iterator, and for the frames of
            a video, an iterator.

        Raises:
            DataError: An image cannot be read.
            ConfigError: This is a backbone alone, or an option is not for its task.

        Example:
            >>> import numpy, swin_dense, warnings
            >>> warnings.simplefilter("ignore")  # no weights are given: they are random
            >>> model = swin_dense.load("upernet_swin-nano_shapes", device="cpu")
            >>> found = model.predict(numpy.zeros((48, 64, 3), dtype=numpy.uint8))
            >>> tuple(found.label_map.shape)
            (48, 64)
        """
        self._check_options(threshold=threshold is not None, probabilities=probabilities)
        if threshold is not None and not (isinstance(threshold, Real) and 0 <= threshold <= 1):
            raise ConfigError(f"{option('threshold', threshold)}: it must be a score from 0 to 1")
        if self.task.takes_frames and is_video_file(images):
            from swin_dense.videos.reader import VideoFile

            images = iter(VideoFile(images))
        results = self._results(images, threshold, batch_size, probabilities)
        return _as_given(images, results, self.task.inputs(self.config).is_single)

    def _results(self, images: Any, threshold: float | None, batch_size: int, probabilities: bool) -> Iterator[Result]:
        module = self.module.to(self.device).eval()  # a trainer may have had it
        options = {"probabilities": True} if probabilities else {}
        inference = self.task.inference(self.config, batch_size, **options)
        inputs = self.task.inputs(self.config)
        for samples in _groups(images, batch_size, inputs.each, inputs.read):
            found = inference.predict(module, collate(samples, size_divisor=1).to(self.device))
            for sample, one in zip(samples, found, strict=True):
                yield self.task.result(sample.image, one, self.labels, threshold)

    def features(self, images: Any, *, batch_size: int = 1) -> Any:
        """The feature maps of images: every stage of the backbone, and every level of the neck where there is one.

        Args:
            images: As for `predict`. A model of a config sees them at its test size, a backbone as they are.
            batch_size: Images of one size that are computed together; changes no result.

        Returns:
            For each image a dict of (C, H, W) float32 tensors on `device`: "stage1" and "p2" have stride 4; a single
            dict, a list or an iterator as for `predict`.
        """
        return _as_given(images, self._features(images, batch_size))

    def _features(self, images: Any, batch_size: int) -> Iterator[dict[str, Tensor]]:
        from torchvision.transforms.v2 import functional

        model: Any = self.feature_model()
        if model.feature_specs[0].temporal_stride is not None:
            raise ConfigError(f"{self.name}: features of videos are those of clips; export_features stores them")
        limits = {} if self.config is None else self.task.test_size(self.config)
        names = [spec.name for spec in model.feature_specs]
        for group in _groups(images, batch_size, each_image, read_image):
            if limits:
                sizes = [rescaled_size((one.shape[1], one.shape[2]), **limits) for one in group]
                group = [
                    functional.resize(one, list(size), antialias=False) for one, size in zip(group, sizes, strict=True)
                ]
            together = len({one.shape for one in group}) == 1
            for batch in [group] if together else [[one] for one in group]:
                with torch.inference_mode():
                    maps = model(torch.stack(batch).to(self.device))
                for i in range(len(batch)):
                    yield {name: one[i] for name, one in zip(names, maps, strict=True)}

    def feature_model(self) -> nn.Module:
        """A module from uint8 images (B, 3, H, W) to all maps, with `feature_specs`; `export_features` takes it."""
        from swin_dense.export.models import as_feature_model

        module = self.module.to(self.device).eval()
        if self.config is None:
            return as_feature_model(module)
        neck = bool(getattr(module.network, "with_neck", False))
        return as_feature_model(self.task.maps(module.network, None, neck))

    def export(self, output: str | PathLike[str], *, part: str | None = None, **options: Any) -> dict[str, Any]:
        """Writes the model as ONNX (.onnx) or as a program of torch.export (.pt2), and compares the file with it.

        Args:
            output: The file.
            part: "backbone", "neck" (with the backbone) or "whole"; None takes the most that there is.
            **options: `size`, `fixed`, `opset`, `tolerance`, `images`, `int8`; see
                `swin_dense.export.deploy.export_model`.

        Returns:
            What was written and how far it is from the model; "ok" says whether that is within the tolerance.
        """
        from swin_dense.export.deploy import export_model
        from swin_dense.models.parts import load_part

        to = "torch-export" if Path(output).suffix == ".pt2" else "onnx"
        source = self.name if self.config is None else self.config
        chosen = load_part(source, self.weights, part=part, random_weights=self.weights is None)
        return export_model(chosen, Path(output), to=to, **options)

    def evaluate(
        self,
        data: str | PathLike[str] | None = None,
        *,
        predictions: str | PathLike[str] | None = None,
        devices: int | str = "auto",
        engine: str | None = None,
        onnx: str | PathLike[str] | None = None,
    ) -> dict[str, Any]:
        """Scores the model on the validation split of its config.

        Args:
            data: Folder of the data set; None takes the config's own.
            predictions: Where to write the predictions: a COCO result file, or a folder of label PNGs.
            devices: Number of devices of this machine, or "auto".
            engine: Detection: "hotcoco", the default, "faster-coco-eval" or "pycocotools"; all give the same numbers.
            onnx: ONNX file of `export`, of the whole model, that is scored in place of the model.

        Returns:
            The metrics of the task; see `swin_dense.evaluate`.

        Raises:
            SwinDenseError: The data is wrong, or has other classes than the model.
        """
        self._check_options(engine=engine is not None)
        assert self.config is not None
        config = self.config if data is None else load_config(self.config, {"data.root": str(data)})
        options: dict[str, Any] = {} if engine is None else {"engine": engine}
        with isolated():
            from swin_dense.tasks.evaluation import evaluate_module

            return evaluate_module(
                self.task,
                config,
                self.module if onnx is None else self.task.exported(Path(onnx), self.class_names, self.module),
                self.class_names,
                predictions=None if predictions is None else Path(predictions),
                devices=devices,
                device=self.device.type,
                **options,
            )

    def evaluate_corruptions(
        self, folder: str | PathLike[str], *, devices: int | str = "auto", **options: Any
    ) -> dict[str, Any]:
        """Scores the model on validation images corrupted as in ImageNet-C.

        Args:
            folder: Gets the scores one by one; an evaluation that was stopped goes on from there.
            devices: Number of devices of this machine, or "auto".
            **options: `names`, `severities` and `seed`; see `swin_dense.tasks.corruptions.evaluate_corruptions`.
        """
        task = self.task
        with isolated():
            from swin_dense.tasks.corruptions import evaluate_corruptions

            assert self.config is not None
            found = (task, self.config, self.module, self.class_names, Path(folder))
            return evaluate_corruptions(*found, devices=devices, device=self.device.type, **options)

    def _check_options(self, **given: bool) -> None:
        """Refuses options that would do nothing here, before any image is read."""
        task = self.task
        assert self.config is not None
        for name, is_given in given.items():
            if is_given and name not in task.options:
                raise ConfigError(f"{name} is not for {self.config.task}, which {self.name} is for")


def _as_given(images: Any, results: Iterator[Any], single: Callable[[object], bool] = is_single) -> Any:
    """One result for one image, an iterator for an iterator, a list for any other collection."""
    if single(images):
        return next(results)
    return results if isinstance(images, Iterator) else list(results)


def _groups(
    images: Any, batch_size: int, each: Callable[[Any], Iterator[Any]], read: Callable[[Any], Any]
) -> Iterator[list[Any]]:
    """The images, read, so many at a time."""
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    single = each(images)
    while group := [read(image) for image in islice(single, batch_size)]:
        yield group


def find_config(
    source: Any, data: str | PathLike[str] | None = None, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> tuple[Config | None, Path | None]:
    """The config that a source names, and its run folder where it is one; no config for a backbone variant."""
    folder = None
    if isinstance(source, str | PathLike):
        if str(source) in VARIANTS:
            if overrides or data is not None:
                options = f'swin_dense.backbones.create_backbone("{source}", ...) takes options'
                raise ConfigError(f"{source} is a backbone variant and has no config keys to change; {options}")
            return None, None
        if near := difflib.get_close_matches(str(source), VARIANTS, n=1, cutoff=0.8):
            if not os.path.exists(source):
                raise ConfigError(f'there is no backbone variant "{source}"; did you mean "{near[0]}"?')
        if os.path.isdir(source):  # unlike Path.is_dir it answers for names that no file system takes, too
            folder = Path(source)
            source = config_of_run(folder)
    config = load_config(source, overrides)
    if data is not None:
        config = load_config(config, {"data.root": str(data)})
    return config, folder


def weights_file(weights: str | PathLike[str] | None, folder: Path | None) -> Path | None:
    """The weights that are named, or the best ones of a run folder."""
    if weights is None and folder is not None:
        if not (folder / WEIGHTS).is_file():
            raise WeightsError(f"{folder} holds no {WEIGHTS} yet: they are written after the first validation")
        return folder / WEIGHTS
    if weights is not None and not Path(weights).is_file():
        raise missing_file(Path(weights))
    return None if weights is None else Path(weights)


def name_of(source: Any) -> str:
    """What a source is called in messages."""
    return os.fspath(source) if isinstance(source, str | PathLike) else f"a {type(source).__name__}"


def build(config: Config, num_classes: int) -> Any:
    """The detector or segmenter of a config with random weights, which are always the same."""
    with same_random_weights():
        return task_of(config).build_model(config.model, num_classes).eval()


def build_whole(config: Config, weights: Path | None, class_names: Sequence[str]) -> Any:
    """That of a config with weights, which must cover all of it, where there are any."""
    model = build(config, len(class_names))
    if weights is not None:
        load_whole(model.network, weights, class_names)
    return model


@contextmanager
def same_random_weights() -> Iterator[None]:
    """What is built inside has the same random weights each time; the caller's generators stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)  # unlike torch.manual_seed it leaves the generators of GPUs alone
        yield


def load_whole(network: nn.Module, weights: Path, class_names: Sequence[str]) -> LoadReport:
    """Loads weights that must cover every parameter: the score of a random head means nothing."""
    named = read_class_names(weights)
    if named is not None and not same_classes(named, class_names):
        raise WeightsError(f"{weights} was trained on {', '.join(named)}; the data has {', '.join(class_names)}")
    report = take_weights(network, weights)
    if report.missing:
        raise WeightsError(
            f"{weights} does not hold the whole model: {len(report.missing)} parameters are missing, for instance "
            f"{next(iter(report.missing))}; train it first"
        )
    return report


def take_weights(network: nn.Module, weights: Path, *, ignore: Sequence[str] = ()) -> LoadReport:
    """Loads weights and says so where they are of windows or images of another size, which changes the results."""
    report = load_weights(network, weights, ignore=ignore)
    if report.interpolated:
        name, change = report.interpolated[0]
        logger.warning(
            "%s is for windows or images of another size: %d tensors differ, for instance %s, %s; for the results of "
            "these weights take a config with their size, such as model.backbone.window_size",
            weights, len(report.interpolated), name, change,
        )  # fmt: skip
    return report


def labels_of(config: Config, weights: Path | None) -> Labels:
    """What the labels mean that a model predicts; the data is read only where the weights do not say it themselves."""
    task = task_of(config)
    if weights is None:
        return Labels(tuple(f"class {number}" for number in range(1, declared_classes(config.model) + 1)))
    kept = read_labels(weights)
    if "class_names" in kept:
        if task.needs_category_ids and "category_ids" not in kept:
            raise WeightsError(
                f"{weights} names classes without category ids, as weights of semantic segmentation do; the config "
                f"is for {config.task}"
            )
        return Labels.of(kept)
    try:
        return labels_in_data(config)
    except DataError as error:
        names = None if task.needs_category_ids else read_class_names(weights)
        if names is not None:
            return Labels(names)
        what = "category ids" if task.needs_category_ids else "names"
        fix = f"name its folder: {option('data', 'FOLDER')}"
        if hasattr(config.data, "classes"):
            fix += f", or a file of one class per line: {setting('data.classes', 'FILE')}"
        raise DataError(
            f"{error}\n{weights} does not hold the {what} of its classes, so they come from the data of the config: "
            f"{fix}"
        ) from error


def labels_in_data(config: Config) -> Labels:
    """What the labels mean in the data of a config.

    Raises:
        DataError: The data cannot be read.
    """
    task = task_of(config)
    if (listed := task.listed_labels(config)) is not None:
        return listed
    data = data_module(config)
    data.setup("validate")
    return task.labels(data)
