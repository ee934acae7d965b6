"""Torchvision's own v2 transforms act on samples, and what comes out is still one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree
from torchvision import tv_tensors
from torchvision.transforms import v2

from swin_dense.data.user_transforms import UserTransforms
from swin_dense.errors import ConfigError
from swin_dense.records import Batch, Detections, Instances, Sample, Segmentation, collate


def sample(height: int = 24, width: int = 40, masks: bool = True) -> Sample:
    """Three objects of which the picture, masks, label map and boxes say the same; label i is class i everywhere."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    labels = torch.full((height, width), -1, dtype=torch.int32)
    found = torch.zeros(3, height, width, dtype=torch.bool)
    boxes = torch.tensor([[2.0, 3, 12, 11], [20, 2, 38, 10], [6, 14, 30, 22]])
    for i, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
        image[:, y1:y2, x1:x2] = 40 * (i + 1)
        labels[y1:y2, x1:x2] = i
        found[i, y1:y2, x1:x2] = True
    instances = Instances(
        tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
        tv_tensors.Mask(found) if masks else None,
        torch.arange(3),
        torch.tensor([False, True, False]),
    )
    return Sample(tv_tensors.Image(image), 7, "7.png", (height, width), instances, tv_tensors.Mask(labels))


def as_dict(one: Sample) -> dict[str, Any]:
    assert one.instances is not None
    return {"image": one.image, "boxes": one.instances.boxes, "masks": one.instances.masks, "map": one.label_map}


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomHorizontalFlip(1),
        v2.Resize((48, 64)),
        v2.Compose([v2.ColorJitter(0.5, 0.5), v2.RandomVerticalFlip(1)]),
        v2.RandomRotation(30),
        v2.RandomResizedCrop((20, 20), scale=(0.3, 0.8)),
        v2.RandomPerspective(p=1),
        v2.RandomZoomOut(p=1),
        v2.RandomApply([v2.GaussianBlur(3)], p=1),
    ],
)
@pytest.mark.parametrize("masks", [True, False])
def test_a_transform_acts_on_a_sample_as_on_a_dict(transform: Callable[[Any], Any], masks: bool) -> None:
    ours = sample(masks=masks)
    torch.manual_seed(1)
    expected = transform(as_dict(ours))
    torch.manual_seed(1)
    result = transform(ours)
    assert not torch.equal(expected["image"], ours.image)
    for name, value in as_dict(result).items():
        assert type(value) is type(expected[name])
        assert value is None or torch.equal(value, expected[name])
    assert (result.image_id, result.file_name, result.original_size) == (7, "7.png", (24, 40))
    assert torch.equal(result.instances.labels, ours.instances.labels)


def test_the_other_records_are_pytrees_too() -> None:
    batch = collate([sample(), sample()])
    doubled = pytree.tree_map_only(torch.Tensor, lambda one: one + one, batch)
    assert isinstance(doubled, Batch) and torch.equal(doubled.images, batch.images * 2)
    assert torch.equal(doubled.instances[1].labels, torch.tensor([0, 2, 4])) and doubled.image_ids == (7, 7)
    found = Detections(torch.ones(1, 4), torch.ones(1), torch.ones(1).long(), [{"size": [1, 1], "counts": b"01"}])
    moved = pytree.tree_map_only(torch.Tensor, torch.zeros_like, found)
    assert moved.boxes.sum() == 0 and moved.masks == found.masks
    assert pytree.tree_map_only(torch.Tensor, lambda one: one + 1, Segmentation(torch.zeros(2, 2))).label_map.sum() == 4


def test_settings_name_transforms_and_nest() -> None:
    settings = [
        {"type": "torchvision.transforms.v2.ColorJitter", "brightness": (2, 2)},
        {"type": "RandomApply", "transforms": [{"type": "RandomHorizontalFlip", "p": 1}], "p": 1.0},
        {"type": v2.RandomVerticalFlip, "p": 1},
        v2.Resize((12, 20)),
    ]
    ours = sample()
    result = UserTransforms(settings)(ours)
    assert result.size == (12, 20) and int(result.image.max()) == 240
    assert result.instances.boxes[0].tolist() == [14, 6.5, 19, 10.5]  # of 24 x 40: 28..38 and 13..21, halved


