"""What differs between tasks, said once for each: data, model, training, inference, results, and how they are written.

Everything is built on demand; a task object holds no state. mm* and Lightning are imported where they are needed.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from PIL import Image
from torch import Tensor, nn

from swin_dense.config import Config
from swin_dense.errors import ConfigError, DataError, option, setting
from swin_dense.images.finder import SUFFIXES, ImageFiles, ImageSource, each_image, is_single, is_video_file, read_image
from swin_dense.records import Sample

if TYPE_CHECKING:
    from swin_dense.data.datamodule_base import ImageDataModule
    from swin_dense.export.models import ModelPart, Preprocessing, WholeDetector
    from swin_dense.report.page import Section
    from swin_dense.training.base import DenseModule

ConfigT = TypeVar("ConfigT", bound="Config")

ANY_CLASSES = 80
"""The class count where neither weights, nor data, nor the model dict give one."""

WAYS_OUT = {
    "data.train_stuff": "without stuff maps set model.roi_head.semantic_head and "
    "model.roi_head.semantic_roi_extractor to None"
}
"""What else can be done about the path of a key."""


def below(root: Path, name: str | None) -> Path | None:
    """A file or folder of a data set; None where none is named."""
    return None if name is None else root / name


class Labels(NamedTuple):
    """What the numbers mean that a model predicts, by label 0..K-1."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...] | None = None  # of a COCO data set
    palette: tuple[tuple[int, int, int], ...] | None = None  # RGB of 0..255, where the data set brings colours

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Labels:
        """Those that weights keep beside them; `class_names` at least."""
        ids, palette = metadata.get("category_ids"), metadata.get("palette")
        return cls(
            tuple(metadata["class_names"]),
            None if ids is None else tuple(ids),
            None if palette is None else tuple((int(r), int(g), int(b)) for r, g, b in palette),
        )

    def metadata(self) -> dict[str, Any]:
        """The known ones by name, as weights keep them; ready for JSON."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Demo(NamedTuple):
    """The demo of a task."""

    config: str  # its name
    folder: str  # where its data lies in the data set
    metric: str  # what its curves show beside the losses
    recipe: str  # a full-size config to go on with
    data: str  # what that one is trained on
    moving: bool = False  # whether its data set are the moving shapes, not the shapes


class Inputs(NamedTuple):
    """What a task predicts on: how it is told apart, found and read."""

    is_single: Callable[[object], bool]  # whether what a user has passed is a single one
    each: Callable[[Any], Iterator[Any]]  # the single ones of what a user has passed
    read: Callable[[Any], Sample]  # one of them
    files: Callable[[Sequence[Path], Path], ImageFiles]  # those of files and folders, without what lies in the output
    suffixes: tuple[str, ...]  # of files


def _read_image(image: Any) -> Sample:
    path = image.path if isinstance(image, ImageSource) else image
    if is_video_file(path):
        frames = f"iter(swin_dense.videos.reader.VideoFile({str(path)!r}))"
        raise DataError(f"{path}: a video where an image is expected; pass its frames, {frames}")
    pixels = read_image(image)
    return Sample(pixels, 0, "image", (pixels.shape[1], pixels.shape[2]))


class Result(ABC):
    """What was predicted in one image, (3, H, W) uint8 RGB, or video; shown as a picture in a notebook."""

    image: Any

    @abstractmethod
    def draw(self) -> Image.Image:
        """The image with what was predicted drawn on it."""

    @abstractmethod
    def to_coco(self) -> list[dict[str, Any]]:
        """What was predicted as rows that are ready for JSON; COCO's where it has such."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.draw().save(file, "PNG")
        return file.getvalue()


