"""Models with their weights, ready to use: the only place that builds and loads them, whole or a part.

A model is named by a run folder, a config (name, file, dict or dataclass), or a backbone variant.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from swin_dense.backbones import VARIANTS, FeatureSpec, SwinTransformer, create_backbone
from swin_dense.backbones.plain import PlainSwin
from swin_dense.config import Config, load_config
from swin_dense.devices import chosen_device
from swin_dense.errors import ConfigError, DataError, WeightsError, nearest
from swin_dense.export.models import IMAGENET, ModelPart, Preprocessing, as_feature_model, traceable
from swin_dense.images.inputs import each_image, is_single, read_image
from swin_dense.openmmlab.features import PROBE, NetworkMaps, place_of, preprocessing_of, specs_of
from swin_dense.records import Sample, collate, rescaled_size
from swin_dense.tasks import Task, task_of
from swin_dense.tasks.base import ANY_CLASSES, Labels, Result, declared_classes
from swin_dense.weights import LoadReport, load_weights
from swin_dense.weights.files import missing_file, read_class_names, read_labels, same_classes

if TYPE_CHECKING:
    from swin_dense.stats import ModelStats
    from swin_dense.visualize.inspection import InspectedModel

PARTS = ("backbone", "neck", "whole")
"""What of a model can be had."""

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
    """Loads a model: detector, segmenter or bare backbone.

    Args:
        source: A run folder, the name or file of a config, a config as dict or dataclass, or a backbone variant.
        weights: Checkpoint in any known format; None takes the best weights of a run folder, and random ones
            elsewhere.
        device: As in `torch.device`; None takes the best there is.
        data: Folder of the data set, where neither weights nor config say what the classes are; instead of data.root.
        overrides: Changes of config keys, as "key=value" texts or as a mapping.

    Returns:
        The model, in evaluation mode.

    Raises:
        ConfigError: There is no such run, config or variant, or the model cannot be built.
        WeightsError: The weights are missing, do not fit, or hold a part of the model alone.

    Example:
        >>> import swin_dense, torch
        >>> model = swin_dense.load("swin_tiny", device="cpu")
        >>> {name: tuple(features.shape) for name, features in model.features(torch.zeros(3, 64, 96).byte()).items()}
        {'stage1': (96, 16, 24), 'stage2': (192, 8, 12), 'stage3': (384, 4, 6), 'stage4': (768, 2, 3)}
    """
    config, folder = find_config(source, data, overrides)
    path = _weights_file(weights, folder)
    if config is None:
        return Model(None, str(source), _backbone(str(source), path)[0], Labels(()), path, device)
    labels = labels_of(config, path)
    model = build(config, len(labels.class_names))
    if path is None:
        warnings.warn(f"{name_of(source)}: no weights given, these are random", stacklevel=2)
    else:
        load_whole(model.network, path, labels.class_names)
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
        """Takes the parts and moves the module."""
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
                an iterable of these.
            threshold: Detection: least score of what is returned; None is 0.3.
            batch_size: Images that are predicted on together; changes no result.
            probabilities: Segmentation: also return every class's probability, (K, H, W) float16.

        Returns:
            For one image its result; for a folder or a list, a list of results; for an iterator, an iterator.

        Raises:
            DataError: An image cannot be read.
            ConfigError: This is a backbone alone, or an option is not for its task.
        """
        results = self._results(images, threshold, batch_size, probabilities)
        if is_single(images):
            return next(results)
        return results if isinstance(images, Iterator) else list(results)

    def _results(self, images: Any, threshold: float | None, batch_size: int, probabilities: bool) -> Iterator[Result]:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        options = {"probabilities": True} if probabilities else {}
        inference = self.task.inference(self.config, batch_size, **options)
        single = each_image(images)
        while group := [read_image(image) for image in islice(single, batch_size)]:
            samples = [Sample(image, i, "image", (image.shape[1], image.shape[2])) for i, image in enumerate(group)]
            found = inference.predict(self.module, collate(samples, size_divisor=1).to(self.device))
            for image, one in zip(group, found, strict=True):
                yield self.task.result(image, one, self.labels, threshold)

    def features(self, images: Any, *, batch_size: int = 1) -> Any:
        """The feature maps of images: every stage of the backbone, and every level of the neck where there is one.

        Args:
            images: As for `predict`. A model of a config sees them at its test size, a backbone as they are.
            batch_size: Images of one size that are computed together; changes no result.

        Returns:
            For each image a dict of (C, H, W) float32 tensors on `device`: "stage1" and "p2" have stride 4; a single
            dict, a list or an iterator as for `predict`.
        """
        results = self._features(images, batch_size)
        if is_single(images):
            return next(results)
        return results if isinstance(images, Iterator) else list(results)

    def _features(self, images: Any, batch_size: int) -> Iterator[dict[str, Tensor]]:
        from torchvision.transforms.v2 import functional

        model: Any = self.feature_model()
        limits = {} if self.config is None else self.task.test_size(self.config)
        names = [spec.name for spec in model.feature_specs]
        single = each_image(images)
        while group := [read_image(image) for image in islice(single, batch_size)]:
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
        if self.config is None:
            return as_feature_model(self.module)
        network = self.module.network
        return as_feature_model(maps_of(network, None, bool(network.with_neck))).to(self.device)

    def export(self, output: str | PathLike[str], *, part: str | None = None, **options: Any) -> dict[str, Any]:
        """Writes the model as ONNX (.onnx) or as a program of torch.export (.pt2), and compares the file with it.

        Args:
            output: The file.
            part: "backbone", "neck" (with the backbone) or "whole" (a segmenter); None takes the most that there is.
            **options: `size`, `fixed`, `opset`, `tolerance`, `images`; see `swin_dense.export.deploy.export_model`.

        Returns:
            What was written and how far it is from the model; "ok" says whether that is within the tolerance.
        """
        from swin_dense.export.deploy import export_model

        to = "torch-export" if Path(output).suffix == ".pt2" else "onnx"
        source = self.name if self.config is None else self.config
        chosen = load_part(source, self.weights, part=part, random_weights=self.weights is None)
        return export_model(chosen, Path(output), to=to, **options)

    def evaluate(self, data: str | PathLike[str] | None = None, **options: Any) -> dict[str, Any]:
        """Scores the model on the validation split of its config.

        Args:
            data: Folder of the data set; None takes the config's own.
            **options: As for `swin_dense.evaluate`.

        Returns:
            The metrics of the task; see `swin_dense.evaluate`.
        """
        from swin_dense.tasks.evaluation import evaluate_module

        task = self.task
        assert self.config is not None
        config = self.config if data is None else load_config(self.config, {"data.root": str(data)})
        return evaluate_module(task, config, self.module, self.class_names, device=self.device.type, **options)


