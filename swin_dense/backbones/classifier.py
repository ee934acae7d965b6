"""The classification form of the Swin Transformer: last norm, average pool, linear head (Swin paper, section 4.1).

That of Video Swin is the same with a pool over time too, and dropout before the head, as in I3D (arXiv 1705.07750).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from swin_dense.backbones.plain import PlainSwin
from swin_dense.backbones.swin import SwinTransformer
from swin_dense.backbones.variants import variant_options
from swin_dense.errors import ConfigError


class SwinClassifier(SwinTransformer):
    """Swin Transformer that gives each image, or clip of a video, one score per class.

    It is the backbone, with the same parameters under the same names, and `norm` and `head` behind its last stage:
    weights of a classifier drop into a detector with nothing to convert, and `load_weights` reports these two as left
    out. Images may have any size; the one that weights were trained at scores best. Where the map of a stage is no
    larger than its window along a dimension, the window shrinks to it and nothing shifts (`fit_windows`), as in the
    official code, in timm's models of that `img_size`, and in Video Swin; larger maps are padded to whole windows
    before the shift, as in dense models and torchvision. (torchvision pads smaller maps too; timm shifts larger ones
    before it pads them.)

    Attributes:
        num_classes: Number of classes K.

    Example:
        >>> import torch
        >>> from swin_dense.backbones import create_classifier
        >>> classifier = create_classifier("swin_nano", num_classes=10).eval()
        >>> with torch.inference_mode():
        ...     tuple(classifier(torch.rand(2, 3, 64, 64)).shape)
        (2, 10)
    """

    def __init__(
        self, num_classes: int = 1000, *, depths: Sequence[int] = (2, 2, 6, 2), dropout: float = 0.0, **options: Any
    ) -> None:
        """Builds the classifier with the official initialisation.

        Args:
            num_classes: Number of classes.
            depths: Blocks per stage.
            dropout: How often a pooled channel is zeroed in training.
            **options: The others of `SwinTransformer`, but for `out_indices` and `fit_windows`.

        Raises:
            ConfigError: An option is unknown, out of its range, or contradicts another.
        """
        if num_classes < 1:
            raise ConfigError(f"num_classes={num_classes}: must be at least 1")
        if fixed := {"out_indices", "fit_windows"} & options.keys():
            raise ConfigError(f"{', '.join(sorted(fixed))}: a classifier reads its last stage, with fitted windows")
        super().__init__(depths=depths, **options, out_indices=(len(depths) - 1,), fit_windows=True)
        self.options = {"depths": depths, **options}
        self.num_classes = num_classes
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.feature_specs[0].channels, num_classes)
        if len(self.window) == 2:
            nn.init.trunc_normal_(self.head.weight, std=0.02)
        else:
            nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def norm_name(self, index: int) -> str:
        """The norm of the last stage has the official name."""
        return "norm"

    def forward(self, images: Tensor) -> Any:
        """The logits (B, K) of normalised images (B, in_channels, H, W), or clips (B, in_channels, T, H, W)."""
        (features,) = super().forward(images)
        return self.head(self.dropout(pooled(features)))

    def with_maps(self, out_indices: Sequence[int]) -> SwinTransformer:
        """A backbone with the classifier's own parameters and windows that gives the maps of some stages, from 0.

        That of the last stage goes through `norm`, so that its mean is what the head sees; the others, which the
        classifier does not normalise, through output norms as they are initialised.
        """
        backbone = SwinTransformer(**self.options, out_indices=out_indices, fit_windows=True)
        backbone.patch_embed, backbone.absolute_pos_embed = self.patch_embed, self.absolute_pos_embed
        backbone.layers = self.layers
        if self.out_indices[0] in out_indices:
            backbone.add_module(backbone.norm_name(self.out_indices[0]), self.get_submodule("norm"))
        return backbone.train(self.training)


def pooled(features: Tensor) -> Tensor:
    """The mean over all places of maps (B, C, ...), as (B, C)."""
    return features.mean(tuple(range(2, features.ndim)))


class PlainClassifier(nn.Module):
    """A `SwinClassifier` in plain form, which exporters can trace at one size of images and people can look into."""

    def __init__(self, classifier: SwinClassifier) -> None:
        """Shares the parameters of a classifier."""
        super().__init__()
        self.backbone = PlainSwin(classifier.with_maps(range(len(classifier.depths))))
        self.head = classifier.head

    def forward(self, images: Tensor) -> Tensor:
        """The logits (B, K) of normalised images (B, in_channels, H, W), or clips (B, in_channels, T, H, W)."""
        logits: Tensor = self.head(pooled(self.backbone(images)[-1]))
        return logits


def create_classifier(name: str, num_classes: int = 1000, **overrides: Any) -> SwinClassifier:
    """Creates a classifier by the name of its backbone.

    Args:
        name: A key of `VARIANTS`.
        num_classes: Number of classes: 1000 of ImageNet-1K, 21841 of ImageNet-22K, 400 of Kinetics-400.
        **overrides: `dropout`, and options of `SwinTransformer`, such as `drop_path_rate`; they may also replace those
            of the variant.

    Returns:
        The classifier, newly initialised.

    Raises:
        ConfigError: The name or an option is unknown (the nearest known one is named), or an option's value is wrong.

    Example:
        >>> from swin_dense.backbones import create_backbone, create_classifier
        >>> from swin_dense.weights import load_weights
        >>> classifier, backbone = create_classifier("swin_nano"), create_backbone("swin_nano")
        >>> report = load_weights(backbone, classifier.state_dict())
        >>> [f"{note.name}: {note.reason}" for note in report.skipped][::2]
        ['norm.weight: last norm of a classifier', 'head.weight: head of a classifier']
    """
    dropout = overrides.pop("dropout", 0.0)
    return SwinClassifier(num_classes, dropout=dropout, **variant_options(name, overrides))
