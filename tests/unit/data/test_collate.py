"""Samples of different sizes become one padded batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision import tv_tensors

from swin_dense.data.transforms import crop
from swin_dense.records import Instances, Sample, collate


def sample(image_id: int, height: int, width: int) -> Sample:
    image = tv_tensors.Image(torch.full((3, height, width), image_id, dtype=torch.uint8))
    instances = Instances(
        boxes=tv_tensors.BoundingBoxes([[1.0, 2.0, 5.0, 6.0]], format="XYXY", canvas_size=(height, width)),
        masks=tv_tensors.Mask(torch.ones(1, height, width, dtype=torch.bool)),
        labels=torch.tensor([image_id]),
        crowd=torch.tensor([False]),
    )
    return Sample(image, image_id, f"{image_id}.jpg", (2 * height, 2 * width), instances)


def test_images_are_padded_right_and_bottom_to_the_largest_side_rounded_up() -> None:
    batch = collate([sample(9, 40, 70), sample(8, 65, 33)])
    assert batch.images.shape == (2, 3, 96, 96) and batch.images.dtype == torch.uint8
    for image, value, (height, width) in zip(batch.images, (9, 8), ((40, 70), (65, 33)), strict=True):
        assert (image[:, :height, :width] == value).all()
        assert image.sum() == 3 * value * height * width


def test_a_size_that_fits_is_not_padded() -> None:
    assert collate([sample(1, 64, 32)]).images.shape == (1, 3, 64, 32)
    assert collate([sample(1, 33, 50)], size_divisor=1).images.shape == (1, 3, 33, 50)


def test_what_was_cut_out_does_not_bring_along_what_lay_around_it() -> None:
    one = sample(1, 64, 32)
    labelled = replace(one, label_map=tv_tensors.Mask(torch.randint(0, 5, (64, 32), dtype=torch.int32)))
    cut = crop(labelled, 1, 0, 30, 20)
    batch = collate([cut])
    assert batch.instances is not None and batch.instances[0].masks is not None and batch.label_maps is not None
    for kept, given in ((batch.instances[0].masks, cut.instances.masks), (batch.label_maps[0], cut.label_map)):
        assert type(kept) is tv_tensors.Mask and torch.equal(kept, given)
        assert kept.untyped_storage().nbytes() == kept.nbytes < given.untyped_storage().nbytes()


def test_the_order_of_pixels_in_memory_changes_nothing_that_a_model_sees() -> None:
    planes = [replace(one, image=tv_tensors.Image(torch.rand(one.image.shape).mul(255).byte())) for one in mixed()]
    pixels = [
        replace(one, image=tv_tensors.Image(one.image.movedim(0, -1).contiguous().movedim(-1, 0))) for one in planes
    ]
    by_planes, by_pixels = collate(planes).to("cpu").images, collate(pixels).images
    assert by_pixels.movedim(1, -1).is_contiguous()  # copied as it lies: planes would take ten times as long
    assert torch.equal(by_pixels, by_planes)
    assert collate(pixels).to("cpu").images.is_contiguous() and by_planes.is_contiguous()


def mixed() -> list[Sample]:
    return [sample(9, 40, 70), sample(8, 65, 33)]


def test_everything_about_the_images_comes_along_in_order() -> None:
    samples = [sample(3, 20, 30), sample(4, 10, 40)]
    batch = collate(samples)
    assert batch.image_ids == (3, 4) and batch.file_names == ("3.jpg", "4.jpg")
    assert batch.sizes == ((20, 30), (10, 40)) and batch.original_sizes == ((40, 60), (20, 80))
    assert batch.instances is not None
    for instances, one in zip(batch.instances, samples, strict=True):
        assert instances is one.instances


def test_images_to_predict_on_make_a_batch_without_instances() -> None:
    assert collate([replace(sample(3, 20, 30), instances=None)]).instances is None


def test_mixing_annotated_and_bare_images_is_our_mistake() -> None:
    with pytest.raises(AssertionError):
        collate([sample(1, 20, 30), replace(sample(2, 20, 30), instances=None)])