def find_config(
    source: Any, data: str | PathLike[str] | None = None, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> tuple[Config | None, Path | None]:
    """The config that a source names, and its run folder where it is one; no config for a backbone variant.

    Raises:
        ConfigError: It is none of them.
    """
    folder = None
    if isinstance(source, str | PathLike):
        if str(source) in VARIANTS:
            if overrides or data is not None:
                raise ConfigError(f"{source} is a backbone variant and has no config keys to change")
            return None, None
        if near := difflib.get_close_matches(str(source), VARIANTS, n=1, cutoff=0.8):
            if not Path(source).exists():
                raise ConfigError(f'there is no backbone variant "{source}"; did you mean "{near[0]}"?')
        if Path(source).is_dir():
            folder = Path(source)
            source = folder / "config.py"
            if not source.is_file():
                raise ConfigError(f"{folder} is no run folder: it holds no config.py")
    config = load_config(source, overrides)
    if data is not None:
        config = load_config(config, {"data.root": str(data)})
    return config, folder


def _weights_file(weights: str | PathLike[str] | None, folder: Path | None) -> Path | None:
    """The weights that are named, or the best ones of a run folder."""
    if weights is None and folder is not None:
        if not (folder / WEIGHTS).is_file():
            raise WeightsError(f"{folder} holds no {WEIGHTS} yet: they are written after the first validation")
        return folder / WEIGHTS
    if weights is not None and not Path(weights).is_file():
        raise missing_file(Path(weights))
    return None if weights is None else Path(weights)


def test_size_of(source: Any, *, overrides: Sequence[str] | Mapping[str, Any] = ()) -> dict[str, int]:
    """The size at which a config tests, as arguments of `export_features`; empty for a backbone variant."""
    config, _ = find_config(source, None, overrides)
    return {} if config is None else task_of(config).test_size(config)


def name_of(source: Any) -> str:
    """What a source is called in messages."""
    return str(source) if isinstance(source, str | PathLike) else f"a {type(source).__name__}"


def build(config: Config, num_classes: int) -> Any:
    """The detector or segmenter of a config with random weights, which are always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return task_of(config).build_model(config.model, num_classes).eval()


def load_whole(network: nn.Module, weights: Path, class_names: Sequence[str]) -> LoadReport:
    """Loads weights that must cover every parameter: the score of a random head means nothing.

    Raises:
        WeightsError: Parameters are missing, or the weights belong to other classes.
    """
    named = read_class_names(weights)
    if named is not None and not same_classes(named, class_names):
        raise WeightsError(f"{weights} was trained on {', '.join(named)}; the data has {', '.join(class_names)}")
    report = load_weights(network, weights)
    if report.missing:
        raise WeightsError(
            f"{weights} does not hold the whole model: {len(report.missing)} parameters are missing, for instance "
            f"{next(iter(report.missing))}; train it first"
        )
    return report


def labels_of(config: Config, weights: Path | None) -> Labels:
    """What the labels mean that a model predicts, without any data where the weights say it themselves.

    Raises:
        WeightsError: The weights are of another task.
        DataError: The data is needed and cannot be read.
    """
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
    data = task.data_module(config)
    try:
        data.setup("validate")
    except DataError as error:
        names = None if task.needs_category_ids else read_class_names(weights)
        if names is not None:
            return Labels(names)
        what = "category ids" if task.needs_category_ids else "names"
        raise DataError(
            f"{error}\n{weights} does not hold the {what} of its classes, so they come from the data of the config: "
            "name its folder with --data"
        ) from error
    return task.labels(data)


def features_of(
    source: Any,
    weights: str | PathLike[str] | None = None,
    *,
    random_weights: bool = False,
    stages: Sequence[int] | None = None,
    neck: bool = False,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> Any:
    """A module from uint8 images to features: stages of a backbone, levels of a neck, with weights of any classes.

    Args:
        source: As for `load`.
        weights: Checkpoint; None takes those of a run folder.
        random_weights: Do without; always the same random ones.
        stages: Numbers of the backbone's stages, from 1; None takes all, or none where the neck is wanted.
        neck: Whether the levels of a config's neck are wanted.
        overrides: Changes of config keys.
    """
    if stages is not None and (not stages or min(stages) < 1 or sorted(set(stages)) != list(stages)):
        raise ConfigError(f"stages {tuple(stages)}: must be ascending numbers from 1, for instance 1,2,3,4")
    config, path = _config_and_weights(source, weights, random_weights, overrides)
    return as_feature_model(_feature_part(config, str(source), path, stages, neck)).eval()


def _feature_part(
    config: Config | None, variant: str, weights: Path | None, stages: Sequence[int] | None, neck: bool
) -> ModelPart:
    if config is None:
        if neck:
            raise ConfigError(
                f"{variant} is a backbone without a neck: name a detection config to get levels of an FPN"
            )
        backbone, report = _backbone(variant, weights, stages)
        part = ModelPart(backbone, backbone.feature_specs, description=variant)
        missing = () if report is None else tuple(note.name for note in report.missing)
    else:
        network, report = headless(config, weights, neck)
        part = replace(maps_of(network, () if stages is None and neck else stages, neck), description=_describe(config))
        kept = ("backbone.", "neck.") if neck else ("backbone.",)
        missing = () if report is None else tuple(n.name for n in report.missing if n.name.startswith(kept))
    return replace(part, weights="random" if weights is None else weights.name, missing=missing)


def load_part(
    source: Any,
    weights: str | PathLike[str] | None = None,
    *,
    part: str | None = None,
    random_weights: bool = False,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> ModelPart:
    """What is exported as one file.

    Args:
        source: As for `load`.
        weights: Checkpoint that holds all of the part; None takes those of a run folder.
        part: "backbone", "neck" (the neck's levels, with the backbone before it) or "whole"; None takes the most that
            there is.
        random_weights: Do without weights.
        overrides: Changes of config keys.
    """
    if part is not None and part not in PARTS:
        raise ConfigError(f'--part: unknown "{part}"; {nearest(part, PARTS)}')
    config, path = _config_and_weights(source, weights, random_weights, overrides)
    if config is None:
        if part not in (None, "backbone"):
            raise ConfigError(f"--part {part}: {source} is a backbone alone; name a config")
        return _feature_part(None, str(source), path, None, False)
    task = task_of(config)
    if part == "whole" or (part is None and task.exports_whole):
        names = labels_of(config, path).class_names
        network = build(config, len(names)).network
        if path is not None:
            load_whole(network, path, names)
        whole = task.whole(network)
        with torch.no_grad():
            (output,) = specs_of("p", whole(torch.zeros(1, 3, PROBE, PROBE)))
        preprocessing = replace(Preprocessing(*preprocessing_of(network)), divisor=1)
        outputs = (FeatureSpec("logits", output.channels, output.stride),)
        shown = names if path is not None else ()
        source_name = "random" if path is None else path.name
        return ModelPart(whole, outputs, preprocessing, "whole", _describe(config), shown, source_name)
    neck = config.model.get("neck") is not None if part is None else part == "neck"
    chosen = _feature_part(config, "", path, None if not neck else (), neck)
    if neck:
        return replace(chosen, name="neck")
    return replace(chosen, preprocessing=replace(chosen.preprocessing, divisor=1))  # a Swin pads inside its windows


def load_inspected(
    source: Any,
    weights: str | PathLike[str] | None = None,
    *,
    class_name: str | None = None,
    random_weights: bool = False,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> InspectedModel:
    """A model in plain form, to draw pictures of its features.

    Args:
        source: As for `load`.
        weights: Of all of it; None takes those of a run folder.
        class_name: The class that Grad-CAM explains; None takes the one that the model is surest of.
        random_weights: Do without weights.
        overrides: Changes of config keys.
    """
    from swin_dense.visualize.inspection import InspectedModel

    config, path = _config_and_weights(source, weights, random_weights, overrides)
    if config is None:
        if class_name is not None:
            raise ConfigError(f"--class {class_name}: {source} is a backbone alone and knows no classes; name a config")
        return InspectedModel(PlainSwin(_backbone(str(source), path)[0]).eval(), IMAGENET)
    names = labels_of(config, path).class_names
    whole = build(config, len(names))
    if path is not None:
        load_whole(whole.network, path, names)
    kind = type(whole.network.backbone)
    if not issubclass(kind, SwinTransformer):
        raise ConfigError(f"model.backbone is a {kind.__name__}; only a Swin can be looked into")
    plain: Any = traceable(whole)
    target = task_of(config).explained(plain, names, class_name)
    return InspectedModel(plain.network.backbone, Preprocessing(*preprocessing_of(plain.network)), target)


def _config_and_weights(
    source: Any,
    weights: str | PathLike[str] | None,
    random_weights: bool,
    overrides: Sequence[str] | Mapping[str, Any],
) -> tuple[Config | None, Path | None]:
    config, folder = find_config(source, None, overrides)
    if (weights is None and folder is None) != random_weights:
        raise ConfigError("this needs weights: pass --weights FILE, or --random-weights to do without, and not both")
    return config, None if random_weights else _weights_file(weights, folder)


def maps_of(network: Any, stages: Sequence[int] | None, neck: bool) -> ModelPart:
    """Stages and levels of a network as a part; images are padded as its heads see them."""
    maps = NetworkMaps(network, stages, neck).eval()
    preprocessing = Preprocessing(*preprocessing_of(network))
    return ModelPart(maps, maps.feature_specs, preprocessing, pyramid=maps.pyramid)


def _describe(config: Config) -> str:
    backbone = config.model["backbone"]
    return f"{config.model['type']} with {backbone.get('variant', backbone['type'])}"


def sizes_of(source: Any, height: int, width: int, *, overrides: Sequence[str] | Mapping[str, Any] = ()) -> ModelStats:
    """Parameters and multiply-adds of a config or a variant, for the published class count; no data set is read.

    Args:
        source: As for `load`.
        height: Of the image, in pixels.
        width: Likewise.
        overrides: Changes of config keys.
    """
    from swin_dense.stats import model_stats

    config, _ = find_config(source, None, overrides)
    if config is None:
        return model_stats(_backbone(str(source), None)[0], lambda module: module(_blank_image(module, height, width)))
    task = task_of(config)
    network = task.build_network(config.model, task.published_classes)
    return model_stats(network, lambda module: task.count_forward(module, height, width))


def _blank_image(module: nn.Module, height: int, width: int) -> Tensor:
    return torch.zeros(1, 3, height, width, device=next(module.parameters()).device)


def headless(config: Config, weights: Path | None, neck: bool) -> tuple[Any, LoadReport | None]:
    """The network of a config with the weights of backbone and, perhaps, neck alone; its heads are random.

    Raises:
        WeightsError: The file cannot be read, does not fit, or lacks the neck.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = task_of(config).build_network(config.model, ANY_CLASSES).eval()
    if weights is None:
        return network, None
    kept = {"backbone", "neck"} if neck else {"backbone"}
    report = load_weights(network, weights, ignore=sorted({name.split(".")[0] for name in network.state_dict()} - kept))
    if neck and any(note.name.startswith("neck.") for note in report.missing):
        raise WeightsError(f"{weights} holds a backbone alone: do without the neck, or take weights of the whole model")
    return network, report


def _backbone(
    variant: str, weights: Path | None, stages: Sequence[int] | None = None
) -> tuple[SwinTransformer, LoadReport | None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        backbone = create_backbone(variant)
        if stages is not None:
            names = [spec.name for spec in backbone.feature_specs]
            backbone = create_backbone(variant, out_indices=[place_of(stage, names) for stage in stages])
    report = None if weights is None else load_weights(backbone, weights)
    return backbone.eval(), report
