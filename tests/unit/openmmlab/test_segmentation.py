"""An mmseg encoder-decoder behind our records: what goes in, what comes out, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from swin_dense.config import load_config
from swin_dense.errors import ConfigError
from swin_dense.openmmlab.segmentation import OpenMMLabSegmenter
from swin_dense.records import IGNORE_INDEX, Batch

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
CLASSES = 6
MEAN, STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])


def demo_model(**changes: Any) -> dict[str, Any]:
    model = copy.deepcopy(load_config(CONFIGS / "demo" / "upernet_swin-nano_shapes.py").model)
    model["data_preprocessor"]["size"] = (64, 96)
    return {**model, **changes}


def batch(sizes: tuple[tuple[int, int], ...] = ((64, 96), (50, 70)), seed: int = 0) -> Batch:
    """Noise, with label maps in which some pixels have no class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(len(sizes), 3, 64, 96, dtype=torch.uint8)
    label_maps = []
    for image, (height, width) in zip(images, sizes, strict=True):
        image[:, :height, :width] = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        label_maps.append(torch.randint(IGNORE_INDEX, CLASSES, (height, width), generator=generator, dtype=torch.int32))
    names = tuple(f"{i}.jpg" for i in range(len(sizes)))
    return Batch(images, sizes, sizes, tuple(range(len(sizes))), names, label_maps=tuple(label_maps))


@pytest.fixture(scope="module")
def segmenter() -> OpenMMLabSegmenter:
    torch.manual_seed(0)
    return OpenMMLabSegmenter(demo_model(), CLASSES).eval()


def losses_of(segmenter: OpenMMLabSegmenter, **changes: Any) -> dict[str, float]:
    """The losses of the model with other settings and the same weights."""
    other = OpenMMLabSegmenter(demo_model(**changes), CLASSES).eval()
    other.network.load_state_dict(segmenter.network.state_dict())
    return {name: value.item() for name, value in other.losses(batch()).items()}