class Task(ABC, Generic[ConfigT]):
    """One task; `swin_dense.tasks.task_of(config)` finds it."""

    demo: Demo
    published_classes: int | None  # class count that published sizes are given for; None where model dicts say it
    needs_category_ids = False  # whether weights have to know the ids of a COCO data set, too
    memorised = ("top1", 0.99)  # a metric, and what it is at least on images that a model has learnt by heart
    lowest_score: float | None = None  # the threshold of `result` that keeps everything, where there are scores
    prediction_folders: tuple[str, ...] = ()  # folders that predictions use besides the output itself
    pictures = "."  # the one of them for pictures, and videos
    takes_frames = False  # whether it predicts on the frames of videos, too
    imported_as: str | None = None  # the form in which it reads what `import-data` has imported, where it does
    exports_whole = False  # whether the whole model can be exported as one graph
    options: frozenset[str]  # of predictions and evaluations, those that not every task takes
    items = "images"  # what they are called that it predicts on
    predicts: str  # what `write` has written, for people; "{rows}" and "{output}" are the count and the place

    @abstractmethod
    def data_module(self, config: ConfigT) -> ImageDataModule:
        """The data of a config, nothing read yet."""

    @abstractmethod
    def build_model(self, model: Mapping[str, Any], num_classes: int) -> Any:
        """The detector, segmenter or classifier of a model dict, with fresh weights, around its `network`."""

    @abstractmethod
    def build_network(self, model: Mapping[str, Any], num_classes: int) -> Any:
        """The network alone."""

    def initial_weights(self, config: ConfigT, weights: Path) -> Path | Mapping[str, Tensor]:
        """What a training starts from, where the config says more of it than the file: tensors by name."""
        return weights

    def training_module(self, config: ConfigT, data: Any, model: Any, **options: Any) -> DenseModule:
        """The Lightning module around a model of `build_model`; `options` are the metric's: detection's `engine`.

        The data, of `data_module` and set up, gives the classes and the ground truth of the validation.
        """
        schedule = {name: value for name, value in vars(config.schedule).items() if name != config.schedule.unit}
        training = {"patience": config.training.nonfinite_patience, "seed": config.training.seed}
        module = self.lightning_module(config, model, **vars(config.optimizer), **schedule, **training)
        module.metric = module.make_metric(data, **options)
        return module

    @abstractmethod
    def lightning_module(self, config: ConfigT, model: Any, **settings: Any) -> DenseModule:
        """The task's Lightning module without a metric; `settings` are those that all tasks take of a config."""

    @abstractmethod
    def inference(self, config: ConfigT, batch_size: int, **options: Any) -> Any:
        """How images are predicted on: `predict(model, batch)`, one record for each image.

        The model sees `batch_size` views at a time; `options` is segmentation's `probabilities`.
        """

    def for_evaluation(self, config: ConfigT) -> ConfigT:
        """The config by which trained weights are scored, where validation looks at less while a training runs."""
        return config

    def inputs(self, config: ConfigT) -> Inputs:
        """What it predicts on."""
        files = partial(ImageFiles, videos=True) if self.takes_frames else ImageFiles
        return Inputs(is_single, each_image, _read_image, files, SUFFIXES)

    @abstractmethod
    def labels(self, data: Any) -> Labels:
        """What the labels of a data module, set up, mean."""

    def listed_labels(self, config: ConfigT) -> Labels | None:
        """What labels mean by the class list that a config names; None where the data has to be read for it."""
        return None

    @abstractmethod
    def test_size(self, config: ConfigT) -> dict[str, int]:
        """The test size as `short_side` and `max_long_side`; empty where images keep their size."""

    def clip(self, config: ConfigT) -> dict[str, int]:
        """The clips of a video as `frames`, `stride` and `segments`; empty where it is images that are looked at."""
        return {}

    @abstractmethod
    def result(self, image: Any, found: Any, labels: Labels, threshold: float | None) -> Result:
        """What was found in one image, (3, H, W) uint8 RGB, in the form that users see.

        `found` is a record of `inference`; None takes the task's default threshold of scores, where there are scores.
        """

    def shown(self, result: Any, threshold: float | None) -> Any:
        """What is drawn of one image's whole result; None takes the task's default threshold, where there is one."""
        return result

    @abstractmethod
    def write(self, result: Any, output: Path, stem: str, config: ConfigT) -> list[dict[str, Any]]:
        """Writes files beside the pictures, named `stem`, of one result; returns its rows of `predictions.json`."""

    def write_table(self, rows: Sequence[Mapping[str, Any]], output: Path) -> None:
        """Writes all rows of `predictions.json` in a further form, where the task has one."""

    @abstractmethod
    def draw_validation(self, data: Any, image_id: int, found: Any, path: Path) -> None:
        """Draws ground truth beside prediction for one validation image of a data module."""

    @abstractmethod
    def prediction_writer(self, config: ConfigT, output: Path) -> Callable[[str, Any], None] | None:
        """Writes each validation image's prediction into a folder; None where all go to one JSON file of `results`."""

    def predictions_path(self, config: ConfigT, folder: Path) -> Path:
        """Where an evaluation writes its predictions in a folder: another one, or a JSON file."""
        path = folder / "predictions"
        return path.with_suffix(".json") if self.prediction_writer(config, path) is None else path

    def write_metrics(self, config: ConfigT, scores: Mapping[str, Any], predictions: Path, folder: Path) -> None:
        """Writes CSV tables about an evaluation and its predictions into a folder."""
        from swin_dense.metrics.tables import write_class_table

        write_class_table(scores, folder)

    @abstractmethod
    def report(self, config: ConfigT, predictions: Path) -> tuple[dict[str, float], list[Section]]:
        """The headline scores in percent, and what a report shows, of predictions on the validation images.

        They are in the form of an evaluation: a folder of `prediction_writer`'s files, or one JSON file.
        """

    @abstractmethod
    def check_data(self, config: ConfigT, progress: Any) -> dict[str, Any]:
        """Reports by split on the data of a config; each has `ok` and `to_dict`."""

    def whole(self, network: Any) -> nn.Module:
        """The network from preprocessed images (B, 3, H, W) to what it predicts, as one graph, where there is one."""
        raise ConfigError(f"{option('part', 'whole')}: there is no such form; use {option('part', 'backbone')}")

    def whole_detector(self, config: ConfigT, model: Any) -> WholeDetector | None:
        """What else an export must know of the whole model where it finds objects."""
        return None

    def whole_size(self, config: ConfigT) -> tuple[int, ...] | None:
        """Height and width of the images that the whole model takes, frames before them; None where any will do."""
        return None

    def exported(self, path: Path, class_names: Sequence[str], model: Any) -> Any:
        """An ONNX file of the whole model, in the place of the model."""
        from swin_dense.export.graph import ExportedLogits, whole_model

        return ExportedLogits(whole_model(path, class_names, ["logits"]), getattr(model, "align_corners", False))

    def preprocessing(self, network: Any) -> Preprocessing:
        """What the network expects to have been done to images."""
        from swin_dense.export.models import Preprocessing
        from swin_dense.openmmlab.features import preprocessing_of

        return Preprocessing(*preprocessing_of(network))

    def heads(self, network: nn.Module, neck: bool) -> list[str]:
        """The parts of a network that its maps do not need, with or without those of its neck."""
        kept = {"backbone", "neck"} if neck else {"backbone"}
        return sorted({name.split(".")[0] for name in network.state_dict()} - kept)

    def maps(self, network: Any, stages: Sequence[int] | None, neck: bool) -> ModelPart:
        """Stages (from 1; None: all) and levels of a network as a part; images are padded as its heads see them."""
        from swin_dense.export.models import ModelPart
        from swin_dense.openmmlab.features import NetworkMaps

        maps = NetworkMaps(network, stages, neck).eval()
        return ModelPart(maps, maps.feature_specs, self.preprocessing(network), pyramid=maps.pyramid)

    @abstractmethod
    def explained(self, model: Any, class_names: Sequence[str], class_name: str | None) -> Any:
        """What Grad-CAM explains of a model: the class that is named, or the one that it is surest of."""

    def inspected_reader(self, config: ConfigT) -> Callable[[Path], Tensor] | None:
        """Reads what is looked into, where it is no image: a clip (T, 3, H, W) of a file."""
        return None

    @abstractmethod
    def count_forward(self, network: Any, height: int, width: int, config: ConfigT) -> None:
        """Runs the layers that published sizes count, on a blank image of this size in pixels."""


def path_notes(config: Config) -> dict[Path, str]:
    """What to add to an error about a path of a config: by path, the key that names it and how to name another."""
    root = config.data.root
    return {Path(root) / value: _note(key, value, root) for key, value in _paths(asdict(config.data), "data")}


def _paths(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Every text but the root, with its key: the data of a config has no other texts than paths."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}.{name}")
        elif isinstance(value, str) and name != "root":
            yield f"{prefix}.{name}", value


def _note(key: str, value: str, root: str) -> str:
    note = (
        f"{key} below data.root={root}; {option('data', 'FOLDER')} names the folder of the data set, {setting(key)} "
        "another place"
    )
    if Path(value).is_absolute():
        note = f"{key}; {setting(key)} names another place"
    return f"{note}; {WAYS_OUT[key]}" if key in WAYS_OUT else note


def declared_classes(model: Mapping[str, Any]) -> int:
    """The class count that a model dict gives, where no weights and no data give another."""
    heads = model.get("decode_head") or model.get("bbox_head") or model.get("roi_head", {}).get("bbox_head")
    heads = heads or model.get("head")
    head = heads[-1] if isinstance(heads, list) else heads
    return int(head["num_classes"]) if isinstance(head, dict) and "num_classes" in head else ANY_CLASSES