def test_what_is_filled_in_has_no_class() -> None:
    torch.manual_seed(0)
    result = UserTransforms([v2.RandomZoomOut(p=1, side_range=(2, 2))])(sample())
    assert result.size == (48, 80)
    assert int((result.label_map == 0).sum()) == 80 and int((result.label_map >= 0).sum()) == 80 + 144 + 192


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        [v2.RandomCrop((20, 16)), v2.SanitizeBoundingBoxes()],
        [v2.Compose([v2.RandomCrop((20, 16)), v2.RandomApply([v2.SanitizeBoundingBoxes(min_size=3)], p=1)])],
        [{"type": "RandomCrop", "size": (20, 16)}, {"type": "SanitizeBoundingBoxes", "min_size": 1}],
        [v2.RandomIoUCrop()],
        [v2.RandomCrop((20, 16))],
    ],
)
def test_boxes_masks_labels_and_flags_stay_aligned_when_some_are_left_out(settings: list[Any], masks: bool) -> None:
    transform, counts = UserTransforms(settings), set()
    for seed in range(25):
        torch.manual_seed(seed)
        result = transform(sample(masks=masks))
        instances = result.instances
        counts.add(len(instances))
        assert torch.equal(instances.crowd, instances.labels == 1)
        for place, (box, label) in enumerate(
            zip(instances.boxes.int().tolist(), instances.labels.tolist(), strict=True)
        ):
            x1, y1, x2, y2 = box
            assert x2 > x1 and y2 > y1
            assert (result.image[0, y1:y2, x1:x2] == 40 * (label + 1)).all()
            assert (result.label_map[y1:y2, x1:x2] == label).all()
            assert not masks or instances.masks[place].sum() == (x2 - x1) * (y2 - y1)
    assert len(counts) > 1


def test_a_label_map_as_high_as_there_are_boxes_is_left_whole() -> None:
    ours = sample()
    thin = replace(ours, label_map=tv_tensors.Mask(torch.zeros(3, 40, dtype=torch.int32)))
    thin = replace(thin, image=tv_tensors.Image(torch.zeros(3, 3, 40, dtype=torch.uint8)))
    small = tv_tensors.BoundingBoxes(
        torch.tensor([[0.0, 0, 9, 3], [0, 0, 0, 0], [1, 1, 5, 3]]), format="XYXY", canvas_size=(3, 40)
    )
    thin = replace(thin, instances=replace(ours.instances, boxes=small, masks=None))
    result = UserTransforms([v2.SanitizeBoundingBoxes()])(thin)
    assert result.label_map.shape == (3, 40) and result.instances.labels.tolist() == [0, 2]


def drop_a_label(one: Sample) -> Sample:
    return replace(one, instances=replace(one.instances, labels=one.instances.labels[1:]))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ([{"type": "ColourJitter"}], r'extra\[0\]: torchvision.transforms.v2 has no .*did you mean "ColorJitter"'),
        ([v2.Identity(), {"type": "ColorJitter", "lightness": 1}], r"extra\[1\]: ColorJitter: .*lightness"),
        ([{"type": "RandomHorizontalFlip", "p": 2}], r"extra\[0\]: RandomHorizontalFlip: "),
        ([{"type": "no_such_module.Jitter"}], "cannot be imported"),
        ([{"brightness": 1}], "needs a type"),
        (["ColorJitter"], "write dict"),
        ([{"type": "RandomApply", "transforms": [{"type": "Jiter"}]}], "has no 'Jiter'"),
        ([{"type": "ToDtype", "dtype": torch.float32, "scale": True}], r"extra\[0\] \(ToDtype\) leaves an image of"),
        ([{"type": "Grayscale"}], r"extra\[0\] \(Grayscale\) leaves an image of"),
        ([{"type": "ConvertBoundingBoxFormat", "format": "XYWH"}], "not in the format XYXY"),
        ([drop_a_label], "leaves 3 boxes, 2 labels and 3 crowd flags"),
        ([lambda one: one.image], "leaves a Image instead of a sample"),
    ],
)
def test_what_leaves_no_sample_is_refused_by_name(settings: list[Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        UserTransforms(settings, "augmentation.extra")(sample())
