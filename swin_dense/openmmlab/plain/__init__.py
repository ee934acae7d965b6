"""Whole detectors in a plain form: tensor operations alone, on images of any size, to a fixed number of detections.

The parts are the detector's own, not copies; what mmdet does between them, for one image at a time and with lists of
varying length, is done here for all images at once and with tables of fixed length. A test holds each to mmdet's own
predictions. Shapes: B images, D detections of an image, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from swin_dense.errors import ConfigError, option
from swin_dense.openmmlab.plain.boxes import Candidates
from swin_dense.openmmlab.plain.stages import AnchorStage, MaskStages, PointStage, QueryStages, TwoStages

HEADS: dict[str, Callable[[Any], nn.Module]] = {
    "StandardRoIHead": TwoStages,
    "CascadeRoIHead": TwoStages,
    "SparseRoIHead": QueryStages,
    "ATSSHead": lambda network: AnchorStage(network.bbox_head),
    "RepPointsV2Head": lambda network: PointStage(network.bbox_head),
}
"""How boxes are found, by the type of the RoI head, or of the dense head where there is none."""

REASONS = {
    "HybridTaskCascadeRoIHead": "HTC, whose mask heads hand features to each other and to a semantic branch",
    "CondConvMaskHead": "Mask RepPoints V2, whose masks are drawn by convolutions that each object brings",
}
"""What cannot be done, by the type of the head that has no plain form."""


def opset_of(network: Any) -> int:
    """The first version of ONNX's operators with all that a detector needs: `DeformConv` came with 19."""
    return 19 if _kind(network) == "RepPointsV2Head" else 18


class PlainDetector(nn.Module):
    """What an mmdet detector finds, as tensors: boxes, scores, labels, their count and, where it has them, masks."""

    def __init__(self, network: Any) -> None:
        """Shares the parameters of an mmdet detector.

        Raises:
            ConfigError: It has no plain form.
        """
        super().__init__()
        kind = _kind(network)
        self.backbone, self.neck = network.backbone, network.neck
        self.divisor = int(network.data_preprocessor.pad_size_divisor)
        self.box_stages = HEADS[kind](network)
        has_masks = "roi_head" in dict(network.named_children()) and network.roi_head.with_mask
        self.mask_stages = MaskStages(network.roi_head) if has_masks else None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Finds the objects of normalised images (B, 3, H, W).

        Returns:
            (B, D, 4) float32 boxes, XYXY in pixels; (B, D) float32 scores, best first; (B, D) int64 labels; (B,) int64
            number of detections, beyond which all is zero; for a model with masks (B, D, h, w) float32, the probability
            of each of h x w cells of the box.
        """
        height, width = images.shape[2:]
        bottom, right = ((side + self.divisor - 1) // self.divisor * self.divisor - side for side in (height, width))
        maps = self.neck(self.backbone(functional.pad(images, (0, right, 0, bottom))))
        found = self.box_stages(maps, (height, width))
        there = found.scores >= 0
        found = Candidates(*(one * there.view(*there.shape, *(1,) * (one.ndim - 2)) for one in found))
        outputs = (found.boxes, found.scores, found.labels, there.sum(dim=1))
        if self.mask_stages is None:
            return outputs
        return *outputs, self.mask_stages(maps, found.boxes, found.labels) * there[..., None, None]


def _kind(network: Any) -> str:
    """The type of the head that finds boxes; refuses a detector that has no plain form, with the reason."""
    roi_head: Any = getattr(network, "roi_head", None)
    head = network.bbox_head if roi_head is None else roi_head
    kind, mask_kind = type(head).__name__, type(getattr(network, "mask_head", None)).__name__
    if roi_head is None and mask_kind != "NoneType":
        _refuse(REASONS.get(mask_kind, mask_kind))
    if kind not in HEADS or (kind == "SparseRoIHead" and roi_head.with_mask):
        _refuse(REASONS.get(kind, kind))
    if roi_head is not None and roi_head.with_shared_head:
        _refuse("a layer that box and mask head share")
    proposals = None if roi_head is None else network.rpn_head
    if proposals is not None and type(proposals).__name__ not in ("RPNHead", "EmbeddingRPNHead"):
        _refuse(type(proposals).__name__)
    for settings in (head.test_cfg, getattr(proposals, "test_cfg", None)):
        suppression = (settings or {}).get("nms", {})
        if suppression.get("type", "nms") != "nms":
            raise ConfigError(
                f"{option('part', 'whole')}: ONNX has no {suppression['type']}, which model.test_cfg asks for; set its "
                f"type to nms, or use {option('part', 'neck')}"
            )
    return kind


def _refuse(what: str) -> None:
    raise ConfigError(f"{option('part', 'whole')}: {what}: there is no plain form of it; use {option('part', 'neck')}")
