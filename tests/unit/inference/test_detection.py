"""What a detector that makes no mistakes finds must come back unharmed from every view of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as rle_codec
from torch import Tensor
from torchvision import tv_tensors

from swin_dense.data.transforms import RandomShortSide
from swin_dense.errors import ConfigError
from swin_dense.inference.detection import DetectionInference
from swin_dense.inference.merging import Merging
from swin_dense.records import Batch, Detections, Sample, Size, collate

OBJECTS = {
    (64, 96): [(4, 6, 40, 30), (60, 20, 92, 60), (10, 36, 24, 64)],
    (96, 64): [(0, 0, 20, 28), (30, 50, 64, 96), (2, 60, 22, 90)],
    (32, 48): [(2, 2, 14, 30), (20, 4, 46, 12), (18, 16, 40, 32)],
}
"""By height and width of an image, the XYXY box of its red, its green and its blue rectangle; none is symmetric."""

PARTS_IN_WHOLE = Merging(overlap="ios")
VIEWS: dict[str, dict[str, Any]] = {
    "one view": {},
    "flip": {"flip": True},
    "scales": {"scales": (0.5, 1.0, 2.0)},
    "scales and flip": {"scales": (0.5, 1.0, 2.0), "flip": True},
    "scales and flip, voting": {"scales": (0.5, 1.0, 2.0), "flip": True, "merging": Merging("vote")},
    "slices": {"slice_size": (40, 48), "slice_overlap": 0.5, "merging": PARTS_IN_WHOLE},
    "slices, scales and flip": {
        "slice_size": (40, 48),
        "slice_overlap": 0.25,
        "scales": (1.0, 2.0),
        "flip": True,
        "merging": PARTS_IN_WHOLE,
    },
}


class RectangleFinder:
    """Finds what is red, green or blue; the more of it, the surer. Records what it is shown."""

    def __init__(self, masks: bool = True) -> None:
        self.masks = masks
        self.shown: list[Tensor] = []
        self.names: list[str] = []

    def predict(self, batch: Batch) -> list[Detections]:
        assert torch.is_inference_mode_enabled()
        assert batch.images.shape[2:] == batch.sizes[0] and len(set(batch.sizes)) == 1
        self.shown.append(batch.images.clone())
        self.names += batch.file_names
        return [self._find(*one) for one in zip(batch.images, batch.original_sizes, strict=True)]

    def _find(self, image: Tensor, size: Size) -> Detections:
        rows, columns = (torch.arange(new) * old // new for new, old in zip(size, image.shape[1:], strict=True))
        boxes, labels, areas, masks = [], [], [], []
        for label, pixels in enumerate(image > 127):
            if not pixels.any():
                continue
            y, x = pixels.nonzero().T
            scale = torch.tensor([size[1] / image.shape[2], size[0] / image.shape[1]]).repeat(2)
            boxes.append(torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]) * scale)
            mask = pixels[rows][:, columns].numpy()
            labels.append(label)
            areas.append(int(mask.sum()))
            masks.append(rle_codec.encode(np.asfortranarray(mask.astype(np.uint8))))
        order = np.argsort([-area for area in areas], kind="stable").tolist()
        return Detections(
            torch.stack(boxes)[order] if boxes else torch.zeros(0, 4),
            torch.tensor([areas[i] for i in order]) / 10_000,
            torch.tensor([labels[i] for i in order], dtype=torch.int64),
            [masks[i] for i in order] if self.masks else None,
        )


def picture(size: Size, image_id: int = 0) -> Sample:
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for channel, (x1, y1, x2, y2) in zip(image, OBJECTS[size], strict=True):
        channel[y1:y2, x1:x2] = 255
    return Sample(tv_tensors.Image(image), image_id, f"{image_id}.png", size)


def unchanged(size: Size, ratio: float) -> Size:
    return round(size[0] * ratio), round(size[1] * ratio)


def twice_as_large(size: Size, ratio: float) -> Size:
    return unchanged(size, 2 * ratio)


def assert_all_found(found: Detections, size: Size) -> None:
    order = found.labels.argsort()
    assert found.labels[order].tolist() == [0, 1, 2]
    assert found.boxes[order].tolist() == [list(map(float, box)) for box in OBJECTS[size]]
    assert found.scores.tolist() == found.scores.sort(descending=True).values.tolist()
    assert found.masks is not None
    for i, (x1, y1, x2, y2) in zip(order.tolist(), OBJECTS[size], strict=True):
        expected = np.zeros(size, dtype=np.uint8)
        expected[y1:y2, x1:x2] = 1
        assert found.masks[i] == rle_codec.encode(np.asfortranarray(expected))


@pytest.mark.parametrize("options", VIEWS.values(), ids=VIEWS.keys())
@pytest.mark.parametrize("test_size", [unchanged, twice_as_large])
def test_boxes_and_masks_of_every_view_are_told_in_pixels_of_the_image(test_size: Any, options: dict[str, Any]) -> None:
    pictures = [picture(size, i) for i, size in enumerate(OBJECTS)]
    found = DetectionInference(test_size, **options).predict(RectangleFinder(), collate(pictures))
    for one, size in zip(found, OBJECTS, strict=True):
        assert_all_found(one, size)


@pytest.mark.parametrize("options", VIEWS.values(), ids=VIEWS.keys())
def test_nothing_depends_on_the_other_images_nor_on_the_size_of_a_batch(options: dict[str, Any]) -> None:
    pictures = [picture(size, i) for i, size in enumerate([*OBJECTS, (64, 96), (64, 96)])]
    alone = [DetectionInference(unchanged, **options).predict(RectangleFinder(), collate([one]))[0] for one in pictures]
    for batch_size in (1, 2, 7):
        inference = DetectionInference(unchanged, **options, batch_size=batch_size)
        together = inference.predict(RectangleFinder(), collate(pictures, size_divisor=100))
        for one, other in zip(alone, together, strict=True):
            assert torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores)
            assert torch.equal(one.labels, other.labels) and one.masks == other.masks


def test_views_of_one_size_run_together_as_many_as_allowed() -> None:
    model = RectangleFinder()
    pictures = [picture(size, i) for i, size in enumerate([(64, 96), (96, 64), (64, 96), (64, 96)])]
    DetectionInference(unchanged, flip=True, batch_size=4).predict(model, collate(pictures, size_divisor=50))
    assert [tuple(images.shape) for images in model.shown] == [(4, 3, 64, 96), (2, 3, 64, 96), (2, 3, 96, 64)]
    assert model.names == [f"{i}.png" for i in (0, 0, 2, 2, 3, 3, 1, 1)]


def test_a_view_shows_the_pixels_that_the_training_transform_makes() -> None:
    noise = torch.randint(256, (3, 50, 70), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sample = Sample(tv_tensors.Image(noise), 0, "noise.png", (50, 70))
    model = RectangleFinder()
    DetectionInference(lambda size, ratio: (80, 112), flip=True).predict(model, collate([sample]))
    plain, mirrored = (images[0] for images in model.shown)
    expected = RandomShortSide((80,), 200)(sample).image
    assert torch.equal(plain, expected)
    assert torch.equal(mirrored, expected.flip(-1))


def test_slices_cover_the_image_and_overlap_as_asked() -> None:
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(96), indexing="ij")
    image = torch.stack([rows, columns, torch.zeros_like(rows)]).to(torch.uint8)
    model = RectangleFinder()
    inference = DetectionInference(unchanged, slice_size=(40, 50), slice_overlap=0.2, whole_image=False)
    inference.predict(model, collate([Sample(tv_tensors.Image(image), 0, "0.png", (64, 96))]))
    corners = [(int(one[0, 0, 0, 0]), int(one[0, 1, 0, 0])) for one in model.shown]
    assert corners == [(0, 0), (0, 40), (0, 46), (24, 0), (24, 40), (24, 46)]
    assert all(one.shape == (1, 3, 40, 50) for one in model.shown)


def test_an_image_no_larger_than_a_slice_is_seen_once() -> None:
    model = RectangleFinder()
    DetectionInference(unchanged, slice_size=(100, 100)).predict(model, collate([picture((64, 96))]))
    assert len(model.shown) == 1


def test_merging_unites_the_parts_of_objects_that_slices_cut() -> None:
    options: dict[str, Any] = {"slice_size": (64, 60), "slice_overlap": 0.4, "whole_image": False}
    cut = DetectionInference(unchanged, **options).predict(RectangleFinder(), collate([picture((64, 96))]))[0]
    assert len(cut) > 3
    united = DetectionInference(unchanged, **options, merging=Merging("nmm", "ios", threshold=0.3))
    assert_all_found(united.predict(RectangleFinder(), collate([picture((64, 96))]))[0], (64, 96))


class Scripted:
    """Says of each view what it is told to: one object with a box and the rows of its mask."""

    def __init__(self, *answers: tuple[float, list[str]]) -> None:
        self.answers = list(answers)

    def predict(self, batch: Batch) -> list[Detections]:
        score, rows = self.answers.pop(0)
        mask = rle_codec.encode(np.asfortranarray([[int(pixel) for pixel in row] for row in rows], dtype=np.uint8))
        height, width = batch.original_sizes[0]
        box = torch.tensor([[0, 0, width, height]]).float()
        return [Detections(box, torch.tensor([score]), torch.tensor([0]), [mask])]


def voted(model: Scripted, **options: Any) -> list[str]:
    sample = Sample(tv_tensors.Image(torch.zeros(3, 2, 4, dtype=torch.uint8)), 0, "0.png", (2, 4))
    inference = DetectionInference(unchanged, **options, merging=Merging("vote", threshold=0.4))
    (found,) = inference.predict(model, collate([sample]))
    assert len(found) == 1 and found.masks is not None
    return ["".join(map(str, row)) for row in rle_codec.decode(found.masks[0]).tolist()]


def test_a_pixel_is_the_objects_where_most_views_say_so() -> None:
    model = Scripted((0.5, ["1100", "0001"]), (0.6, ["1010", "0001"]), (0.7, ["1100", "0000"]))
    assert voted(model, scales=(1.0, 2.0, 3.0)) == ["1100", "0001"]


@pytest.mark.parametrize(("scores", "expected"), [((0.5, 0.4), ["1100", "0000"]), ((0.4, 0.5), ["0110", "0000"])])
def test_the_best_view_decides_a_draw(scores: tuple[float, float], expected: list[str]) -> None:
    model = Scripted((scores[0], ["1100", "0000"]), (scores[1], ["0110", "0000"]))
    assert voted(model, scales=(1.0, 2.0)) == expected


def test_a_slice_has_no_say_on_what_it_does_not_show() -> None:
    model = Scripted((0.6, ["1101", "0001"]), (0.5, ["101", "110"]), (0.4, ["011", "100"]))
    assert voted(model, slice_size=(2, 3), slice_overlap=0.5) == ["1011", "0101"]


@pytest.mark.parametrize("options", [{}, {"flip": True}], ids=["one view", "flip"])
def test_the_best_are_kept(options: dict[str, Any]) -> None:
    def find(**limits: Any) -> Detections:
        return DetectionInference(unchanged, **options, **limits).predict(
            RectangleFinder(), collate([picture((64, 96))])
        )[0]

    areas = [0.1280, 0.0864, 0.0392]
    assert find().scores.tolist() == pytest.approx(areas)
    assert find(min_score=0.0864).labels.tolist() == [1, 0]
    assert find(max_detections=1).labels.tolist() == [1]
    few = find(min_score=0.05, max_detections=5)
    assert len(few) == len(few.boxes) == len(few.labels) == len(few.masks or ()) == 2


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("options", VIEWS.values(), ids=VIEWS.keys())
def test_an_image_with_nothing_in_it_has_no_detections(options: dict[str, Any], masks: bool) -> None:
    empty = Sample(tv_tensors.Image(torch.zeros(3, 64, 96, dtype=torch.uint8)), 0, "0.png", (64, 96))
    (found,) = DetectionInference(unchanged, **options).predict(RectangleFinder(masks), collate([empty]))
    assert found.boxes.shape == (0, 4) and found.scores.shape == found.labels.shape == (0,)
    assert found.labels.dtype == torch.int64 and found.masks == ([] if masks else None)


def test_a_detector_of_boxes_alone_gives_no_masks() -> None:
    inference = DetectionInference(unchanged, flip=True)
    (found,) = inference.predict(RectangleFinder(masks=False), collate([picture((64, 96))]))
    assert len(found) == 3 and found.masks is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, "inference.scales"),
        ({"scales": (1.0, -0.5)}, "inference.scales"),
        ({"slice_size": (0, 5)}, "inference.slice_size"),
        ({"slice_overlap": 1.0}, "inference.slice_overlap"),
        ({"whole_image": False}, "nothing is seen"),
        ({"min_score": 1.5}, "inference.min_score"),
        ({"max_detections": 0}, "inference.max_detections"),
        ({"batch_size": 0}, "inference.batch_size"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DetectionInference(unchanged, **options)
