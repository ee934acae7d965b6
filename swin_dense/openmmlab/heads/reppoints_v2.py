"""RepPoints V2 (arXiv 2007.08508): boxes from points that are regressed, classes and corners that verify them.

The form is that of the published Swin models: quality focal loss, GIoU losses, and boxes whose corners are the first
two points. Parameter names are those of their checkpoints. Shapes: B images, P cells of all levels, K classes, n points
of a cell, M numbers that describe a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt, log
from typing import Any

import torch
from mmcv.cnn import ConvModule, build_norm_layer
from mmcv.ops import CornerPool, DeformConv2d
from mmdet.models.utils import unpack_gt_instances
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from swin_dense.errors import ConfigError
from swin_dense.openmmlab.heads.grid import Grid, apply_in_float32, flatten_levels, mask_points, to_points
from swin_dense.openmmlab.heads.reppoints_v2_inference import LevelOutputs, detect
from swin_dense.openmmlab.heads.reppoints_v2_loss import (
    UNASSIGNED,
    ImageTargets,
    Losses,
    Predictions,
    foreground_loss,
    image_targets,
    reppoints_losses,
)

PRIOR = 0.01
"""The probability of every class and every corner before training (RetinaNet, section 4.1)."""


class RepPointsV2Head(nn.Module):
    """The dense head, with parameters that all levels share.

    It takes the place of mmdet's dense heads: `loss`, `predict` and `get_positive_infos` are what its detectors call.
    """

    def __init__(
        self,
        num_classes: int,  # K
        in_channels: int,  # width of the maps
        feat_channels: int,  # width of the towers
        point_feat_channels: int,  # width of what is gathered at the points
        corner_dim: int,  # width of the maps that corner pooling pools
        point_strides: Sequence[int],  # pixels per cell of each level
        loss_cls: Mapping[str, Any],  # of the classes, a quality focal loss
        loss_bbox_init: Mapping[str, Any],  # of the boxes of the first points
        loss_bbox_refine: Mapping[str, Any],  # of the boxes of the refined points
        loss_heatmap: Mapping[str, Any],  # of the corners' heatmaps
        loss_offset: Mapping[str, Any],  # of the offsets to the corners
        loss_sem: Mapping[str, Any],  # of the foreground
        stacked_convs: int = 3,  # convolutions of each tower
        shared_stacked_convs: int = 1,  # further convolutions before the verifying branches
        num_points: int = 9,  # n, the square of an odd number
        gradient_mul: float = 0.1,  # share of the later gradients that reaches the first points
        norm_cfg: dict[str, Any] | None = None,
        num_mask_params: int = 0,  # M, for a mask head beside this one; 0 for none
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        """Creates the layers; losses and norms are described by model dicts, None means no norm.

        With masks, the centre of an object is the centroid of its mask. `train_cfg` holds `scale` (a box of this many
        strides a side suits a level, and boxes are compared in units of so many strides), `topk` (candidates of an
        object on each level) and `corner_overlap` (least overlap of a box whose corners are off by the radius of the
        Gaussians); `test_cfg` holds `nms_pre`, `score_thr`, `nms`, `max_per_img` and `min_bbox_size`, as of mmdet's
        dense heads.
        """
        super().__init__()
        kernel = isqrt(num_points)
        if kernel**2 != num_points or kernel % 2 == 0:
            raise ConfigError(f"RepPointsV2Head.num_points is {num_points}; it must be the square of an odd number: 9")
        self.num_classes = num_classes
        self.point_strides = tuple(point_strides)
        self.gradient_mul = gradient_mul
        self.has_masks = num_mask_params > 0
        self.train_cfg, self.test_cfg = train_cfg, test_cfg
        dicts = (loss_cls, loss_bbox_init, loss_bbox_refine, loss_heatmap, loss_offset, loss_sem)
        self.losses = Losses(*(MODELS.build(one) for one in dicts))
        self._positives: list[Any] = []

        def tower(width: int, depth: int) -> nn.ModuleList:
            widths = [width] + [feat_channels] * depth
            return nn.ModuleList(
                ConvModule(one, feat_channels, 3, padding=1, norm_cfg=norm_cfg) for one in widths[:depth]
            )

        self.cls_convs = tower(in_channels, stacked_convs)
        self.reg_convs = tower(in_channels, stacked_convs)
        self.shared_convs = tower(feat_channels, shared_stacked_convs)
        self.hem_tl = CornerPooling(feat_channels, corner_dim, ("top", "left"), norm_cfg)
        self.hem_br = CornerPooling(feat_channels, corner_dim, ("bottom", "right"), norm_cfg)
        self.reppoints_hem_tl_score_out = nn.Conv2d(feat_channels, 1, 3, padding=1)
        self.reppoints_hem_br_score_out = nn.Conv2d(feat_channels, 1, 3, padding=1)
        self.reppoints_hem_tl_offset_out = nn.Conv2d(feat_channels, 2, 3, padding=1)
        self.reppoints_hem_br_offset_out = nn.Conv2d(feat_channels, 2, 3, padding=1)
        self.reppoints_sem_out = nn.Conv2d(feat_channels, num_classes, 1)
        self.reppoints_sem_embedding = ConvModule(feat_channels, feat_channels, 1, norm_cfg=norm_cfg)
        gathered = feat_channels + 6  # and the two heatmaps and four offsets of the corners
        # mmcv wants batches that this step divides, though our operator does not look at it.
        deformable = {"kernel_size": kernel, "padding": kernel // 2, "im2col_step": 1}
        self.reppoints_cls_conv = DeformConv2d(gathered, point_feat_channels, **deformable)
        self.reppoints_cls_out = nn.Conv2d(point_feat_channels, num_classes, 1)
        self.reppoints_pts_init_conv = nn.Conv2d(feat_channels, point_feat_channels, 3, padding=1)
        self.reppoints_pts_init_out = nn.Conv2d(point_feat_channels, 2 * num_points, 1)
        self.reppoints_pts_refine_conv = DeformConv2d(gathered, point_feat_channels, **deformable)
        self.reppoints_pts_refine_out = nn.Conv2d(point_feat_channels, 2 * num_points, 1)
        if self.has_masks:
            self.controller = nn.Conv2d(point_feat_channels, num_mask_params, 3, padding=1)
        steps = torch.arange(kernel, dtype=torch.float32) - kernel // 2
        taps = torch.cartesian_prod(steps, steps).reshape(1, 2 * num_points, 1, 1)
        self.taps: Tensor  # y and x of each tap of a plain convolution, in cells
        self.register_buffer("taps", taps, persistent=False)

    def init_weights(self) -> None:
        """As published: small normal weights, except in corner pooling and the embedding, and rare classes."""
        small = [*self.cls_convs, *self.reg_convs, *self.shared_convs]
        small += [layer for name, layer in self.named_children() if name.startswith(("reppoints_", "controller"))]
        small.remove(self.reppoints_sem_embedding)
        for layer in small:
            convolution = layer.conv if isinstance(layer, ConvModule) else layer
            nn.init.normal_(convolution.weight, std=0.01)
            if getattr(convolution, "bias", None) is not None:
                nn.init.zeros_(convolution.bias)
        chances = (self.reppoints_hem_tl_score_out, self.reppoints_hem_br_score_out)
        for layer in (self.reppoints_cls_out, self.reppoints_sem_out, *chances):
            nn.init.constant_(layer.get_parameter("bias"), log(PRIOR / (1 - PRIOR)))

    def forward(self, maps: Sequence[Tensor]) -> list[LevelOutputs]:
        """Runs the head on the levels (B, C, H_i, W_i)."""
        return [self._forward_level(one) for one in maps]

    def _forward_level(self, features: Tensor) -> LevelOutputs:
        class_features, point_features = features, features
        for layer in self.cls_convs:
            class_features = layer(class_features)
        for layer in self.reg_convs:
            point_features = layer(point_features)
        shared = point_features
        for layer in self.shared_convs:
            shared = layer(shared)
        # Verification helps regression: foreground by its features, corners by their maps (section 3.4).
        foreground = self.reppoints_sem_embedding(shared)
        corner_logits, corner_offsets = self._corners(shared + foreground)
        corners = torch.cat([corner_logits, corner_offsets], dim=1)
        point_features = point_features + foreground

        first = self.reppoints_pts_init_conv(point_features).relu()
        first_offsets = apply_in_float32(self.reppoints_pts_init_out, first)
        held_back = self.gradient_mul * first_offsets + (1 - self.gradient_mul) * first_offsets.detach()
        places = held_back - self.taps
        classified = self.reppoints_cls_conv(torch.cat([class_features + foreground, corners], dim=1), places).relu()
        refined = self.reppoints_pts_refine_conv(torch.cat([point_features, corners], dim=1), places).relu()
        refinement = apply_in_float32(self.reppoints_pts_refine_out, refined)
        return LevelOutputs(
            class_logits=self.reppoints_cls_out(classified),
            first_offsets=first_offsets,
            refined_offsets=first_offsets.detach() + refinement,
            corner_logits=corner_logits,
            corner_offsets=corner_offsets,
            foreground_logits=self.reppoints_sem_out(shared),
            mask_params=apply_in_float32(self.controller, classified) if self.has_masks else None,
        )

    def _corners(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 2, H, W) and offsets (B, 4, H, W), top left before bottom right."""
        top_left, bottom_right = self.hem_tl(features), self.hem_br(features)
        logits = [self.reppoints_hem_tl_score_out(top_left), self.reppoints_hem_br_score_out(bottom_right)]
        offsets = [
            apply_in_float32(self.reppoints_hem_tl_offset_out, top_left),
            apply_in_float32(self.reppoints_hem_br_offset_out, bottom_right),
        ]
        return torch.cat(logits, dim=1), torch.cat(offsets, dim=1)

    def loss(self, maps: Sequence[Tensor], batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """The loss terms of a batch, by mmdet's names; regions to be ignored are not read, as published."""
        objects, _, metas = unpack_gt_instances(batch_data_samples)
        return self.loss_by_outputs(self(maps), objects, [meta["pad_shape"] for meta in metas])

    def loss_by_outputs(
        self, outputs: Sequence[LevelOutputs], objects: Sequence[Any], pad_shapes: Sequence[Sequence[int]]
    ) -> dict[str, Tensor]:
        """The loss terms of the outputs of `forward`, with the size of each image with its own padding."""
        assert self.train_cfg is not None, "the model dict has no train_cfg"
        grid = Grid.of([one.class_logits for one in outputs], self.point_strides)
        predictions = Predictions(
            class_logits=flatten_levels([one.class_logits for one in outputs]),
            first_points=to_points(flatten_levels([one.first_offsets for one in outputs]), grid),
            refined_points=to_points(flatten_levels([one.refined_offsets for one in outputs]), grid),
            corner_logits=flatten_levels([one.corner_logits for one in outputs]),
            corner_offsets=flatten_levels([one.corner_offsets for one in outputs]),
        )
        targets = [
            image_targets(grid, points, one, pad_shape, self.train_cfg, self.has_masks)
            for points, one, pad_shape in zip(predictions.first_points, objects, pad_shapes, strict=True)
        ]
        terms = reppoints_losses(predictions, targets, grid.strides, self.losses, self.train_cfg["scale"])
        logits = [one.foreground_logits for one in outputs]
        terms["loss_sem"] = foreground_loss(logits, targets, self.point_strides[0], self.losses.foreground)
        if self.has_masks:
            params = flatten_levels([one.mask_params for one in outputs if one.mask_params is not None])
            self._positives = _positives(predictions.first_points, params, targets, grid)
        return terms

    def get_positive_infos(self) -> list[Any]:
        """The cells to which the last `loss` assigned objects, for the mask head; they can be fetched once.

        They are mmengine `InstanceData` of each image: `param_preds` (N, M), `points` (N, 2), `strides` (N,) and
        `pos_assigned_gt_inds` (N,).
        """
        positives, self._positives = self._positives, []
        return positives

    def predict(self, maps: Sequence[Tensor], batch_data_samples: Sequence[Any], rescale: bool = False) -> list[Any]:
        """The objects of each image, see `reppoints_v2_inference.detect`."""
        assert self.test_cfg is not None, "the model dict has no test_cfg"
        metas = [sample.metainfo for sample in batch_data_samples]
        return detect(self(maps), self.point_strides, metas, self.test_cfg, rescale)


class CornerPooling(nn.Module):
    """Corner pooling of CornerNet (arXiv 1808.01244, section 3.5): each place sees what lies along its row and column.

    Parameter names are those of the published RepPoints V2 checkpoints.
    """

    def __init__(
        self, channels: int, pooled_channels: int, directions: tuple[str, str], norm: dict[str, Any] | None
    ) -> None:
        """Creates the convolutions; directions are ("top", "left") or ("bottom", "right")."""
        super().__init__()
        self.p1_conv1 = ConvModule(channels, pooled_channels, 3, padding=1, norm_cfg=norm)
        self.p2_conv1 = ConvModule(channels, pooled_channels, 3, padding=1, norm_cfg=norm)
        self.p_conv1 = nn.Conv2d(pooled_channels, channels, 3, padding=1, bias=False)
        self.p_gn1 = _norm(norm, channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.gn1 = _norm(norm, channels)
        self.conv2 = ConvModule(channels, channels, 1, norm_cfg=norm)
        self.pool1, self.pool2 = (CornerPool(direction) for direction in directions)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        pooled = self.pool1(self.p1_conv1(features)) + self.pool2(self.p2_conv1(features))
        merged = self.p_gn1(self.p_conv1(pooled)) + self.gn1(self.conv1(features))
        corners: Tensor = self.conv2(merged.relu())
        return corners


def _norm(norm: dict[str, Any] | None, channels: int) -> nn.Module:
    layer: nn.Module = nn.Identity() if norm is None else build_norm_layer(norm, channels)[1]
    return layer


def _positives(first_points: Tensor, params: Tensor, targets: Sequence[ImageTargets], grid: Grid) -> list[Any]:
    """The cells with objects; see `RepPointsV2Head.get_positive_infos`."""
    positives = []
    for points, numbers, target in zip(first_points, params, targets, strict=True):
        positive = target.refined != UNASSIGNED
        positives.append(
            InstanceData(
                param_preds=numbers[positive],
                points=mask_points(points[positive], grid.strides[positive]),
                strides=grid.strides[positive],
                pos_assigned_gt_inds=target.refined[positive],
            )
        )
    return positives
