from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools import mask as rle_codec
from torchvision import tv_tensors

from swin_dense.records import Detections, Instances
from swin_dense.visualize.detections import draw_comparison, draw_detections
from swin_dense.visualize.pictures import class_colours

GREY = torch.full((3, 128, 96), 128, dtype=torch.uint8)
ENLARGEMENT = 5  # 128 x 96 becomes 640 x 480


def rectangle(x1, y1, x2, y2, size=(128, 96)):
    mask = np.zeros(size, dtype=np.uint8, order="F")
    mask[y1:y2, x1:x2] = 1
    return mask


@pytest.fixture
def found():
    """A certain disc on the left, and an uncertain square on the right."""
    masks = [rle_codec.encode(rectangle(10, 40, 40, 90)), rle_codec.encode(rectangle(55, 40, 85, 90))]
    boxes = torch.tensor([[10.0, 40, 40, 90], [55, 40, 85, 90]])
    return Detections(boxes, torch.tensor([0.9, 0.2]), torch.tensor([0, 1]), masks)


def changed(picture, x1, y1, x2, y2):
    """Share of pixels in a rectangle, in pixels of the small image, that are no longer grey."""
    part = picture[y1 * ENLARGEMENT : y2 * ENLARGEMENT, x1 * ENLARGEMENT : x2 * ENLARGEMENT]
    return (part != 128).any(axis=-1).mean()


def test_small_images_are_enlarged_and_large_ones_are_not(found):
    assert draw_detections(GREY, found, ["disc", "square"]).shape == (640, 480, 3)
    assert draw_detections(GREY, found, ["disc", "square"], as_frame=True).shape == (128, 96, 3)
    large = torch.zeros(3, 700, 900, dtype=torch.uint8)
    assert draw_detections(large, found, ["disc", "square"]).shape == (700, 900, 3)


def test_masks_are_painted_where_the_objects_are_and_scores_below_the_threshold_are_not(found):
    picture = draw_detections(GREY, found, ["disc", "square"])
    assert changed(picture, 12, 42, 38, 88) == 1
    assert changed(picture, 50, 30, 96, 128) == 0
    assert changed(draw_detections(GREY, found, ["disc", "square"], score_threshold=0.1), 57, 42, 83, 88) == 1


def test_the_classes_have_colours_of_their_own(found):
    picture = draw_detections(GREY, found, ["disc", "square"], score_threshold=0.0)
    left, right = picture[65 * ENLARGEMENT, 25 * ENLARGEMENT], picture[65 * ENLARGEMENT, 70 * ENLARGEMENT]
    for pixel, colour in zip((left, right), class_colours(2), strict=True):
        assert pixel.tolist() == (0.6 * 128 + 0.4 * colour).round().tolist()


def test_labels_of_one_place_do_not_hide_each_other(found):
    """Four boxes in one place: each label has a place of its own, in the colour of its class."""
    crowded = Detections(torch.tensor([[30.0, 50, 66, 90]] * 4), torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.arange(4))
    picture = draw_detections(GREY, crowded, ["one", "two", "three", "four"])
    areas = [int((picture == colour).all(axis=-1).sum()) for colour in class_colours(4)]
    assert min(areas) > 500


def test_a_mask_at_the_edge_has_an_outline_and_an_empty_one_is_left_out(found):
    masks = [rle_codec.encode(rectangle(0, 0, 96, 128)), rle_codec.encode(rectangle(0, 0, 0, 0))]
    picture = draw_detections(GREY, replace(found, masks=masks), ["disc", "square"], score_threshold=0.0)
    assert picture[300, 0].tolist() == class_colours(1)[0].tolist()


def test_only_the_best_detections_are_drawn(found, monkeypatch):
    monkeypatch.setattr("swin_dense.visualize.detections._MOST_OBJECTS", 1)
    reversed_scores = replace(found, scores=found.scores.flip(0))
    picture = draw_detections(GREY, reversed_scores, ["disc", "square"], score_threshold=0.0)
    assert changed(picture, 57, 42, 83, 88) == 1
    assert changed(picture, 0, 42, 50, 128) == 0


def test_a_label_at_the_upper_edge_stays_in_the_picture(found):
    at_edge = replace(found, boxes=torch.tensor([[10.0, 0, 40, 90], [55, 0, 85, 90]]), masks=None)
    picture = draw_detections(GREY, at_edge, ["disc", "square"])
    assert changed(picture, 11, 0, 25, 3) > 0.7  # outside the picture only its box would be left


def test_box_only_detections_and_no_detections(found):
    boxes = draw_detections(GREY, replace(found, masks=None), ["disc", "square"])
    assert changed(boxes, 12, 42, 38, 88) == 0
    assert changed(boxes, 9, 39, 41, 91) > 0
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), [])
    assert (draw_detections(GREY, nothing, []) == 128).all()


def test_a_comparison_has_the_truth_on_the_left_and_the_detections_on_the_right(found):
    masks = torch.from_numpy(np.stack([rectangle(55, 40, 85, 90)])).bool()
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[55.0, 40, 85, 90]]), format="XYXY", canvas_size=(128, 96))
    truth = Instances(boxes, tv_tensors.Mask(masks), torch.tensor([1]), torch.tensor([True]))
    picture = draw_comparison(GREY, truth, found, ["disc", "square"])
    height = picture.shape[0] - 640
    left, right = picture[height:, :480], picture[height:, -480:]
    assert height > 0
    assert changed(left, 57, 42, 83, 88) == 1
    assert changed(left, 0, 42, 40, 128) == 0
    assert changed(right, 12, 42, 38, 88) == 1