def padded(given: Batch) -> tuple[Tensor, Tensor]:
    """Normalised images (2, 3, 64, 96) and labels (2, 64, 96), -100 where there is no class, by hand."""
    inputs, labels = torch.zeros(2, 3, 64, 96), torch.full((2, 64, 96), -100)
    assert given.label_maps is not None
    for i, ((height, width), label_map) in enumerate(zip(given.sizes, given.label_maps, strict=True)):
        image = given.images[i, :, :height, :width].float()
        inputs[i, :, :height, :width] = (image - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
        labels[i, :height, :width] = label_map.long().masked_fill(label_map == IGNORE_INDEX, -100)
    return inputs, labels


def full_size_logits(segmenter: OpenMMLabSegmenter, inputs: Tensor, head: str = "decode_head") -> Tensor:
    logits = getattr(segmenter.network, head)(segmenter.network.backbone(inputs))
    return nn.functional.interpolate(logits, inputs.shape[2:], mode="bilinear")


@torch.no_grad()
def test_the_losses_are_cross_entropies_over_every_pixel_of_the_padded_maps(segmenter: OpenMMLabSegmenter) -> None:
    """Pixels without a class, the padding among them, cost nothing."""
    terms = segmenter.losses(batch())
    inputs, labels = padded(batch())
    for name, head, weight in (("decode", "decode_head", 1.0), ("aux", "auxiliary_head", 0.4)):
        logits = full_size_logits(segmenter, inputs, head)
        expected = weight * nn.functional.cross_entropy(logits, labels, reduction="sum") / labels.numel()
        torch.testing.assert_close(terms[f"{name}.loss_ce"], expected, rtol=1e-5, atol=0)
        right = (logits.argmax(1) == labels).sum() / (labels >= 0).sum()
        torch.testing.assert_close(terms[f"{name}.acc_seg"], 100 * right, rtol=1e-5, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("avg_non_ignore", [False, True])
def test_classes_may_have_weights_where_some_pixels_have_no_class(
    segmenter: OpenMMLabSegmenter, avg_non_ignore: bool
) -> None:
    """The mean is over the weights of the pixels that count, as in PyTorch."""
    weights = [0.1, 1.0, 2.0, 1.0, 0.5, 3.0]
    loss = {"type": "CrossEntropyLoss", "class_weight": weights, "avg_non_ignore": avg_non_ignore}
    terms = losses_of(segmenter, decode_head={**demo_model()["decode_head"], "loss_decode": loss})
    inputs, labels = padded(batch())
    logits = full_size_logits(segmenter, inputs)
    expected = nn.functional.cross_entropy(logits, labels, weight=torch.tensor(weights))
    assert terms["decode.loss_ce"] == pytest.approx(expected.item(), rel=1e-5)


@torch.no_grad()
def test_logits_are_those_of_the_decode_head_on_normalised_images(segmenter: OpenMMLabSegmenter) -> None:
    images = batch().images
    expected = segmenter.network(((images - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)), mode="tensor")
    assert expected.shape == (2, CLASSES, 16, 24)
    torch.testing.assert_close(segmenter.logits(images), expected)
    torch.testing.assert_close(segmenter.logits(images.float()), expected)
    assert segmenter.logits(images[:, :, :33, :51]).shape == (2, CLASSES, 9, 13)


def test_bfloat16_gives_float32_logits_and_finite_losses(segmenter: OpenMMLabSegmenter) -> None:
    given, network = batch(), copy.deepcopy(segmenter)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            logits = network.logits(given.images)
        terms = network.train().losses(given)
    assert logits.dtype == torch.float32
    with torch.no_grad():
        assert (logits - segmenter.logits(given.images)).abs().max() < 0.05 * logits.abs().max()
    total = sum(value for name, value in terms.items() if "loss" in name)
    total.backward()
    assert total.dtype == torch.float32 and torch.isfinite(total)


@torch.no_grad()
def test_the_number_that_mmseg_ignores_is_the_models_own(segmenter: OpenMMLabSegmenter) -> None:
    def with_ignored(number: int) -> dict[str, Any]:
        model = demo_model()
        return {
            "data_preprocessor": {**model["data_preprocessor"], "seg_pad_val": number},
            "decode_head": {**model["decode_head"], "ignore_index": number},
            "auxiliary_head": {**model["auxiliary_head"], "ignore_index": number},
        }

    expected = {name: value.item() for name, value in segmenter.losses(batch()).items()}
    for number in (-100, 99, 65535):
        assert losses_of(segmenter, **with_ignored(number)) == pytest.approx(expected, rel=1e-6)


@torch.no_grad()
def test_hard_example_mining_keeps_the_pixels_with_the_greatest_losses(segmenter: OpenMMLabSegmenter) -> None:
    kept = 500  # per image
    head = {**demo_model()["decode_head"], "sampler": {"type": "OHEMPixelSampler", "min_kept": kept}}
    inputs, labels = padded(batch())
    losses = nn.functional.cross_entropy(full_size_logits(segmenter, inputs), labels, reduction="none")
    expected = losses.flatten().sort(descending=True).values[: 2 * kept].sum() / labels.numel()
    assert losses_of(segmenter, decode_head=head)["decode.loss_ce"] == pytest.approx(expected.item(), rel=1e-5)


def test_an_image_without_any_class_gives_finite_losses_and_gradients(segmenter: OpenMMLabSegmenter) -> None:
    given, network = batch(), copy.deepcopy(segmenter).train()
    assert given.label_maps is not None
    empty = replace(given, label_maps=tuple(torch.full_like(one, IGNORE_INDEX) for one in given.label_maps))
    total = sum(value for name, value in network.losses(empty).items() if "loss" in name)
    total.backward()
    assert total.item() == 0
    assert all(one.grad is None or torch.isfinite(one.grad).all() for one in network.parameters())


def test_the_class_count_and_the_widths_of_the_maps_reach_every_head(segmenter: OpenMMLabSegmenter) -> None:
    auxiliary = demo_model()["auxiliary_head"]
    network = OpenMMLabSegmenter(demo_model(auxiliary_head=[auxiliary, {**auxiliary, "in_index": -1}]), 3).network
    heads = [network.decode_head, *network.auxiliary_head]
    assert [head.num_classes for head in heads] == [head.conv_seg.out_channels for head in heads] == [3, 3, 3]
    assert [head.in_channels for head in heads] == [[32, 64, 128, 256], 128, 256]


def test_the_model_dict_is_left_as_it_is() -> None:
    model = demo_model()
    OpenMMLabSegmenter(model, 3)
    assert model == demo_model()


def norms(network: nn.Module) -> list[nn.Module]:
    return [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]


def synchronised_model() -> dict[str, Any]:
    model = demo_model()
    model["decode_head"]["norm_cfg"] = model["auxiliary_head"]["norm_cfg"] = {"type": "SyncBN", "requires_grad": True}
    return model


def test_synchronised_norms_are_plain_ones_where_there_are_only_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's refuse to train on a CPU as soon as processes form a group."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    segmenter = OpenMMLabSegmenter(synchronised_model(), CLASSES)
    assert norms(segmenter) and not any(isinstance(one, nn.SyncBatchNorm) for one in norms(segmenter))
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        assert all(torch.isfinite(value) for value in segmenter.losses(batch()).values())
    finally:
        distributed.destroy_process_group()


@torch.no_grad()
def test_synchronised_norms_stay_on_accelerators_and_are_plain_ones_in_a_single_process(
    segmenter: OpenMMLabSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    synchronised = OpenMMLabSegmenter(synchronised_model(), CLASSES)
    monkeypatch.undo()
    assert all(isinstance(one, nn.SyncBatchNorm) for one in norms(synchronised))
    synchronised.load_state_dict(segmenter.state_dict())
    plain = copy.deepcopy(segmenter).train()
    torch.manual_seed(1)  # of dropout
    expected = plain.losses(batch())
    torch.manual_seed(1)
    torch.testing.assert_close(synchronised.losses(batch()), expected)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("type",), "EncoderDecodr", 'model.type: mmseg has no "EncoderDecodr"; did you mean "EncoderDecoder"?'),
        (
            ("decode_head", "type"),
            "UperHead",
            'model.decode_head.type: mmseg has no "UperHead"; did you mean "UPerHead"?',
        ),
        (("decode_head", "in_channels"), [1, 2, 3, 4], "model.decode_head.in_channels is [1, 2, 3, 4], but"),
        (
            ("decode_head", "in_index"),
            [0, 1, 2, 4],
            "model.decode_head.in_index is [0, 1, 2, 4], but the backbone returns",
        ),
        (("decode_head", "poolscales"), (1, 2), "mmseg cannot build it"),
        (
            ("decode_head", "ignore_index"),
            0,
            "model.decode_head.ignore_index is 0, but model.data_preprocessor.seg_pad",
        ),
        (("decode_head", "out_channels"), 1, "model.decode_head.out_channels is 1 for 6 classes"),
        (
            ("auxiliary_head", "in_channels"),
            64,
            "model.auxiliary_head.in_channels is 64, but the backbone's maps 2 have",
        ),
        (("backbone", "variant"), "swin_nan", "swin_nano"),
        (("backbone", "variant"), "swin3d_tiny", "is for videos; detectors and segmenters take images"),
        (("backbone", "init_cfg"), {"type": "Pretrained", "checkpoint": "http://x"}, "model.backbone.init_cfg"),
        (("pretrained",), "open-mmlab://resnet50_v1c", "model.pretrained"),
        (("data_preprocessor",), None, "data_preprocessor is missing"),
        (("data_preprocessor", "size"), None, "model.data_preprocessor: set size=(height, width)"),
        (("data_preprocessor", "test_cfg"), {"size_divisor": 32}, "model.data_preprocessor.test_cfg"),
    ],
)
def test_a_wrong_part_is_named(path: tuple[str, ...], value: Any, message: str) -> None:
    model = demo_model()
    target = model
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(ConfigError) as caught:
        OpenMMLabSegmenter(model, CLASSES)
    assert message in str(caught.value)


