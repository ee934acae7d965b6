"""The same weights and the same real images give the same logits and losses as mmseg with its own Swin Transformer."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors

from helpers.random_values import randomised
from swin_dense.config import load_config
from swin_dense.migration import convert_config
from swin_dense.openmmlab.registry import mmseg_models
from swin_dense.openmmlab.segmentation import OpenMMLabSegmenter
from swin_dense.records import IGNORE_INDEX, Batch
from swin_dense.weights import load_weights

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CLASSES = 150
SWIN_NANO = {"embed_dims": 32, "depths": (2, 2, 2, 2), "num_heads": (2, 4, 8, 16), "window_size": 4}
SIZES = {"ADE_train_00000036": (176, 192), "ADE_train_00016869": (192, 150)}  # both are padded to 192x192
"""Images of the training split, and the size of their upper left corner that is learnt from."""


def small_model(backbone: dict[str, Any]) -> dict[str, Any]:
    model = copy.deepcopy(load_config(CONFIGS / "demo" / "upernet_swin-nano_shapes.py").model)
    model["data_preprocessor"]["size"] = (192, 192)
    return {**model, "backbone": backbone}


def pair(reference: dict[str, Any], ours: dict[str, Any]) -> tuple[Any, OpenMMLabSegmenter]:
    """Mmseg's segmentor with random weights, and ours with the same ones, both for evaluation."""
    from mmengine.config import ConfigDict
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmseg"):
        theirs = randomised(mmseg_models().build(ConfigDict(reference)))
    segmenter = OpenMMLabSegmenter(ours, CLASSES).eval()
    report = load_weights(segmenter.network, {"state_dict": theirs.state_dict()})
    assert report.format in ("openmmlab", "same names") and not report.missing
    return theirs, segmenter


@pytest.fixture(scope="module")
def small() -> tuple[Any, OpenMMLabSegmenter]:
    reference = small_model({"type": "SwinTransformer", "drop_path_rate": 0.0, **SWIN_NANO})
    for head, channels in (("decode_head", [32, 64, 128, 256]), ("auxiliary_head", 128)):
        reference[head]["in_channels"] = channels
    ours = small_model({"type": "SwinDense", "variant": "swin_nano"})
    return pair(reference, ours)


def mmseg_data(folder: Path, sizes: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """What mmseg's own pipeline makes of the images, before its preprocessor."""
    from mmcv.transforms import LoadImageFromFile
    from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs

    packed = []
    for name, (height, width) in sizes.items():
        results: Any = {
            "img_path": str(folder / "images" / "training" / f"{name}.jpg"),
            "seg_map_path": str(folder / "annotations" / "training" / f"{name}.png"),
            "reduce_zero_label": True,
            "seg_fields": [],
        }
        # Both sides decode with Pillow: decoders of JPEG differ by a grey level here and there.
        results = LoadAnnotations()(LoadImageFromFile(imdecode_backend="pillow")(results))
        results["img"] = results["img"][:height, :width]
        results["gt_seg_map"] = results["gt_seg_map"][:height, :width]
        results["img_shape"] = (height, width)
        packed.append(PackSegInputs(meta_keys=("img_path", "ori_shape", "img_shape"))(results))
    return {key: [one[key] for one in packed] for key in ("inputs", "data_samples")}


def our_batch(folder: Path, sizes: dict[str, tuple[int, int]]) -> Batch:
    images = torch.zeros(len(sizes), 3, *np.max(list(sizes.values()), axis=0).tolist(), dtype=torch.uint8)
    label_maps = []
    for image, (name, (height, width)) in zip(images, sizes.items(), strict=True):
        picture = np.array(Image.open(folder / "images" / "training" / f"{name}.jpg").convert("RGB"))
        labels = np.array(Image.open(folder / "annotations" / "training" / f"{name}.png"), np.int32)
        image[:, :height, :width] = torch.from_numpy(picture).permute(2, 0, 1)[:, :height, :width]
        label_map = torch.from_numpy(np.where(labels == 0, IGNORE_INDEX, labels - 1))[:height, :width]
        label_maps.append(tv_tensors.Mask(label_map.int()))
    shapes = tuple(sizes.values())
    return Batch(images, shapes, shapes, tuple(range(len(sizes))), tuple(sizes), None, tuple(label_maps))


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == torch.float32
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def assert_equal_losses(pair_of_models: tuple[Any, OpenMMLabSegmenter], folder: Path) -> None:
    """In training mode: batch norms of the batch, and dropout drawn alike."""
    theirs, ours = (copy.deepcopy(one).train() for one in pair_of_models)
    data = theirs.data_preprocessor(mmseg_data(folder, SIZES), training=True)
    torch.manual_seed(3)
    expected = theirs.loss(data["inputs"], data["data_samples"])
    torch.manual_seed(3)
    batch = our_batch(folder, SIZES)
    terms = ours.losses(batch)
    labelled = sum(int((one != IGNORE_INDEX).sum()) for one in batch.label_maps or ())
    assert terms.keys() == {"decode.loss_ce", "decode.acc_seg", "aux.loss_ce", "aux.acc_seg"} == expected.keys()
    for name, value in terms.items():
        # An accuracy counts pixels, in percent: one of them may have two classes that are level but for rounding.
        pixel = 100 / labelled if "acc" in name else 0.0
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-5, abs=1.01 * pixel), name


