"""Image classification: all that is said of the task."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from swin_dense.backbones import VARIANTS, SwinClassifier, create_classifier
from swin_dense.config.classification import ClassificationAugmentationConfig, ClassificationConfig
from swin_dense.errors import ConfigError, DataError, WeightsError, nearest, option
from swin_dense.export.models import IMAGENET, ModelPart
from swin_dense.files import atomic_write
from swin_dense.inference.classification import ClassificationInference, ImageClassifier
from swin_dense.records import Classification
from swin_dense.tasks.base import Demo, Labels, Result, Task, below
from swin_dense.weights.files import read_checkpoint, unwrap

if TYPE_CHECKING:
    from swin_dense.data.imagenet import ImageNetDataModule
    from swin_dense.data.transforms import Transform
    from swin_dense.images.labelled import ClassList
    from swin_dense.report.page import Section
    from swin_dense.training import ClassifierModule

MODEL, BACKBONE = "ImageClassifier", "SwinDense"
"""Types of a model dict and of its backbone."""

HEAD = re.compile(r"(?:.*\.)?(?:head|head\.fc|classifier)\.(?:weight|bias)")
"""Names of a classifier's head in every known format."""

SHOWN = 5
"""Classes in a picture."""


@dataclass(frozen=True, repr=False)
class ClassificationResult(Result):
    """How sure each class is in one image.

    Attributes:
        image: (3, H, W) uint8 RGB.
        probabilities: (K,) float32 in 0..1, adding up to 1.
        class_names: By label.

    Example:
        >>> import torch
        >>> found = ClassificationResult(torch.zeros(3, 16, 16).byte(), torch.tensor([0.25, 0.75]), ("cat", "dog"))
        >>> found.name, found.top(2)
        ('dog', [('dog', 0.75), ('cat', 0.25)])
    """

    image: Tensor
    probabilities: Tensor
    class_names: tuple[str, ...]

    def __repr__(self) -> str:
        """Such as `ClassificationResult(tabby 71%, tiger cat 20%, ...)`."""
        shown = [f"{name} {share:.0%}" for name, share in self.top(3)]
        return f"{type(self).__name__}({', '.join(shown)}{', ...' if len(self.class_names) > 3 else ''})"

    @property
    def label(self) -> int:
        """The surest class, a position in `class_names`."""
        return int(self.probabilities.argmax())

    @property
    def name(self) -> str:
        """Its name."""
        return self.class_names[self.label]

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Names and probabilities of the surest classes, surest first."""
        order = self.probabilities.sort(descending=True, stable=True).indices[:count].tolist()
        return [(self.class_names[label], float(self.probabilities[label])) for label in order]

    def draw(self) -> Image.Image:
        """The image, or frames of a video, with its surest classes below; small ones are enlarged by a whole factor."""
        from swin_dense.visualize.classification import draw_classification

        return Image.fromarray(draw_classification(self.image, self.top(SHOWN)))

    def to_coco(self) -> list[dict[str, Any]]:
        """One row for each class, surest first: category and score."""
        return [{"category": name, "score": share} for name, share in self.top(len(self.class_names))]

    def to_supervision(self) -> Any:
        """All classes as `supervision.Classifications`."""
        import supervision

        labels = np.arange(len(self.class_names))
        return supervision.Classifications(class_id=labels, confidence=self.probabilities.numpy())


class ClassificationTask(Task[ClassificationConfig]):
    """Image classification."""

    demo = Demo("swin-nano_shapes", "imagenet", "top-1 accuracy", "swin-t_300e_in1k", "ImageNet")
    published_classes = None
    prediction_folders = ()
    exports_whole = True
    options = frozenset[str]()
    predicts = "the classes of {rows} images in {output}/predictions.csv, pictures beside it"

    def data_module(self, config: ClassificationConfig) -> ImageNetDataModule:
        from swin_dense.data.classification_transforms import CentreView
        from swin_dense.data.imagenet import ImageNetDataModule

        data, root = config.data, Path(config.data.root)
        augmentation = config.augmentation
        return ImageNetDataModule(
            train_images=root / data.train.images,
            train_labels=below(root, data.train.labels),
            val_images=root / data.val.images,
            val_labels=below(root, data.val.labels),
            classes=below(root, data.classes),
            train_transform=train_transform(augmentation),
            test_transform=CentreView(augmentation.size, augmentation.test_resize),
            batch_size=data.batch_size,
            eval_batch_size=data.eval_batch_size,
            num_workers=data.num_workers,
            seed=config.training.seed,
            limit_images=data.limit_images,
        )

    def build_model(self, model: Mapping[str, Any], num_classes: int) -> ImageClassifier:
        return ImageClassifier(self.build_network(model, num_classes))

    def build_network(self, model: Mapping[str, Any], num_classes: int) -> SwinClassifier:
        network = build_classifier(model, num_classes)
        if len(network.window) != 2:
            raise ConfigError(
                "model.backbone: a classifier of images has windows of (rows, columns); name one such as swin_tiny"
            )
        return network

    def initial_weights(self, config: ClassificationConfig, weights: Path) -> Path | Mapping[str, Tensor]:
        if config.data.class_map is None:
            return weights
        tensors, _ = unwrap(read_checkpoint(weights), str(weights))
        return with_mapped_head(tensors, Path(config.data.root) / config.data.class_map)

    def lightning_module(self, config: ClassificationConfig, model: Any, **settings: Any) -> ClassifierModule:
        from swin_dense.training import ClassifierModule
        from swin_dense.training.modules import Mixing

        augmentation = config.augmentation
        mixing = Mixing(
            augmentation.mixup,
            augmentation.cutmix,
            augmentation.mix_probability,
            augmentation.switch_probability,
            augmentation.erase_probability,
        )
        inference, smoothing = self.inference(config, config.data.eval_batch_size), augmentation.label_smoothing
        return ClassifierModule(model, None, inference, mixing=mixing, label_smoothing=smoothing, **settings)

    def inference(self, config: ClassificationConfig, batch_size: int, **options: Any) -> ClassificationInference:
        from swin_dense.data.classification_transforms import CentreView

        augmentation = config.augmentation
        return ClassificationInference(
            CentreView(augmentation.size, augmentation.test_resize).of, flip=config.inference.flip
        )

    def labels(self, data: Any) -> Labels:
        return Labels(tuple(data.class_names))

    def listed_labels(self, config: Any) -> Labels | None:
        return None if config.data.classes is None else Labels(self._class_list(config).names)

    def _class_list(self, config: Any) -> ClassList:
        from swin_dense.images.labelled import read_class_list

        return read_class_list(Path(config.data.root) / config.data.classes)

    def test_size(self, config: ClassificationConfig) -> dict[str, int]:
        short_side = config.augmentation.test_resize or config.augmentation.size
        return {"short_side": short_side, "max_long_side": 8 * short_side}

    def result(
        self, image: Any, found: Classification, labels: Labels, threshold: float | None
    ) -> ClassificationResult:
        if threshold is not None:
            raise ConfigError("threshold: every class of an image has a probability; take as many as you want with top")
        return ClassificationResult(image, found.probabilities.cpu(), labels.class_names)

    def write(
        self, result: ClassificationResult, output: Path, stem: str, config: ClassificationConfig
    ) -> list[dict[str, Any]]:
        top = result.top(config.inference.top)
        return [{"classes": [name for name, _ in top], "probabilities": [share for _, share in top]}]

    def write_table(self, rows: Sequence[Mapping[str, Any]], output: Path) -> None:
        ranks = range(1, max((len(row["classes"]) for row in rows), default=0) + 1)
        with (
            atomic_write(output / "predictions.csv") as unfinished,
            unfinished.open("w", encoding="utf-8", newline="") as file,
        ):
            table = csv.writer(file)
            table.writerow(["file_name", *(f"{what}{rank}" for rank in ranks for what in ("class", "probability"))])
            for row in rows:
                pairs = zip(row["classes"], row["probabilities"], strict=True)
                table.writerow([row["file_name"], *(value for pair in pairs for value in pair)])

    def draw_validation(self, data: Any, image_id: int, found: Classification, path: Path) -> None:
        from swin_dense.visualize.classification import draw_classification
        from swin_dense.visualize.pictures import save_picture

        sample = data.val_dataset[image_id]
        best = ClassificationResult(sample.image, found.probabilities.cpu(), data.class_names).top(SHOWN)
        save_picture(path, draw_classification(sample.image, best, data.class_names[sample.label]))

    def prediction_writer(self, config: ClassificationConfig, output: Path) -> Callable[[str, Any], None] | None:
        if output.suffix == ".csv":
            raise ConfigError(f"{option('predictions', str(output))}: name a JSON file; predict writes CSV too")
        return None

    def report(self, config: ClassificationConfig, predictions: Path) -> tuple[dict[str, float], list[Section]]:
        from swin_dense.metrics.accuracy import Row
        from swin_dense.report.classification import (
            ClassificationEvidence,
            classification_headline,
            classification_sections,
        )

        data: Any = self.data_module(config)
        data.setup("validate")
        place = {name: label for label, name in enumerate(data.class_names)}
        labels = data.val_dataset.labels
        rows = [
            Row(
                int(labels[image_id]),
                tuple(place[name] for name in row["classes"]),
                row["file_name"],
                tuple(row["probabilities"]),
            )
            for image_id, row in zip(
                sorted(data.val_image_ids), json.loads(predictions.read_text(encoding="utf-8")), strict=True
            )
        ]
        evidence = ClassificationEvidence(rows, data.class_names, lambda row: data.val_dataset[row].image, self.items)
        return classification_headline(evidence), classification_sections(evidence)

    def check_data(self, config: ClassificationConfig, progress: Any) -> dict[str, Any]:
        from swin_dense.images.labelled_check import check_labelled

        data, root = config.data, Path(config.data.root)
        splits = {
            name: (root / split.images, below(root, split.labels))
            for name, split in (("train", data.train), ("val", data.val))
        }
        reports: dict[str, Any] = check_labelled(splits, below(root, data.classes), progress=progress)
        return reports

    def whole(self, network: Any) -> nn.Module:
        return WholeClassifier(network).eval()

    def whole_size(self, config: ClassificationConfig) -> tuple[int, ...] | None:
        return config.augmentation.size, config.augmentation.size

    def preprocessing(self, network: Any) -> Any:
        return IMAGENET

    def heads(self, network: nn.Module, neck: bool) -> list[str]:
        return ["head"]

    def maps(self, network: Any, stages: Sequence[int] | None, neck: bool) -> ModelPart:
        if neck:
            raise ConfigError("model: a classifier has no neck; ask for stages of the backbone")
        count = len(network.depths)
        wanted = range(1, count + 1) if stages is None else stages
        if unknown := [stage for stage in wanted if not 1 <= stage <= count]:
            raise ConfigError(f"the backbone emits stages 1 to {count}; there is no stage{unknown[0]}")
        backbone = network.with_maps([stage - 1 for stage in wanted]).eval()
        return ModelPart(backbone, backbone.feature_specs)

    def explained(self, model: Any, class_names: Sequence[str], class_name: str | None) -> Any:
        from swin_dense.visualize.inspection import class_target

        return class_target(model, class_names, class_name)

    def count_forward(self, network: Any, height: int, width: int, config: ClassificationConfig) -> None:
        network(torch.zeros(1, 3, height, width, device=next(network.parameters()).device))


TASK = ClassificationTask()


class WholeClassifier(nn.Module):
    """A network from normalised images (B, 3, H, W) to a tuple of its logits."""

    def __init__(self, network: SwinClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """The logits (B, K)."""
        return (self.network(images),)


def with_mapped_head(tensors: Mapping[str, Tensor], class_map: Path) -> dict[str, Tensor]:
    """Weights of any format whose head has the classes that a map names, in its order."""
    try:
        rows = [int(line) for line in class_map.read_text(encoding="utf-8-sig").split()]
    except (OSError, ValueError) as error:
        raise DataError(f"{class_map}: is no file of one number per class ({error})") from error
    heads = [name for name in tensors if HEAD.fullmatch(name)]
    if not heads:
        raise WeightsError("data.class_map: the weights have no head whose classes could be used again; leave it out")
    count = min(len(tensors[name]) for name in heads)
    if not rows or not 0 <= min(rows) <= max(rows) < count:
        raise DataError(f"{class_map}: its numbers must be from 0 to {count - 1}, the classes of the weights")
    return {name: tensor[rows] if name in heads else tensor for name, tensor in tensors.items()}


def build_classifier(model: Mapping[str, Any], num_classes: int, kind: str = MODEL) -> SwinClassifier:
    """The classifier of a model dict of this type, with fresh weights."""
    _check_keys("model", model, ("type", "backbone", "head"), kind)
    backbone, head = model.get("backbone"), model.get("head", {})
    if not isinstance(backbone, Mapping) or not isinstance(head, Mapping):
        raise ConfigError(f'model: needs backbone=dict(type="{BACKBONE}", variant=...)')
    _check_keys("model.head", head, ("num_classes", "dropout"), None)
    options = {**backbone, "dropout": head.get("dropout", 0.0)}
    if options.pop("type", None) != BACKBONE:
        raise ConfigError(f'model.backbone.type: a classifier has type="{BACKBONE}"')
    variant = options.pop("variant", None)
    if variant not in VARIANTS:
        raise ConfigError(f"model.backbone.variant: no {variant!r}; {nearest(str(variant), VARIANTS)}")
    try:
        return create_classifier(variant, num_classes, **options)
    except ConfigError as error:
        raise ConfigError(f"model.backbone: {error}") from error


def _check_keys(key: str, part: Mapping[str, Any], known: Sequence[str], kind: str | None) -> None:
    if kind is not None and part.get("type") != kind:
        raise ConfigError(f'{key}.type: a classification model has type="{kind}", not {part.get("type")!r}')
    for name in part:
        if name not in known:
            raise ConfigError(f'{key}: unknown key "{name}"; {nearest(str(name), known)}')


def train_transform(augmentation: ClassificationAugmentationConfig) -> Transform:
    """The random transform of training images."""
    from swin_dense.data.classification_transforms import random_part
    from swin_dense.data.user_transforms import with_user_transforms

    part = random_part(
        augmentation.size,
        augmentation.scale,
        augmentation.ratio,
        augmentation.flip_probability,
        augmentation.rand_augment,
    )
    return with_user_transforms([part], augmentation.extra)
