import numpy as np

from swin_dense.visualize.palette import COLOURS, DISTINCT_COLOURS, class_colours


def test_a_class_keeps_its_colour_whatever_their_number():
    many = class_colours(300)
    assert many.shape == (300, 3)
    assert many.dtype == np.uint8
    assert (class_colours(7) == many[:7]).all()
    assert class_colours(0).shape == (0, 3)
    assert (many[DISTINCT_COLOURS:] == many[: 300 - DISTINCT_COLOURS]).all()


def test_the_first_classes_have_the_colours_of_detections():
    first = ["#" + bytes(colour).hex() for colour in class_colours(len(COLOURS)).tolist()]
    assert first == list(COLOURS)


def test_the_colours_of_200_classes_are_well_apart():
    colours = class_colours(200).astype(int)
    apart = np.abs(colours[:, None] - colours[None]).max(axis=-1) + 255 * np.eye(200, dtype=int)
    assert apart.min() >= 16
    assert (colours.max(axis=1) > 60).all()  # none looks black
