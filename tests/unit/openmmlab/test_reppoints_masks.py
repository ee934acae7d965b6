"""The masks of Mask RepPoints V2: small networks drawn pixel by pixel, losses, and masks of the image on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcv.cnn import ConvModule
from mmdet.models.utils import aligned_bilinear
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional

from swin_dense.config import load_config
from swin_dense.errors import ConfigError
from swin_dense.openmmlab.detection import build_network
from swin_dense.openmmlab.heads.condconv_masks import CondConvMaskHead, dice_losses
from swin_dense.openmmlab.registry import mmdet_models
from swin_dense.weights import load_weights

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
CHANNELS = 4


def mask_head(channels: int = CHANNELS, **changes: Any) -> CondConvMaskHead:
    mmdet_models()
    features = {
        "in_channels": 8,
        "feat_channels": 8,
        "start_level": 0,
        "end_level": 1,
        "out_channels": channels,
        "mask_stride": 8,
        "num_stacked_convs": 1,
        "norm_cfg": {"type": "BN"},
    }
    return CondConvMaskHead(features, **{"test_cfg": {"mask_thr": 0.5}, **changes})


def found(params: Tensor, **fields: Any) -> Any:
    count = len(params)
    return InstanceData(
        param_preds=params,
        points=torch.full((count, 2), 20.0),
        strides=torch.full((count,), 16.0),
        bboxes=torch.tensor([[8.0, 8.0, 40.0, 24.0]]).repeat(count, 1),
        **fields,
    )


def sample(height: int, width: int, scale: float, masks: Tensor | None = None) -> Any:
    one = DetDataSample(
        metainfo={
            "img_shape": (height, width),
            "ori_shape": (round(height / scale), round(width / scale)),
            "scale_factor": (scale, scale),
        }
    )
    if masks is not None:
        bitmaps = BitmapMasks(masks.numpy().astype(np.uint8), height, width)
        one.gt_instances = InstanceData(masks=bitmaps, bboxes=torch.zeros(len(masks), 4))
        one.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    return one


def test_the_published_head_needs_189_numbers_for_a_mask() -> None:
    """CondInst's 169, and a mask of their own for the two inner layers: 10 + 1 and 8 + 1."""
    assert mask_head(channels=8).num_params == 169 + 11 + 9


def slow_masks(features: Tensor, params: list[float], point: tuple[float, float]) -> list[list[float]]:
    """What the three layers take the mask to be, cell by cell, of a head with 4 features and 2 inner channels."""
    numbers = iter(params)

    def matrix(rows: int, columns: int) -> list[list[float]]:
        return [[next(numbers) for _ in range(columns)] for _ in range(rows)]

    weights = [matrix(2, 6), matrix(2, 2), matrix(1, 2)]
    biases = [matrix(1, 2)[0], matrix(1, 2)[0], matrix(1, 1)[0]]
    tried_weights, tried_biases = [matrix(1, 6)[0], matrix(1, 2)[0]], [next(numbers), next(numbers)]
    drawn: list[list[float]] = [[], [], []]
    _, height, width = features.shape
    for row in range(height):
        for column in range(width):
            x = [(point[0] - (8 * column + 4)) / (8 * 16), (point[1] - (8 * row + 4)) / (8 * 16)]
            x += features[:, row, column].tolist()
            for layer in range(3):
                if layer < 2:
                    tried = sum(w * v for w, v in zip(tried_weights[layer], x, strict=True)) + tried_biases[layer]
                    drawn[layer].append(tried)
                rows = zip(weights[layer], biases[layer], strict=True)
                x = [sum(w * v for w, v in zip(line, x, strict=True)) + bias for line, bias in rows]
                x = [max(v, 0.0) for v in x] if layer < 2 else x
            drawn[2].append(x[0])
    return drawn


def test_each_object_draws_its_mask_with_its_own_network() -> None:
    head = mask_head(feat_channels=2, mask_out_stride=8)
    generator = torch.Generator().manual_seed(0)
    params = torch.randn(3, head.num_params, generator=generator)
    features = torch.randn(CHANNELS, 3, 5, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # which coordinates would not survive
        layers = head.draw(features, found(params))
    for number in range(3):
        expected = slow_masks(features, params[number].tolist(), (20.0, 20.0))
        for layer, cells in zip(layers, expected, strict=True):
            torch.testing.assert_close(layer[number], torch.tensor(cells).view(3, 5), rtol=1e-4, atol=1e-5)


def test_dice_is_nought_for_equal_masks_and_one_for_foreign_ones() -> None:
    target = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    predicted = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.5], [0.0, 0.0]]])
    assert dice_losses(predicted, target).tolist() == pytest.approx([0.0, 1.0], abs=1e-5)
    half = dice_losses(torch.full((1, 2, 2), 0.5), torch.ones(1, 2, 2))
    assert half.item() == pytest.approx(1 - 2 * 2 / (1 + 4), abs=1e-5)


def test_losses_are_those_of_every_second_pixel_weighted_by_layer() -> None:
    torch.manual_seed(0)
    head = mask_head(feat_channels=2, mask_out_stride=4, layer_weights=(0.0, 0.6, 1.0)).eval()
    maps = [torch.randn(2, 8, 6, 8), torch.randn(2, 8, 3, 4)]  # of images padded to 48x64
    masks = torch.rand(2, 40, 64) > 0.5
    params = torch.randn(3, head.num_params)
    infos = [
        found(params[:2], pos_assigned_gt_inds=torch.tensor([1, 0])),
        found(params[2:], pos_assigned_gt_inds=torch.tensor([1])),
    ]
    losses = head.loss(maps, [sample(40, 64, 1.0, masks), sample(40, 64, 1.0, masks)], infos)
    assert losses.keys() == {"loss_mask_1", "loss_mask_2"}
    targets = functional.pad(masks[[1, 0, 1], 2::4, 2::4].float(), (0, 0, 0, 2))
    first, second = (head.draw(feature, info) for feature, info in zip(head(maps), infos, strict=True))
    drawn = [torch.cat(layer) for layer in zip(first, second, strict=True)]
    for layer, weight in ((1, 0.6), (2, 1.0)):
        expected = weight * dice_losses(drawn[layer].sigmoid(), targets).mean()
        torch.testing.assert_close(losses[f"loss_mask_{layer}"], expected)


