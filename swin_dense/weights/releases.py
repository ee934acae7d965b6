"""The published Swin weights: where each file lies, and what its publisher says of its size and checksum.

Every address is copied from its publisher: the tables of Microsoft's Swin-Transformer (MODELHUB.md),
Swin-Transformer-Object-Detection, Swin-Transformer-Semantic-Segmentation and Video-Swin-Transformer (README.md),
torchvision's `Swin_*_Weights` and `Swin3D_*_Weights`, and the metafiles of mmdetection and mmsegmentation
(`configs/swin`). Nothing here is downloaded unless `fetch_weights` or `swin-dense weights fetch` is asked to.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from swin_dense.errors import WeightsError

Task = Literal["classification", "detection", "segmentation", "video"]

_MICROSOFT = "https://github.com/SwinTransformer/storage/releases/download"
_PYTORCH = "https://download.pytorch.org/models"
_MMDET = "https://download.openmmlab.com/mmdetection/v2.0/swin"
_MMSEG = "https://download.openmmlab.com/mmsegmentation/v0.5/swin"
_IN1K = "ImageNet-1K"


@dataclass(frozen=True)
class Release:
    """One published file of weights.

    Attributes:
        name: What `fetch_weights` calls it: the publisher's own name of the model.
        url: Where its publisher keeps it.
        task: What it was trained for; "detection" includes instance segmentation, "video" is classification of videos.
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
    """The release of that name."""
    if name not in RELEASES:
        near = [release.name for release in search_releases(name)][:3] or difflib.get_close_matches(name, RELEASES)
        hint = f"did you mean {', '.join(near)}?" if near else "swin-dense weights list shows them"
        raise WeightsError(f'no published weights are called "{name}"; {hint}')
    return RELEASES[name]


def search_releases(text: str = "") -> tuple[Release, ...]:
    """The releases whose name, task, data, variant or format holds all words of a text, in any case."""
    words = text.lower().split()
    return tuple(
        release
        for release in RELEASES.values()
        if all(
            word in f"{release.name} {release.task} {release.data} {release.variant} {release.format}".lower()
            for word in words
        )
    )


