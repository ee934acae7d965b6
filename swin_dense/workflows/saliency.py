"""What in an image speaks for what a model says of it: Grad-CAM (arXiv 1610.02391) by the package grad-cam.

Its element-wise form is taken: each place is weighed by its own gradient. Plain Grad-CAM weighs all places by the mean
gradient of the whole image, which says little about one object of many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from swin_dense.backbones import SwinTransformer, create_backbone
from swin_dense.backbones.plain import PlainSwin
from swin_dense.config import Config, SegmentationConfig
from swin_dense.errors import ConfigError, DataError, nearest
from swin_dense.export.graph import Preprocessing
from swin_dense.export.models import IMAGENET_MEAN, IMAGENET_STD
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.openmmlab.segmentation import OpenMMLabSegmenter
from swin_dense.records import Batch
from swin_dense.tasks.trained import labels_of, load_whole_model
from swin_dense.weights import load_weights
from swin_dense.workflows.parts import declared_classes, preprocessing_of, traceable

DIVISOR = 32
"""Images are padded to multiples of this many pixels here, as detectors do anyway, so that maps cover all of it."""


@dataclass(frozen=True)
class Explanation:
    """Heat maps of one image.

    Attributes:
        target: What they explain.
        maps: (H, W) in 0..1, one per layer.
    """

    target: str
    maps: list[NDArray[np.float32]]


class Score(nn.Module):
    """A model with one number to be explained."""

    def __init__(self, model: nn.Module, score: Callable[[nn.Module, Tensor], Tensor]) -> None:
        """Wraps a model.

        Args:
            model: Any.
            score: Of the model and images (1, 3, H, W), 0..255, the number as (1,).
        """
        super().__init__()
        self.model, self.score = model, score

    def forward(self, images: Tensor) -> Tensor:
        """The number, (1,)."""
        return self.score(self.model, images)


@dataclass(frozen=True)
class Saliency:
    """A model that can be looked into.

    Attributes:
        backbone: Its backbone, in plain form.
        preprocessing: What the backbone expects.
        model: The whole, around `backbone`.
        class_names: Of what it predicts; empty for a backbone alone.
        class_name: The class to explain; None takes the one that the model is surest of.
    """

    backbone: PlainSwin
    preprocessing: Preprocessing
    model: nn.Module
    class_names: Sequence[str]
    class_name: str | None

    def preprocess(self, images: Tensor) -> Tensor:
        """Normalises images (B, 3, H, W) uint8 RGB."""
        mean, std = (torch.tensor(one).view(3, 1, 1) for one in (self.preprocessing.mean, self.preprocessing.std))
        normalised = (images.float() - mean) / std
        return normalised.flip(1) if self.preprocessing.bgr else normalised

    def explain(self, image: Tensor, layers: Sequence[nn.Module]) -> Explanation:
        """Draws Grad-CAM's heat maps.

        Args:
            image: (3, H, W) uint8 RGB.
            layers: Blocks of `backbone`, whose outputs are weighed.

        Returns:
            One map per layer.

        Raises:
            ConfigError: grad-cam is not installed.
            DataError: The class to explain is not found in the image.
        """
        try:
            from pytorch_grad_cam import GradCAMElementWise
        except ImportError as error:
            raise ConfigError('grad-cam is not installed: pip install "swin-dense[grad-cam]"') from error
        height, width = image.shape[1:]
        images = functional.pad(image[None], (0, -width % DIVISOR, 0, -height % DIVISOR))
        target, score = self._target(images, (height, width))
        model = Score(self.model, score).requires_grad_(True)
        maps = []
        for layer in layers:
            with GradCAMElementWise(model, [layer], reshape_transform=_channels_first) as grad_cam:
                heat = grad_cam(images, [lambda score: score])[0]
            maps.append(heat[:height, :width])
        return Explanation(target, maps)

    def _target(self, images: Tensor, size: tuple[int, int]) -> tuple[str, Callable[[Any, Tensor], Tensor]]:
        if isinstance(self.model, OpenMMLabDetector):
            with torch.no_grad():
                found = self.model.predict(_batch(images, size))[0]
            label = self._label(found.labels[:1].tolist(), set(found.labels.tolist()))
            if label is not None:
                return f"score of the surest {self.class_names[label]}", lambda model, x: _object_score(
                    model, x, size, label
                )
        elif isinstance(self.model, OpenMMLabSegmenter):
            with torch.no_grad():
                areas = self.model.logits(images).argmax(1).flatten().bincount()
            label = self._label([int(areas.argmax())], set(areas.nonzero().flatten().tolist()))
            assert label is not None
            return f"logits where it sees {self.class_names[label]}", lambda model, x: _area_score(model, x, label)
        prefix = "nothing is detected; " if isinstance(self.model, OpenMMLabDetector) else ""
        return f"{prefix}length of the mean feature vector of the last stage", lambda _, x: self._length(x)

    def _label(self, surest: list[int], found: set[int]) -> int | None:
        if self.class_name is None:
            return surest[0] if surest else None
        if self.class_name not in self.class_names:
            raise ConfigError(f'--class: unknown "{self.class_name}"; {nearest(self.class_name, self.class_names)}')
        label = list(self.class_names).index(self.class_name)
        if label not in found:
            names = ", ".join(self.class_names[one] for one in sorted(found)) or "nothing"
            raise DataError(f"the model finds no {self.class_name} in the image, but {names}")
        return label

    def _length(self, images: Tensor) -> Tensor:
        """A backbone alone has no class; this asks which places make the image's descriptor what it is."""
        lengths: Tensor = self.backbone(self.preprocess(images))[-1].mean((2, 3)).norm(dim=1)
        return lengths