@torch.no_grad()
def test_losses(small: tuple[Any, OpenMMLabSegmenter], shared_data: Path) -> None:
    assert_equal_losses(small, shared_data / "ade20k_tiny")


@torch.no_grad()
def test_logits_of_a_whole_image(small: tuple[Any, OpenMMLabSegmenter], shared_data: Path) -> None:
    theirs, ours = small
    folder, sizes = shared_data / "ade20k_tiny", {"ADE_train_00000036": (225, 336)}
    data = theirs.data_preprocessor(mmseg_data(folder, sizes), training=False)
    logits = ours.logits(our_batch(folder, sizes).images)
    assert logits.shape == (1, CLASSES, 57, 84)
    assert_close(logits, theirs(data["inputs"], mode="tensor"))
    metainfo = [one.metainfo for one in data["data_samples"]]
    resized = nn.functional.interpolate(logits, (225, 336), mode="bilinear", align_corners=ours.align_corners)
    assert_close(resized, theirs.inference(data["inputs"], metainfo))


@torch.no_grad()
def test_the_shipped_and_the_converted_config_are_the_model_that_mmseg_packages(shared_data: Path) -> None:
    import mmseg
    from mmengine.config import Config

    mmseg_models()
    name = "swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py"
    reference = Config.fromfile(Path(mmseg.__file__).parent / ".mim" / "configs" / "swin" / name).model
    reference.backbone.init_cfg = None
    shipped = load_config(CONFIGS / "segmentation" / "upernet_swin-t_512_160k_ade20k.py").model
    converted = convert_config(f"mmseg::swin/{name}").config.model
    assert converted["backbone"] == shipped["backbone"]
    theirs, ours = pair(reference, converted)
    assert sum(one.numel() for one in ours.parameters()) == sum(one.numel() for one in theirs.parameters())
    folder, sizes = shared_data / "ade20k_tiny", {"ADE_train_00016900": (200, 270)}
    data = theirs.data_preprocessor(mmseg_data(folder, sizes), training=False)
    assert_close(ours.logits(our_batch(folder, sizes).images), theirs(data["inputs"], mode="tensor"))


@pytest.mark.parametrize(
    "name", ["upernet/upernet_r50_4xb4-160k_ade20k-512x512", "fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512"]
)
@torch.no_grad()
def test_a_converted_config_with_a_resnet_is_the_model_that_mmseg_packages(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    """With narrow layers, and batch norms of one device."""
    import mmseg
    from mmengine.config import Config

    mmseg_models()
    values = Config.fromfile(Path(mmseg.__file__).parent / ".mim" / "configs" / f"{name}.py").to_dict()
    model = values["model"]
    model["backbone"] |= {"base_channels": 8, "stem_channels": 8}
    model["data_preprocessor"]["size"] = (192, 192)
    for key, channels in (("decode_head", 64), ("auxiliary_head", 32)):
        width = model[key]["in_channels"]
        narrow = [one // 8 for one in width] if isinstance(width, list) else width // 8
        model[key] |= {"in_channels": narrow, "channels": channels}
    for part in (model["backbone"], model["decode_head"], model["auxiliary_head"]):
        part["norm_cfg"]["type"] = "BN"
    (tmp_path / "theirs.json").write_text(json.dumps(values))
    reference = {**model, "pretrained": None}
    both = pair(reference, convert_config(tmp_path / "theirs.json").config.model)
    assert_equal_losses(both, shared_data / "ade20k_tiny")
    theirs, ours = both
    folder, sizes = shared_data / "ade20k_tiny", {"ADE_train_00016900": (200, 270)}
    data = theirs.data_preprocessor(mmseg_data(folder, sizes), training=False)
    assert_close(ours.logits(our_batch(folder, sizes).images), theirs(data["inputs"], mode="tensor"))