@pytest.mark.parametrize("count", [0, 5])
def test_gradients_reach_everything_whether_there_are_objects_or_not(count: int) -> None:
    head = mask_head(max_masks_to_train=3)
    params = torch.randn(count, head.num_params, requires_grad=True)
    info = found(params, pos_assigned_gt_inds=torch.zeros(count, dtype=torch.long))
    maps = [torch.randn(1, 8, 4, 4), torch.randn(1, 8, 2, 2)]
    masks = torch.ones(min(count, 1), 32, 32, dtype=torch.bool)
    sum(head.loss(maps, [sample(32, 32, 1.0, masks)], [info]).values()).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []
    assert params.grad is not None and int(params.grad.any(dim=1).sum()) == min(count, 3)


def test_masks_and_boxes_are_those_of_the_image_on_disk() -> None:
    """A network that answers "left of my place", on an image of 40x56 pixels shown at twice its size, padded."""
    head = mask_head(feat_channels=2).eval()
    params = torch.zeros(2, head.num_params)
    params[:, 0] = 1.0  # the first inner channel: relative x, positive to the left
    params[:, 12] = 1.0  # kept by the second layer
    params[:, 16] = 1000.0  # and by the last one
    params[:, 22] = -1.0  # where it is hardly anything: no mask
    result = found(params, scores=torch.tensor([0.9, 0.8]))
    result.points = torch.tensor([[40.0, 40.0], [84.0, 40.0]])
    maps = [torch.randn(1, 8, 12, 16), torch.randn(1, 8, 6, 8)]
    (disk,) = head.predict(maps, [sample(80, 112, 2.0)], rescale=True, results_list=[result])
    assert disk.masks.shape == (2, 40, 56) and disk.masks.dtype == torch.bool
    assert disk.bboxes.tolist() == [[4.0, 4.0, 20.0, 12.0]] * 2
    for mask, edge in zip(disk.masks, (22, 42), strict=True):  # half of the first middle of a cell that says no
        assert mask[:, : edge - 2].all() and not mask[:, edge + 2 :].any()


def test_no_objects_have_no_masks() -> None:
    head = mask_head().eval()
    maps = [torch.randn(1, 8, 4, 4), torch.randn(1, 8, 2, 2)]
    nothing = found(torch.zeros(0, head.num_params))
    (result,) = head.predict(maps, [sample(32, 32, 2.0)], rescale=True, results_list=[nothing])
    assert result.masks.shape == (0, 16, 16) and result.bboxes.shape == (0, 4)


def test_heads_that_do_not_fit_each_other_say_so() -> None:
    with pytest.raises(ConfigError, match="num_mask_params is 7, but the mask head needs 189"):
        mask_head(channels=8).draw(torch.zeros(8, 2, 2), found(torch.zeros(1, 7)))
    with pytest.raises(ConfigError, match="mask_out_stride is 3; it must divide the stride of the mask features, 8"):
        mask_head(mask_out_stride=3)


class PublishedBranch(nn.Module):
    """The mask branch of the published code, with its names."""

    def __init__(self) -> None:
        super().__init__()
        norm = {"type": "BN"}
        self.refine = nn.ModuleList(ConvModule(64, 64, 3, padding=1, norm_cfg=norm) for _ in range(3))
        tower = [ConvModule(64, 64, 3, padding=1, norm_cfg=norm) for _ in range(4)]
        self.tower = nn.Sequential(*tower, nn.Conv2d(64, 8, 1))

    def forward(self, maps: list[Tensor]) -> Tensor:
        levels = [refine(one) for refine, one in zip(self.refine, maps, strict=True)]
        return self.tower(sum(aligned_bilinear(level, 2**i) if i else level for i, level in enumerate(levels)))


def test_published_weights_draw_the_published_features() -> None:
    torch.manual_seed(0)
    model = load_config(CONFIGS / "demo/mask-reppoints-v2_swin-nano_shapes.py").model
    model["mask_head"]["mask_feature_head"] |= {"feat_channels": 64, "num_stacked_convs": 4, "out_channels": 8}
    network, branch = build_network(model, 3).eval(), PublishedBranch().eval()
    for name, values in branch.state_dict().items():
        if values.is_floating_point():
            values.uniform_(0.5, 1.5) if "bn" in name else values.normal_(std=0.1)
    buffers = {f"backbone.layers.{i}.blocks.0.attn.relative_position_index": torch.zeros(49, 49) for i in range(4)}
    published = {f"bbox_head.mask_head.branch.{name}": values for name, values in branch.state_dict().items()}
    published["bbox_head.mask_head.head.sizes_of_interest"] = torch.tensor([64, 128, 256, 512, 1024])
    others = {name: values for name, values in network.state_dict().items() if not name.startswith("mask_head.")}
    report = load_weights(network, {**others, **buffers, **published})
    assert report.format == "official" and not report.missing
    assert {note.reason for note in report.skipped} == {"recomputed", "a setting, which the config states"}
    maps = [torch.randn(1, 64, 16 // 2**i, 24 // 2**i) for i in range(3)]
    with torch.no_grad():
        torch.testing.assert_close(network.mask_head(maps), branch(maps))
