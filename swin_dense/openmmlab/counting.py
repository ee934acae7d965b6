"""The forward passes that the published sizes were counted on.

Detectors: backbone, neck and dense head see the whole image. Every box head then sees 1,000 proposals and every mask
head 100, whatever the weights would have proposed, which makes the count a property of the architecture. RoI pooling
counts nothing, so pooled features of the right shape stand in for it and the whole pass needs shapes alone.

Masks that one-stage detectors draw for each object that they found are left out, with the map that they are drawn on.

Segmenters: backbone, neck and decode head see the whole image, once, at scale 1. Auxiliary heads, which only training
needs, do not run; their parameters count nevertheless.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.openmmlab.segmentation import decode

BOX_PROPOSALS = 1000
MASK_PROPOSALS = 100


def run_detector(network: Any, height: int, width: int) -> None:
    """Runs every layer of an mmdet detector once on a blank image, as the published counts have it.

    Two-stage detectors of a kind that is not known here run as mmdet runs them with `mode="tensor"`, on the proposals
    of their own RPN; other detectors run their one forward pass.
    """
    from mmdet.models.detectors import SingleStageDetector
    from mmdet.models.detectors.single_stage_instance_seg import SingleStageInstanceSegmentor
    from mmdet.structures import DetDataSample

    images = _blank_image(network, height, width)
    roi_head: Any = getattr(network, "roi_head", None)
    kind = type(roi_head).__name__
    if kind in ("StandardRoIHead", "CascadeRoIHead", "HybridTaskCascadeRoIHead") and _pools_from_one_level(roi_head):
        features = network.extract_feat(images)
        network.rpn_head(features)
        _run_box_heads(roi_head, features)
        if roi_head.with_mask:
            _run_mask_heads(roi_head, features)
    elif kind == "SparseRoIHead" and not roi_head.with_mask:
        _run_query_heads(roi_head, network.extract_feat(images), network.rpn_head.num_proposals)
    elif isinstance(network, SingleStageDetector | SingleStageInstanceSegmentor) and network.with_bbox:
        network.bbox_head(network.extract_feat(images))
    else:
        sizes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), (height, width))
        network(images, [DetDataSample(metainfo={**sizes, "scale_factor": (1.0, 1.0)})], mode="tensor")


def run_segmenter(network: Any, height: int, width: int) -> None:
    """Runs every layer of an mmseg segmentor that prediction needs once on a blank image."""
    decode(network, _blank_image(network, height, width))


def _blank_image(network: nn.Module, height: int, width: int) -> Tensor:
    return torch.zeros(1, 3, height, width, device=next(network.parameters()).device)


def _pools_from_one_level(roi_head: Any) -> bool:
    """Whether its RoI extractors are mere pooling, without layers of their own."""
    extractors = [module for name, module in roi_head.named_children() if name.endswith("roi_extractor")]
    return not any(parameter.numel() for extractor in extractors for parameter in extractor.parameters())


def _run_box_heads(roi_head: Any, features: tuple[Tensor, ...]) -> None:
    if getattr(roi_head, "semantic_head", None) is not None:
        roi_head.semantic_head(features)
    for extractor, head in _stages(roi_head.bbox_roi_extractor, roi_head.bbox_head):
        head(_pooled(roi_head, extractor, features, BOX_PROPOSALS))


def _run_mask_heads(roi_head: Any, features: tuple[Tensor, ...]) -> None:
    previous = None
    for extractor, head in _stages(roi_head.mask_roi_extractor, roi_head.mask_head):
        pooled = _pooled(roi_head, extractor, features, MASK_PROPOSALS)
        if getattr(roi_head, "mask_info_flow", False):  # HTC hands each stage's features to the next
            _, previous = head(pooled, previous)
        else:
            head(pooled)


def _run_query_heads(roi_head: Any, features: tuple[Tensor, ...], num_proposals: int) -> None:
    """Sparse R-CNN: each stage's dynamic head refines the query of every learnt proposal."""
    queries = features[0].new_zeros(1, num_proposals, features[0].shape[1])
    for extractor, head in _stages(roi_head.bbox_roi_extractor, roi_head.bbox_head):
        head(_pooled(roi_head, extractor, features, num_proposals), queries)


def _stages(extractors: nn.Module, heads: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Pairs of extractor and head, of one stage or of several."""
    if isinstance(extractors, nn.ModuleList) and isinstance(heads, nn.ModuleList):
        return zip(extractors, heads, strict=True)
    return iter([(extractors, heads)])


def _pooled(roi_head: Any, extractor: Any, features: tuple[Tensor, ...], count: int) -> Tensor:
    """RoI features by shape: (count, C, h, w)."""
    pooled = features[0].new_zeros(count, extractor.out_channels, *extractor.roi_layers[0].output_size)
    shared: Tensor = roi_head.shared_head(pooled) if roi_head.with_shared_head else pooled
    return shared
