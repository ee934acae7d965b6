import numpy as np
import pytest
import torch

from swin_dense.errors import DataError
from swin_dense.visualize.pictures import Text, class_colours
from swin_dense.visualize.segmentation import draw_segmentation, draw_segmentation_comparison

GREY = torch.full((3, 128, 96), 128, dtype=torch.uint8)
ENLARGEMENT = 5  # 128 x 96 becomes 640 x 480
NAMES = ["sky", "road", "tree"]
SOLID = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)


def halves(left, right):
    labels = torch.full((128, 96), left, dtype=torch.int32)
    labels[:, 48:] = right
    return labels


def pixel(picture, x, y):
    return picture[y * ENLARGEMENT, x * ENLARGEMENT].tolist()


def has(strip, colour):
    return bool((strip == colour).all(axis=-1).any())


def test_classes_are_painted_where_they_are_and_other_pixels_stay_as_they_are():
    labels = halves(0, 2)
    labels[64:] = -1
    picture = draw_segmentation(GREY, labels, NAMES, SOLID)
    assert pixel(picture, 20, 30) == [204, 51, 51]  # 0.4 of the image and 0.6 of the colour
    assert pixel(picture, 70, 30) == [51, 51, 204]
    assert pixel(picture, 20, 90) == [128, 128, 128]
    border = picture[100, 48 * ENLARGEMENT]
    assert border.min() > 180  # a light line between classes
    assert picture[100, 48 * ENLARGEMENT + 1].tolist() == [51, 51, 204]


def test_the_legend_lies_below_the_image_and_shows_the_classes_present_alone():
    picture = draw_segmentation(GREY, halves(0, 2), NAMES, SOLID)
    strip = picture[640:]
    assert picture.shape[1] == 480
    assert has(strip, [255, 0, 0]) and has(strip, [0, 0, 255])
    assert not has(strip, [0, 255, 0])


def place(strip, colour):
    """(x, y) of the box of a colour."""
    ys, xs = np.nonzero((strip == colour).all(axis=-1))
    return xs[0], ys[0]


def test_the_class_with_most_pixels_comes_first_down_the_columns_and_no_class_last():
    labels = torch.full((128, 96), -1)
    labels[:2], labels[2:12], labels[12:18] = 0, 1, 2
    strip = draw_segmentation(GREY, labels, ["a name so long that", "two columns fill", "the strip"], SOLID)[640:]
    sky, road, tree = (place(strip, colour) for colour in SOLID)
    assert road[0] == tree[0] < sky[0]
    assert road[1] == sky[1] < tree[1]
    no_class = strip[tree[1] :, sky[0] - 1]
    assert (no_class[:12] == 0x99).all()  # the outline of an empty box


def test_a_large_image_is_not_enlarged_and_a_narrow_one_is_widened_for_its_legend():
    wide = draw_segmentation(torch.zeros(3, 700, 900, dtype=torch.uint8), torch.zeros(700, 900).int(), NAMES)
    assert wide.shape[1] == 900
    narrow = draw_segmentation(torch.zeros(3, 700, 20, dtype=torch.uint8), torch.zeros(700, 20).int(), NAMES, SOLID)
    assert narrow.shape[1] > 60
    assert (narrow[:700, 20:] == 255).all()
    assert has(narrow[700:], [255, 0, 0])


@pytest.mark.parametrize("size", [(128, 96), (1, 1), (33, 301)])
def test_a_frame_of_a_video_keeps_its_size_and_has_the_legend_on_it(size):
    image = torch.full((3, *size), 128, dtype=torch.uint8)
    labels = torch.full(size, 2, dtype=torch.int32)
    labels[:, : size[1] // 3] = 0
    picture = draw_segmentation(image, labels, NAMES, SOLID, as_frame=True)
    assert picture.shape == (*size, 3)
    if size != (1, 1):
        assert picture[0, 0].tolist() == [204, 51, 51] and picture[0, -1].tolist() == [51, 51, 204]
        assert (picture[size[0] // 2 :, :-1] > 150).all(-1).any(), "a light strip in the lower half"


def test_every_class_of_many_has_its_line():
    labels = torch.arange(128 * 96).reshape(128, 96) % 200
    strip = draw_segmentation(GREY, labels, [f"class {number}" for number in range(200)])[640:]
    assert set(map(bytes, class_colours(200))) <= set(map(bytes, strip.reshape(-1, 3)))


def test_class_255_of_many_is_a_class():
    palette = np.full((300, 3), 9, dtype=np.uint8)
    palette[255] = [255, 0, 0]
    names = [f"class {number}" for number in range(300)]
    picture = draw_segmentation(GREY, halves(255, -1), names, palette)
    assert pixel(picture, 20, 30) == [204, 51, 51]
    assert pixel(picture, 70, 30) == [128, 128, 128]
    assert has(picture[640:], [255, 0, 0])


def test_a_comparison_has_the_truth_on_the_left_the_prediction_on_the_right_and_one_legend():
    picture = draw_segmentation_comparison(GREY, halves(0, -1), halves(1, 2), NAMES, SOLID)
    caption = int(np.argmax((picture[:, 100] == [204, 51, 51]).all(axis=-1)))
    sides = picture[caption : caption + 640]
    left, right = sides[:, :480], sides[:, -480:]
    assert caption > 10
    assert pixel(left, 20, 60) == [204, 51, 51]
    assert pixel(left, 70, 60) == [128, 128, 128]
    assert pixel(right, 20, 60) == [51, 204, 51]
    assert pixel(right, 70, 60) == [51, 51, 204]
    assert all(has(picture[caption + 640 :], colour) for colour in SOLID)


def test_the_image_itself_stays_as_it_was():
    large = torch.full((3, 700, 700), 9, dtype=torch.uint8)
    draw_segmentation(large, torch.zeros(700, 700).int(), NAMES)
    assert (large == 9).all()


def test_a_name_too_long_for_a_column_loses_its_end():
    class OneEach:
        getlength = staticmethod(len)

    assert Text("skyscraper", OneEach()).shortened(10).text == "skyscraper"
    assert Text("skyscraper", OneEach()).shortened(9).text == "skyscrap\u2026"
    assert Text("traffic light", OneEach()).shortened(9).text == "traffic\u2026"


@pytest.mark.parametrize(
    ("labels", "palette", "fault"),
    [
        (torch.zeros(96, 128).int(), SOLID, "cannot be drawn on an image"),
        (halves(0, 3), SOLID, "labels to draw are 0..2 or -1"),
        (halves(0, -2), SOLID, "labels to draw are 0..2 or -1"),
        (halves(0, 255), SOLID, "labels to draw are 0..2 or -1"),
        (halves(0, 1), SOLID[:2], "a palette of 3 classes"),
        (halves(0, 1), SOLID.astype(int), "a palette of 3 classes"),
    ],
)
def test_what_does_not_fit_together_is_refused(labels, palette, fault):
    with pytest.raises(DataError, match=fault):
        draw_segmentation(GREY, labels, NAMES, palette)
