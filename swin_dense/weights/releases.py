"""The published Swin weights: where each file lies, and what its publisher says of its size and checksum.

Every address is copied from its publisher: the tables of Microsoft's Swin-Transformer (MODELHUB.md),
Swin-Transformer-Object-Detection and Swin-Transformer-Semantic-Segmentation (README.md), torchvision's
`Swin_*_Weights`, and the metafiles of mmdetection and mmsegmentation (`configs/swin`). Nothing here is downloaded
unless `fetch_weights` or `swin-dense weights fetch` is asked to.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from swin_dense.errors import WeightsError

Task = Literal["classification", "detection", "segmentation"]

_MICROSOFT = "https://github.com/SwinTransformer/storage/releases/download"
_PYTORCH = "https://download.pytorch.org/models"
_MMDET = "https://download.openmmlab.com/mmdetection/v2.0/swin"
_MMSEG = "https://download.openmmlab.com/mmsegmentation/v0.5/swin"


@dataclass(frozen=True)
class Release:
    """One published file of weights.

    Attributes:
        name: What `fetch_weights` calls it: the publisher's own name of the model.
        url: Where its publisher keeps it.
        task: What it was trained for; "detection" includes instance segmentation.
        data: What it was trained on, pre-training first.
        variant: The backbone in it, a key of `swin_dense.backbones.VARIANTS`.
        format: Its weight format, a key of `swin_dense.weights.FORMATS`.
        size_mib: Its size in MiB, known to 0.001 MiB; None where none is published.
        sha256_prefix: The first hexadecimal digits of its SHA-256; None where none is published.
    """

    name: str
    url: str
    task: Task
    data: str
    variant: str
    format: str
    size_mib: float | None = None
    sha256_prefix: str | None = None

    @property
    def file_name(self) -> str:
        """The last part of its address."""
        return self.url.rpartition("/")[2]


def find_release(name: str) -> Release:
    """Looks a release up.

    Args:
        name: Its name.

    Returns:
        The release.

    Raises:
        WeightsError: There is none of that name.
    """
    if name not in RELEASES:
        near = [release.name for release in search_releases(name)][:3] or difflib.get_close_matches(name, RELEASES)
        hint = f"did you mean {', '.join(near)}?" if near else "swin-dense weights list shows them"
        raise WeightsError(f'no published weights are called "{name}"; {hint}')
    return RELEASES[name]


def search_releases(text: str = "") -> tuple[Release, ...]:
    """Finds releases by words.

    Args:
        text: Words that must all occur in a release's name, task, data, variant or format, in any case.

    Returns:
        The releases in the table's order; all of them for an empty text.
    """
    words = text.lower().split()
    return tuple(
        release
        for release in RELEASES.values()
        if all(
            word in f"{release.name} {release.task} {release.data} {release.variant} {release.format}".lower()
            for word in words
        )
    )


def _microsoft(tag: str, file: str, task: Task, data: str, variant: str, size_mib: float | None = None) -> Release:
    """A release of the authors, who publish neither checksums nor sizes."""
    return Release(file, f"{_MICROSOFT}/{tag}/{file}.pth", task, data, variant, "official", size_mib)


_IN1K, _IN22K, _IN22K_TO_1K = "ImageNet-1K", "ImageNet-22K", "ImageNet-22K, ImageNet-1K"
_COCO, _ADE, _MOBY_COCO, _MOBY_ADE = (
    "ImageNet-1K, COCO",
    "ImageNet-1K, ADE20K",
    "MoBY ImageNet-1K, COCO",
    "MoBY ImageNet-1K, ADE20K",
)

_CLASSIFICATION = (
    # The size is that of Open Model Zoo's manifest, which names this file as its source.
    _microsoft("v1.0.0", "swin_tiny_patch4_window7_224", "classification", _IN1K, "swin_tiny", size_mib=109.045),
    _microsoft("v1.0.0", "swin_small_patch4_window7_224", "classification", _IN1K, "swin_small"),
    _microsoft("v1.0.0", "swin_base_patch4_window7_224", "classification", _IN1K, "swin_base"),
    _microsoft("v1.0.0", "swin_base_patch4_window12_384", "classification", _IN1K, "swin_base_384"),
    _microsoft("v1.0.8", "swin_tiny_patch4_window7_224_22k", "classification", _IN22K, "swin_tiny"),
    _microsoft("v1.0.8", "swin_small_patch4_window7_224_22k", "classification", _IN22K, "swin_small"),
    _microsoft("v1.0.0", "swin_base_patch4_window7_224_22k", "classification", _IN22K, "swin_base"),
    _microsoft("v1.0.0", "swin_base_patch4_window12_384_22k", "classification", _IN22K, "swin_base_384"),
    _microsoft("v1.0.0", "swin_large_patch4_window7_224_22k", "classification", _IN22K, "swin_large"),
    _microsoft("v1.0.0", "swin_large_patch4_window12_384_22k", "classification", _IN22K, "swin_large_384"),
    _microsoft("v1.0.8", "swin_tiny_patch4_window7_224_22kto1k_finetune", "classification", _IN22K_TO_1K, "swin_tiny"),
    _microsoft(
        "v1.0.8", "swin_small_patch4_window7_224_22kto1k_finetune", "classification", _IN22K_TO_1K, "swin_small"
    ),
    _microsoft("v1.0.0", "swin_base_patch4_window7_224_22kto1k", "classification", _IN22K_TO_1K, "swin_base"),
    _microsoft("v1.0.0", "swin_base_patch4_window12_384_22kto1k", "classification", _IN22K_TO_1K, "swin_base_384"),
    _microsoft("v1.0.0", "swin_large_patch4_window7_224_22kto1k", "classification", _IN22K_TO_1K, "swin_large"),
    _microsoft("v1.0.0", "swin_large_patch4_window12_384_22kto1k", "classification", _IN22K_TO_1K, "swin_large_384"),
)

# A detector without a schedule in its name was trained for 36 epochs (3x).
_DETECTION = (
    _microsoft("v1.0.3", "mask_rcnn_swin_tiny_patch4_window7_1x", "detection", _COCO, "swin_tiny"),
    _microsoft("v1.0.2", "mask_rcnn_swin_tiny_patch4_window7", "detection", _COCO, "swin_tiny"),
    _microsoft("v1.0.2", "mask_rcnn_swin_small_patch4_window7", "detection", _COCO, "swin_small"),
    _microsoft("v1.0.3", "cascade_mask_rcnn_swin_tiny_patch4_window7_1x", "detection", _COCO, "swin_tiny"),
    _microsoft("v1.0.2", "cascade_mask_rcnn_swin_tiny_patch4_window7", "detection", _COCO, "swin_tiny"),
    _microsoft("v1.0.2", "cascade_mask_rcnn_swin_small_patch4_window7", "detection", _COCO, "swin_small"),
    _microsoft("v1.0.2", "cascade_mask_rcnn_swin_base_patch4_window7", "detection", _COCO, "swin_base"),
    _microsoft("v1.0.9", "reppointsv2_swin_tiny_patch4_window7_3x", "detection", _COCO, "swin_tiny"),
    _microsoft("v1.0.9", "mask_reppointsv2_swin_tiny_patch4_window7_3x", "detection", _COCO, "swin_tiny"),
    _microsoft("v1.0.3", "moby_mask_rcnn_swin_tiny_patch4_window7_1x", "detection", _MOBY_COCO, "swin_tiny"),
    _microsoft("v1.0.3", "moby_mask_rcnn_swin_tiny_patch4_window7_3x", "detection", _MOBY_COCO, "swin_tiny"),
    _microsoft("v1.0.3", "moby_cascade_mask_rcnn_swin_tiny_patch4_window7_1x", "detection", _MOBY_COCO, "swin_tiny"),
    _microsoft("v1.0.3", "moby_cascade_mask_rcnn_swin_tiny_patch4_window7_3x", "detection", _MOBY_COCO, "swin_tiny"),
)

_SEGMENTATION = (
    _microsoft("v1.0.1", "upernet_swin_tiny_patch4_window7_512x512", "segmentation", _ADE, "swin_tiny"),
    _microsoft("v1.0.1", "upernet_swin_small_patch4_window7_512x512", "segmentation", _ADE, "swin_small"),
    _microsoft("v1.0.1", "upernet_swin_base_patch4_window7_512x512", "segmentation", _ADE, "swin_base"),
    _microsoft("v1.0.3", "moby_upernet_swin_tiny_patch4_window7_512x512", "segmentation", _MOBY_ADE, "swin_tiny"),
)


def _torchvision(name: str, variant: str, size_mib: float, digits: str) -> Release:
    url = f"{_PYTORCH}/{name}-{digits}.pth"
    return Release(name, url, "classification", _IN1K, variant, "torchvision", size_mib, digits)


_TORCHVISION = (
    _torchvision("swin_t", "swin_tiny", 108.190, "704ceda3"),
    _torchvision("swin_s", "swin_small", 189.786, "5e29d889"),
    _torchvision("swin_b", "swin_base", 335.364, "68c6b09e"),
)


def _mmdet(name: str, variant: str, folder: str, date: str, digits: str, size_mib: float | None = None) -> Release:
    url = f"{_MMDET}/{folder}/{folder}_{date}-{digits}.pth"
    return Release(name, url, "detection", _COCO, variant, "openmmlab", size_mib, digits)


# Sizes are of files whose SHA-256 begins as published.
_MMDETECTION = (
    _mmdet(
        "mask-rcnn_swin-t-p4-w7_fpn_1x_coco",
        "swin_tiny",
        "mask_rcnn_swin-t-p4-w7_fpn_1x_coco",
        "20210902_120937",
        "9d6b7cfa",
        size_mib=182.592,
    ),
    _mmdet(
        "mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco",
        "swin_tiny",
        "mask_rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco",
        "20210906_131725",
        "bacf6f7b",
    ),
    _mmdet(
        "mask-rcnn_swin-t-p4-w7_fpn_amp-ms-crop-3x_coco",
        "swin_tiny",
        "mask_rcnn_swin-t-p4-w7_fpn_fp16_ms-crop-3x_coco",
        "20210908_165006",
        "90a4008c",
    ),
    _mmdet(
        "mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco",
        "swin_small",
        "mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco",
        "20210903_104808",
        "b92c91f1",
    ),
)


def _mmseg(
    name: str, variant: str, model: str, pretraining: str, date: str, digits: str, size_mib: float | None = None
) -> Release:
    folder = f"upernet_swin_{model}_512x512_160k_ade20k_pretrain_{pretraining}"
    data = _ADE if pretraining.endswith("1K") else "ImageNet-22K, ADE20K"
    name = f"{name}-pre_upernet_8xb2-160k_ade20k-512x512"
    url = f"{_MMSEG}/{folder}/{folder}_{date}-{digits}.pth"
    return Release(name, url, "segmentation", data, variant, "openmmlab", size_mib, digits)


_MMSEGMENTATION = (
    _mmseg(
        "swin-tiny-patch4-window7-in1k",
        "swin_tiny",
        "tiny_patch4_window7",
        "224x224_1K",
        "20210531_112542",
        "e380ad3e",
        size_mib=229.029,
    ),
    _mmseg(
        "swin-small-patch4-window7-in1k",
        "swin_small",
        "small_patch4_window7",
        "224x224_1K",
        "20210526_192015",
        "ee2fff1c",
    ),
    _mmseg(
        "swin-base-patch4-window7-in1k",
        "swin_base",
        "base_patch4_window7",
        "224x224_1K",
        "20210526_192340",
        "593b0e13",
    ),
    _mmseg(
        "swin-base-patch4-window7-in22k",
        "swin_base",
        "base_patch4_window7",
        "224x224_22K",
        "20210526_211650",
        "762e2178",
    ),
    _mmseg(
        "swin-base-patch4-window12-in1k-384x384",
        "swin_base_384",
        "base_patch4_window12",
        "384x384_1K",
        "20210531_132020",
        "05b22ea4",
    ),
    _mmseg(
        "swin-base-patch4-window12-in22k-384x384",
        "swin_base_384",
        "base_patch4_window12",
        "384x384_22K",
        "20210531_125459",
        "429057bf",
    ),
)

RELEASES = {
    release.name: release
    for release in (*_CLASSIFICATION, *_DETECTION, *_SEGMENTATION, *_TORCHVISION, *_MMDETECTION, *_MMSEGMENTATION)
}
"""Every release by name."""