# Of the authors: tag and name, by task and data. A detector without a schedule in its name was trained for 36 epochs.
_OFFICIAL: dict[tuple[Task, str], tuple[str, ...]] = {
    ("classification", "ImageNet-1K"): (
        "v1.0.0/swin_tiny_patch4_window7_224",
        "v1.0.0/swin_small_patch4_window7_224",
        "v1.0.0/swin_base_patch4_window7_224",
        "v1.0.0/swin_base_patch4_window12_384",
        "v1.0.5/swin_mlp_tiny_c24_patch4_window8_256",
        "v1.0.5/swin_mlp_tiny_c12_patch4_window8_256",
        "v1.0.5/swin_mlp_tiny_c6_patch4_window8_256",
        "v1.0.5/swin_mlp_base_patch4_window7_224",
        "v2.0.0/swinv2_tiny_patch4_window8_256",
        "v2.0.0/swinv2_small_patch4_window8_256",
        "v2.0.0/swinv2_base_patch4_window8_256",
        "v2.0.0/swinv2_tiny_patch4_window16_256",
        "v2.0.0/swinv2_small_patch4_window16_256",
        "v2.0.0/swinv2_base_patch4_window16_256",
    ),
    ("classification", "ImageNet-22K"): (
        "v1.0.8/swin_tiny_patch4_window7_224_22k",
        "v1.0.8/swin_small_patch4_window7_224_22k",
        "v1.0.0/swin_base_patch4_window7_224_22k",
        "v1.0.0/swin_base_patch4_window12_384_22k",
        "v1.0.0/swin_large_patch4_window7_224_22k",
        "v1.0.0/swin_large_patch4_window12_384_22k",
        "v2.0.0/swinv2_base_patch4_window12_192_22k",
    ),
    ("classification", "ImageNet-22K, ImageNet-1K"): (
        "v1.0.8/swin_tiny_patch4_window7_224_22kto1k_finetune",
        "v1.0.8/swin_small_patch4_window7_224_22kto1k_finetune",
        "v1.0.0/swin_base_patch4_window7_224_22kto1k",
        "v1.0.0/swin_base_patch4_window12_384_22kto1k",
        "v1.0.0/swin_large_patch4_window7_224_22kto1k",
        "v1.0.0/swin_large_patch4_window12_384_22kto1k",
        "v2.0.0/swinv2_base_patch4_window12to16_192to256_22kto1k_ft",
        "v2.0.0/swinv2_base_patch4_window12to24_192to384_22kto1k_ft",
    ),
    ("detection", "ImageNet-1K, COCO"): (
        "v1.0.3/mask_rcnn_swin_tiny_patch4_window7_1x",
        "v1.0.2/mask_rcnn_swin_tiny_patch4_window7",
        "v1.0.2/mask_rcnn_swin_small_patch4_window7",
        "v1.0.3/cascade_mask_rcnn_swin_tiny_patch4_window7_1x",
        "v1.0.2/cascade_mask_rcnn_swin_tiny_patch4_window7",
        "v1.0.2/cascade_mask_rcnn_swin_small_patch4_window7",
        "v1.0.2/cascade_mask_rcnn_swin_base_patch4_window7",
        "v1.0.9/reppointsv2_swin_tiny_patch4_window7_3x",
        "v1.0.9/mask_reppointsv2_swin_tiny_patch4_window7_3x",
    ),
    ("detection", "MoBY ImageNet-1K, COCO"): (
        "v1.0.3/moby_mask_rcnn_swin_tiny_patch4_window7_1x",
        "v1.0.3/moby_mask_rcnn_swin_tiny_patch4_window7_3x",
        "v1.0.3/moby_cascade_mask_rcnn_swin_tiny_patch4_window7_1x",
        "v1.0.3/moby_cascade_mask_rcnn_swin_tiny_patch4_window7_3x",
    ),
    ("segmentation", "ImageNet-1K, ADE20K"): (
        "v1.0.1/upernet_swin_tiny_patch4_window7_512x512",
        "v1.0.1/upernet_swin_small_patch4_window7_512x512",
        "v1.0.1/upernet_swin_base_patch4_window7_512x512",
    ),
    ("segmentation", "MoBY ImageNet-1K, ADE20K"): ("v1.0.3/moby_upernet_swin_tiny_patch4_window7_512x512",),
    ("video", "ImageNet-1K, Kinetics-400"): (
        "v1.0.4/swin_tiny_patch244_window877_kinetics400_1k",
        "v1.0.4/swin_small_patch244_window877_kinetics400_1k",
        "v1.0.4/swin_base_patch244_window877_kinetics400_1k",
    ),
    ("video", "ImageNet-22K, Kinetics-400"): (
        "v1.0.4/swin_base_patch244_window877_kinetics400_22k",
        "v1.0.4/swin_base_patch244_window1677_kinetics400_22k",
    ),
    ("video", "ImageNet-22K, Kinetics-600"): ("v1.0.4/swin_base_patch244_window877_kinetics600_22k",),
    ("video", "Kinetics-400, Something-Something V2"): ("v1.0.4/swin_base_patch244_window1677_sthv2",),
}

# Published sizes in MiB: of the first by the manifest of Open Model Zoo, which names this file as its source; those of
# OpenMMLab are of files whose SHA-256 begins as published.
_SIZES = {
    "swin_tiny_patch4_window7_224": 109.045,
    "swin_t": 108.190,
    "swin_s": 189.786,
    "swin_b": 335.364,
    "swin_v2_t": 108.626,
    "swin_v2_s": 190.675,
    "swin_v2_b": 336.372,
    "swin3d_t": 121.543,
    "swin3d_s": 218.288,
    "swin3d_b_1k": 364.134,
    "swin3d_b_22k": 364.134,
    "mask-rcnn_swin-t-p4-w7_fpn_1x_coco": 182.592,
    "swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512": 229.029,
}

_TORCHVISION: dict[tuple[Task, str], tuple[str, ...]] = {
    ("classification", _IN1K): (
        *("swin_t-704ceda3", "swin_s-5e29d889", "swin_b-68c6b09e"),
        *("swin_v2_t-b137f0e2", "swin_v2_s-637d8ceb", "swin_v2_b-781e5279"),
    ),
    ("video", "ImageNet-1K, Kinetics-400"): ("swin3d_t-7615ae03", "swin3d_s-da41c237", "swin3d_b_1k-24f7c7c6"),
    ("video", "ImageNet-22K, Kinetics-400"): ("swin3d_b_22k-7c6ae6fa",),
}

