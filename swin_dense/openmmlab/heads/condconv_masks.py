"""The masks of Mask RepPoints V2: each object brings the weights of a small network that draws it (CondInst).

As in CondInst (arXiv 2003.05664) there are three 1x1 convolutions of 8 channels on the mask features and on the
coordinates relative to the object. What the published Mask RepPoints V2 adds is that every layer also tries a mask of
its own, which is trained by a weight per layer. mmdet's `MaskFeatModule` makes the features.

Shapes: N objects of an image, M numbers that describe a mask, (H, W) of the mask features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from mmdet.models.dense_heads.condinst_head import MaskFeatModule
from mmdet.models.utils import aligned_bilinear, relative_coordinate_maps, unpack_gt_instances
from torch import Tensor, nn
from torch.nn import functional

from swin_dense.errors import ConfigError
from swin_dense.openmmlab.heads.grid import without_autocast

SIZE_OF_INTEREST = 8
"""Relative coordinates are in units of this many strides of the object's level."""

DICE_EPSILON = 1e-5


class CondConvMaskHead(nn.Module):
    """Draws the mask of each object that the dense head beside it found.

    It takes the place of mmdet's mask heads: `loss` and `predict` are what its one-stage instance segmentors call.
    """

    def __init__(
        self,
        mask_feature_head: Mapping[str, Any],  # arguments of mmdet's `MaskFeatModule`
        feat_channels: int = 8,  # width of the layers but the last
        mask_out_stride: int = 4,  # pixels per pixel of a trained mask; divides the features' stride
        layer_weights: Sequence[float] = (0.0, 0.6, 1.0),  # of the loss of each layer's mask; the last is the result
        max_masks_to_train: int = 500,  # most objects of a batch that are drawn, chosen at random
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,  # `mask_thr`: what a pixel must exceed to belong to an object
    ) -> None:
        """Creates the branch that makes the mask features; both configs are also those of the dense head."""
        super().__init__()
        self.mask_feature_head = MaskFeatModule(**mask_feature_head)
        self.feature_stride = int(self.mask_feature_head.mask_stride)
        if self.feature_stride % mask_out_stride:
            raise ConfigError(
                f"mask_head.mask_out_stride is {mask_out_stride}; it must divide the stride of the mask features, "
                f"{self.feature_stride}"
            )
        self.mask_out_stride = mask_out_stride
        self.layer_weights = tuple(layer_weights)
        self.max_masks_to_train = max_masks_to_train
        self.test_cfg = test_cfg
        inner = [feat_channels] * (len(self.layer_weights) - 1)
        self.widths = (int(self.mask_feature_head.out_channels) + 2, *inner, 1)  # 2 relative coordinates

    @property
    def num_params(self) -> int:
        """M: weights and biases of the layers, and of what each layer but the last tries."""
        layers = sum(before * after + after for before, after in pairwise(self.widths))
        return layers + sum(before + 1 for before in self.widths[:-2])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Makes the mask features (B, C, H, W), in float32, from the neck's levels."""
        features: Tensor = self.mask_feature_head(maps).float()
        return features

    def draw(self, features: Tensor, objects: Any) -> list[Tensor]:
        """The mask logits (N, h, w) of each layer at `mask_out_stride`, from the features (C, H, W) of an image.

        Objects are mmengine `InstanceData` with `param_preds` (N, M), `points` (N, 2) and `strides` (N,).
        """
        params = objects.param_preds
        if params.shape[1] != self.num_params:
            raise ConfigError(
                f"model.bbox_head.num_mask_params is {params.shape[1]}, but the mask head needs {self.num_params}"
            )
        with without_autocast(features.device):
            return self._draw(features.float(), params.float(), objects)

    def _draw(self, features: Tensor, params: Tensor, objects: Any) -> list[Tensor]:
        _, height, width = features.shape
        x = features[None].expand(len(params), -1, -1, -1)
        coordinates = relative_coordinate_maps(
            self._places(features), objects.points, objects.strides, SIZE_OF_INTEREST, (height, width)
        )
        x = torch.cat([coordinates, x], dim=1).flatten(2)
        weights, biases, tried_weights, tried_biases = self._split(params)
        tried = []
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            if layer < len(tried_weights):
                tried.append(torch.baddbmm(tried_biases[layer], tried_weights[layer], x))
            x = torch.baddbmm(bias, weight, x)
            if layer < len(weights) - 1:
                x = x.relu()
        factor = self.feature_stride // self.mask_out_stride
        return [aligned_bilinear(one.reshape(-1, 1, height, width), factor)[:, 0] for one in (*tried, x)]

    def _places(self, features: Tensor) -> Tensor:
        """(H * W, 2) x and y in pixels of the middles of the features' cells."""
        rows, columns = (
            torch.arange(size, device=features.device) * self.feature_stride + self.feature_stride // 2
            for size in features.shape[-2:]
        )
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        return torch.stack([x.flatten(), y.flatten()], dim=1).float()

    def _split(self, params: Tensor) -> list[list[Tensor]]:
        """Weights (N, after, before) and biases (N, after, 1) of the layers, then those of what the layers try."""
        pairs = list(pairwise(self.widths))
        tries = [(before, 1) for before in self.widths[:-2]]
        counts = [
            *(before * after for before, after in pairs),
            *(after for _, after in pairs),
            *(before for before, _ in tries),
            *(1 for _ in tries),
        ]
        parts = iter(torch.split(params, counts, dim=1))
        groups = []
        for shapes in (pairs, [(1, after) for _, after in pairs], tries, [(1, 1)] * len(tries)):
            groups.append([next(parts).reshape(-1, after, before) for before, after in shapes])
        return groups

    def loss(
        self, maps: Sequence[Tensor], batch_data_samples: Sequence[Any], positive_infos: Sequence[Any]
    ) -> dict[str, Tensor]:
        """The dice loss of the mask of each layer with a weight, averaged over the objects of the batch."""
        features = self(maps)
        images, _, _ = unpack_gt_instances(batch_data_samples)
        positives = _at_most(self.max_masks_to_train, positive_infos)
        losses: dict[int, list[Tensor]] = {layer: [] for layer, weight in enumerate(self.layer_weights) if weight}
        for feature, image, positive in zip(features, images, positives, strict=True):
            targets = self._targets(image.masks, positive.pos_assigned_gt_inds, feature)
            drawn = self.draw(feature, positive)
            for layer, values in losses.items():
                values.append(dice_losses(drawn[layer].sigmoid(), targets))
        # Where there are no objects the sum still reaches every parameter, which ranks that train together rely on.
        count = max(1, sum(len(positive) for positive in positives))
        nothing = features.sum() * 0
        return {
            f"loss_mask_{layer}": self.layer_weights[layer] * torch.cat(values).sum() / count + nothing
            for layer, values in losses.items()
        }

    def _targets(self, masks: Any, objects: Tensor, feature: Tensor) -> Tensor:
        """(N, h, w) masks of the objects, every `mask_out_stride`-th pixel, padded to where the features end."""
        stride = self.mask_out_stride
        kept = masks.to_tensor(torch.bool, "cpu")[objects.cpu(), stride // 2 :: stride, stride // 2 :: stride]
        factor = self.feature_stride // stride
        height, width = (size * factor for size in feature.shape[-2:])
        padded = functional.pad(kept.to(feature), (0, width - kept.shape[-1], 0, height - kept.shape[-2]))
        return padded

    def predict(
        self, maps: Sequence[Tensor], batch_data_samples: Sequence[Any], rescale: bool, results_list: Sequence[Any]
    ) -> Sequence[Any]:
        """Adds `masks` (N, height, width) bool to what the dense head found, in pixels of the image that entered.

        With `rescale`, boxes and masks are in pixels of the original image afterwards.
        """
        assert self.test_cfg is not None, "the model dict has no test_cfg"
        for feature, sample, found in zip(self(maps), batch_data_samples, results_list, strict=True):
            height, width = sample.img_shape[:2]
            size = sample.ori_shape[:2] if rescale else (height, width)
            # One object at a time: a hundred masks of a large image at once would fill the memory.
            masks = [
                _enlarge(logits, self.mask_out_stride, (height, width), size) > self.test_cfg["mask_thr"]
                for logits in self.draw(feature, found)[-1]
            ]
            empty = torch.zeros((0, *size), dtype=torch.bool, device=feature.device)
            found.masks = torch.stack(masks) if masks else empty
            if rescale:
                found.bboxes = found.bboxes / found.bboxes.new_tensor(sample.scale_factor).repeat(2)
        return results_list


def dice_losses(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - 2 sum(p t) / (sum(p^2) + sum(t^2)) of each mask (N, h, w) in 0..1 (V-Net, arXiv 1606.04797)."""
    overlap = (predicted * target).flatten(1).sum(dim=1)
    squares = (predicted**2).flatten(1).sum(dim=1) + (target**2).flatten(1).sum(dim=1)
    return 1 - 2 * overlap / (squares + DICE_EPSILON)


def _at_most(count: int, images: Sequence[Any]) -> list[Any]:
    """Keeps `count` objects of all images, drawn from torch's CPU generator."""
    sizes = [len(one) for one in images]
    if sum(sizes) <= count:
        return list(images)
    kept = torch.zeros(sum(sizes), dtype=torch.bool)
    kept[torch.randperm(sum(sizes))[:count]] = True
    return [one[mask.to(one.points.device)] for one, mask in zip(images, torch.split(kept, sizes), strict=True)]


def _enlarge(logits: Tensor, stride: int, inside: tuple[int, int], size: Sequence[int]) -> Tensor:
    """Chances (height, width) of one mask (h, w): enlarged, cut to the image inside the padding, resized."""
    chances: Tensor = aligned_bilinear(logits.sigmoid()[None, None], stride)[..., : inside[0], : inside[1]]
    return functional.interpolate(chances, size=tuple(size), mode="bilinear", align_corners=False)[0, 0]