def saliency_of(model: Config | str, weights: Path | None, class_name: str | None) -> Saliency:
    """Builds a model in plain form and loads its weights.

    Args:
        model: A config, or the name of a backbone variant.
        weights: Of all of it; None leaves random weights.
        class_name: The class to explain.

    Returns:
        The model.

    Raises:
        SwinDenseError: The model cannot be built, the weights do not fit, or a backbone was given a class.
    """
    torch.manual_seed(0)
    if isinstance(model, str):
        if class_name is not None:
            raise ConfigError(f"--class {class_name}: {model} is a backbone alone and knows no classes; name a config")
        backbone = create_backbone(model)
        if weights is not None:
            load_weights(backbone, weights)
        plain = PlainSwin(backbone.eval()).eval()
        return Saliency(plain, Preprocessing(IMAGENET_MEAN, IMAGENET_STD), plain, (), None)
    names = _class_names(model, weights)
    kind = OpenMMLabSegmenter if isinstance(model, SegmentationConfig) else OpenMMLabDetector
    whole = kind(model.model, len(names)).eval()
    if weights is not None:
        load_whole_model(whole.network, weights, names)
    if not isinstance(whole.network.backbone, SwinTransformer):
        raise ConfigError(
            f"model.backbone is a {type(whole.network.backbone).__name__}; only a Swin can be looked into"
        )
    copy: Any = traceable(whole)
    return Saliency(copy.network.backbone, preprocessing_of(copy.network, padded=False), copy, names, class_name)


def _class_names(config: Config, weights: Path | None) -> Sequence[str]:
    if weights is not None:
        return tuple(labels_of(weights, config)["class_names"])
    return tuple(f"class {number}" for number in range(1, declared_classes(config.model) + 1))


def _batch(images: Tensor, size: tuple[int, int]) -> Batch:
    return Batch(images, sizes=(size,), original_sizes=(size,), image_ids=(0,), file_names=("image",))


def _object_score(detector: Any, images: Tensor, size: tuple[int, int], label: int) -> Tensor:
    (found,) = detector.predict(_batch(images, size))
    score: Tensor = found.scores[found.labels == label][:1]  # best first
    return score


def _area_score(segmenter: Any, images: Tensor, label: int) -> Tensor:
    logits = segmenter.logits(images)
    score: Tensor = logits[:, label][logits.argmax(1) == label].sum()[None]
    return score


def _channels_first(tokens: Tensor) -> Tensor:
    return tokens.permute(0, 3, 1, 2)