# Files of OpenMMLab by name, without what all have in common.
_MMDET_FILES = {
    "swin-t-p4-w7_fpn_1x_coco": "swin-t-p4-w7_fpn_1x_coco_20210902_120937-9d6b7cfa",
    "swin-t-p4-w7_fpn_ms-crop-3x_coco": "swin-t-p4-w7_fpn_ms-crop-3x_coco_20210906_131725-bacf6f7b",
    "swin-t-p4-w7_fpn_amp-ms-crop-3x_coco": "swin-t-p4-w7_fpn_fp16_ms-crop-3x_coco_20210908_165006-90a4008c",
    "swin-s-p4-w7_fpn_amp-ms-crop-3x_coco": "swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco_20210903_104808-b92c91f1",
}
_MMSEG_FILES = {
    "swin-tiny-patch4-window7-in1k": "swin_tiny_patch4_window7_*_224x224_1K_20210531_112542-e380ad3e",
    "swin-small-patch4-window7-in1k": "swin_small_patch4_window7_*_224x224_1K_20210526_192015-ee2fff1c",
    "swin-base-patch4-window7-in1k": "swin_base_patch4_window7_*_224x224_1K_20210526_192340-593b0e13",
    "swin-base-patch4-window7-in22k": "swin_base_patch4_window7_*_224x224_22K_20210526_211650-762e2178",
    "swin-base-patch4-window12-in1k-384x384": "swin_base_patch4_window12_*_384x384_1K_20210531_132020-05b22ea4",
    "swin-base-patch4-window12-in22k-384x384": "swin_base_patch4_window12_*_384x384_22K_20210531_125459-429057bf",
}


def _variant(name: str) -> str:
    """The backbone variant in a publisher's model name."""
    if name.startswith("swin_mlp"):
        return name.partition("_patch4")[0]
    found = re.search(r"swin(_?v2|3d)?[_-](tiny|small|base|large|[tsb])(?![a-z])", name)
    assert found is not None
    size = {"t": "tiny", "s": "small", "b": "base"}.get(found[2], found[2])
    if found[1] == "3d" or "patch244" in name:
        return f"swin3d_{size}"
    if found[1]:  # whose windows are an option
        return f"swinv2_{size}"
    return f"swin_{size}" + ("_384" if "window12" in name else "")


def _openmmlab(name: str, file: str, base: str, task: Task, data: str) -> Release:
    folder, digits = file.rsplit("_", 2)[0], file.rpartition("-")[2]
    url = f"{base}/{folder}/{file}.pth"
    return Release(name, url, task, data, _variant(name), "openmmlab", _SIZES.get(name), digits)


def _releases() -> Iterator[Release]:
    for (task, data), files in _OFFICIAL.items():
        for file in files:
            name = file.partition("/")[2]
            url = f"{_MICROSOFT}/{file}.pth"
            yield Release(name, url, task, data, _variant(name), "official", _SIZES.get(name))
    for (task, data), files in _TORCHVISION.items():
        for file in files:
            name, _, digits = file.partition("-")
            url = f"{_PYTORCH}/{file}.pth"
            yield Release(name, url, task, data, _variant(name), "torchvision", _SIZES[name], digits)
    for name, file in _MMDET_FILES.items():
        yield _openmmlab(f"mask-rcnn_{name}", f"mask_rcnn_{file}", _MMDET, "detection", f"{_IN1K}, COCO")
    for name, file in _MMSEG_FILES.items():
        file = f"upernet_{file.replace('*', '512x512_160k_ade20k_pretrain')}"
        data = f"{_IN1K if '_1K_' in file else 'ImageNet-22K'}, ADE20K"
        yield _openmmlab(f"{name}-pre_upernet_8xb2-160k_ade20k-512x512", file, _MMSEG, "segmentation", data)


RELEASES = {release.name: release for release in _releases()}
"""Every release by name."""
