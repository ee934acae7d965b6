"""Whole images, sliding windows and test-time augmentation against mmsegmentation's own `predict`, on equal weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from swin_dense.inference.segmentation import SegmentationInference, resize_images
from swin_dense.openmmlab.registry import mmseg_models
from swin_dense.records import Batch, Segmentation, Size

CLASSES = 6
ORIGINAL = (75, 110)
TEST_SIZE = (52, 77)
MODES: dict[str, dict[str, Any]] = {"whole": {}, "slide": {"crop_size": (32, 40), "stride": (21, 27)}}
TOLERANCE = 5e-6
"""Of logits of about 1: mmsegmentation resizes in float32, where a position at 100 pixels is good to some 1e-6."""


@cache
def encoder_decoder(align_corners: bool, mode: str) -> Any:
    """mmsegmentation's model: one stage of a narrow ResNet at a quarter of the image, and a head of 6 classes."""
    from mmengine.config import ConfigDict

    torch.manual_seed(0)
    stage = {"num_stages": 1, "strides": (1,), "dilations": (1,), "out_indices": (0,)}
    network = mmseg_models().build(
        {
            "type": "mmseg.EncoderDecoder",
            "data_preprocessor": {"type": "SegDataPreProcessor", "mean": [120.0] * 3, "std": [60.0] * 3},
            "backbone": {"type": "ResNetV1c", "depth": 18, "stem_channels": 8, "base_channels": 8, **stage},
            "decode_head": {
                "type": "FCNHead",
                "in_channels": 8,
                "in_index": 0,
                "channels": 8,
                "num_convs": 1,
                "concat_input": False,
                "num_classes": CLASSES,
                "align_corners": align_corners,
            },
            "train_cfg": {},
            "test_cfg": ConfigDict(mode=mode, **MODES[mode]),
            "_scope_": "mmseg",
        }
    )
    network.eval()
    classifier = network.decode_head.conv_seg
    with torch.no_grad():  # every class is to win somewhere
        torch.nn.init.normal_(classifier.weight)
        logits = Ours(network).logits(picture()[None])
        mean, deviation = logits.mean(dim=(0, 2, 3)), logits.std(dim=(0, 2, 3))
        classifier.weight.div_(deviation[:, None, None, None])
        classifier.bias.sub_(mean).div_(deviation)
    return network


class Ours:
    """The same weights, as a segmenter."""

    def __init__(self, network: Any) -> None:
        self.network, self.align_corners = network, network.align_corners

    def logits(self, images: Tensor) -> Tensor:
        inputs = self.network.data_preprocessor({"inputs": list(images)})["inputs"]
        logits: Tensor = self.network(inputs, mode="tensor")
        return logits


def seen_size(size: Size, ratio: float) -> Size:
    assert size == ORIGINAL
    return round(TEST_SIZE[0] * ratio), round(TEST_SIZE[1] * ratio)


def picture() -> Tensor:
    blocks = torch.randint(256, (1, 3, 11, 15), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return resize_images(blocks, ORIGINAL)[0]


def ours(network: Any, **options: Any) -> Segmentation:
    images = torch.nn.functional.pad(picture()[None], (0, 13, 0, 5))
    batch = Batch(images, (ORIGINAL,), (ORIGINAL,), image_ids=(0,), file_names=("0.png",))
    return SegmentationInference(seen_size, probabilities=torch.float32, **options).predict(Ours(network), batch)[0]


def theirs(network: Any, ratio: float = 1.0, mirrored: bool = False) -> Any:
    """mmsegmentation's answer to one view, as its data sample."""
    from mmseg.structures import SegDataSample

    view = resize_images(picture()[None], seen_size(ORIGINAL, ratio))[0]
    size = tuple(view.shape[1:])
    metainfo = {"ori_shape": ORIGINAL, "img_shape": size, "pad_shape": size, "img_path": "0.png"}
    if mirrored:
        view = view.flip(-1)
        metainfo |= {"flip": True, "flip_direction": "horizontal"}
    with torch.no_grad():
        return network.test_step({"inputs": [view], "data_samples": [SegDataSample(metainfo=metainfo)]})[0]


def assert_equal(found: Segmentation, scores: Tensor, probabilities: Tensor, label_map: Tensor) -> None:
    """Equal probabilities, and equal classes wherever the best one is ahead by more than rounding."""
    assert found.probabilities is not None
    torch.testing.assert_close(found.probabilities, probabilities, rtol=0, atol=TOLERANCE)
    best, second = scores.topk(2, dim=0).values
    clear = best - second > TOLERANCE
    assert clear.float().mean() > 0.999
    assert torch.equal(found.label_map[clear], label_map[clear].int())
    assert len(label_map.unique()) == CLASSES


@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize("mode", MODES)
def test_one_view_equals_the_encoder_decoder(mode: str, align_corners: bool) -> None:
    network = encoder_decoder(align_corners, mode)
    expected = theirs(network)
    logits = expected.seg_logits.data
    assert_equal(ours(network, **MODES[mode]), logits, logits.softmax(dim=0), expected.pred_sem_seg.data[0])


@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize("mode", MODES)
def test_many_views_equal_the_merged_predictions_of_test_time_augmentation(mode: str, align_corners: bool) -> None:
    from mmseg.models import SegTTAModel

    network = encoder_decoder(align_corners, mode)
    scales = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    views = [theirs(network, ratio, mirrored) for ratio in scales for mirrored in (False, True)]
    probabilities = torch.stack([view.seg_logits.data.softmax(dim=0) for view in views]).mean(dim=0)
    merged = SegTTAModel(module=network).merge_preds([views])[0].pred_sem_seg.data[0]
    assert_equal(ours(network, scales=scales, flip=True, **MODES[mode]), probabilities, probabilities, merged)


@pytest.mark.parametrize("size", [(52, 77), (25, 31), (160, 200)], ids=str)
def test_images_are_resized_like_those_that_published_models_are_tested_on(size: Size) -> None:
    image = picture()
    expected = cv2.resize(image.permute(1, 2, 0).numpy(), size[::-1], interpolation=cv2.INTER_LINEAR)
    found = resize_images(image[None], size)[0].permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