def test_the_number_that_is_ignored_may_be_no_class() -> None:
    with pytest.raises(ConfigError, match="seg_pad_val is 255, which is also one of the 300 classes"):
        OpenMMLabSegmenter(demo_model(), 300)


def test_batch_norms_that_see_a_single_pixel_of_a_single_image_are_refused_with_the_way_out() -> None:
    network = OpenMMLabSegmenter(synchronised_model(), CLASSES)
    with pytest.raises(ConfigError, match=r"data\.batch_size=2.* norm_cfg=dict\(type='GN', num_groups=32\)"):
        network.losses(batch(((64, 96),)))
    assert torch.isfinite(network.losses(batch())["decode.loss_ce"])


def test_images_larger_than_the_crop_of_the_model_are_refused(segmenter: OpenMMLabSegmenter) -> None:
    model = demo_model()
    model["data_preprocessor"]["size"] = (64, 80)
    with pytest.raises(ConfigError, match=r"0.jpg comes as 64x96, .*size, \(64, 80\), .*size\": \(64, 96\)"):
        OpenMMLabSegmenter(model, CLASSES).losses(batch())


@pytest.mark.parametrize("size", [64, (64,), "64"])
def test_a_crop_that_is_no_height_and_width_is_refused(size: object) -> None:
    model = demo_model()
    model["data_preprocessor"]["size"] = size
    with pytest.raises(ConfigError, match=r"size is .*64.*; set it to \(height, width\) of the training crop"):
        OpenMMLabSegmenter(model, CLASSES)
