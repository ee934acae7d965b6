"""What all pictures share: images of every form, colours of classes, and text in any script."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.font_manager import FontEntry, fontManager
from PIL import Image, ImageDraw

from swin_dense.errors import DataError, OutputError
from swin_dense.records import Detections
from swin_dense.visualize import pictures
from swin_dense.visualize.detections import draw_detections
from swin_dense.visualize.pictures import FONT, as_picture, class_colours, font_for, ink_on, save_picture, text_of
from swin_dense.visualize.segmentation import draw_segmentation

PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


@pytest.mark.parametrize(
    "image",
    [
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        Image.fromarray(PIXELS),
    ],
)
def test_arrays_tensors_and_pillow_images_are_drawn_on(image):
    assert np.array_equal(as_picture(image), PIXELS)
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert draw_detections(image, nothing, []).shape == (512, 640, 3)
    assert draw_segmentation(image, torch.zeros(4, 5, dtype=torch.int32), ["sky"]).shape[1] == 640


def test_an_array_that_is_three_pixels_high_and_wide_has_its_channels_last():
    assert as_picture(PIXELS[:3, :3]) is not None
    assert np.array_equal(as_picture(PIXELS[:3, :3]), PIXELS[:3, :3])


@pytest.mark.parametrize(
    "image", [torch.zeros(128, 96, 3, dtype=torch.uint8), torch.zeros(3, 128, 96), np.zeros((5, 5), np.uint8)]
)
def test_an_image_of_another_form_is_refused(image):
    with pytest.raises(DataError, match=r"a \(H, W, 3\) uint8 array or a \(3, H, W\) uint8 tensor, not"):
        as_picture(image)


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    picture = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    path = tmp_path / "new" / "picture.png"
    save_picture(path, picture)
    assert np.array_equal(np.asarray(Image.open(path)), picture)

    def full_disk(self, file, **_):
        file.write_bytes(b"half a picture")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OutputError, match="no space"):
        save_picture(path, picture)
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]
    assert np.array_equal(np.asarray(Image.open(path)), picture)


def test_a_class_keeps_its_colour_whatever_their_number():
    many = class_colours(300)
    assert many.shape == (300, 3)
    assert many.dtype == np.uint8
    assert (class_colours(7) == many[:7]).all()
    assert class_colours(0).shape == (0, 3)
    assert (many[256:] == many[:44]).all()


def test_the_colours_of_200_classes_are_well_apart():
    colours = class_colours(200).astype(int)
    apart = np.abs(colours[:, None] - colours[None]).max(axis=-1) + 255 * np.eye(200, dtype=int)
    assert apart.min() >= 16
    assert (colours.max(axis=1) > 60).all()  # none looks black


def test_text_is_light_on_dark_colours_and_dark_on_light_ones():
    assert ink_on((0, 0, 128)) == ink_on((180, 0, 0)) == "white"
    assert ink_on((255, 255, 0)) == ink_on((170, 255, 195)) == "black"


@pytest.fixture(autouse=True)
def forget_fonts():
    yield
    pictures._font_with.cache_clear()
    pictures._warn_of.cache_clear()


@pytest.mark.parametrize("name", ["traffic light", "Fußgänger", "велосипед", "ποδήλατο", "دراجة"])
def test_names_of_many_scripts_are_written_in_our_own_font(name):
    assert font_for(name) == FONT
    assert text_of(name, 12).text == name


def test_other_scripts_are_written_in_a_font_of_the_machine_that_has_them(monkeypatch, tmp_path):
    """STIX stands for any font; matplotlib's own "Last Resort" has an empty box for every character, and is none."""
    other = FONT.with_name("STIXGeneral.ttf")
    character = "ᶁ"
    names = (tmp_path / "removed.ttf", FONT.with_name("LastResortHE-Regular.ttf"), other)
    monkeypatch.setattr(fontManager, "ttflist", [FontEntry(fname=str(name)) for name in names])
    assert font_for(f"a{character}") == other
    strip = Image.new("L", (40, 40))
    text = text_of(character, 30)
    ImageDraw.Draw(strip).text((5, 0), text.text, fill=255, font=text.font)
    assert np.asarray(strip).max() > 0


def test_names_without_a_font_are_written_as_numbers_and_that_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(
        fontManager, "ttflist", [one for one in fontManager.ttflist if "mpl-data" in Path(one.fname).parts]
    )
    with caplog.at_level(logging.WARNING):
        assert [text_of("cat 猫", 12).text for _ in range(2)] == [r"cat \u732b"] * 2
    (record,) = caplog.records
    assert record.getMessage().startswith(
        'no font on this machine has all characters of "cat 猫": pictures show cat \\u732b. Install a font'
    )


def test_classes_without_a_font_are_distinct_in_pictures(monkeypatch):
    """Not the same empty box for each of them."""
    monkeypatch.setattr(fontManager, "ttflist", [])
    labels, image = torch.zeros(40, 40, dtype=torch.int32), np.zeros((40, 40, 3), np.uint8)
    cat, dog = (draw_segmentation(image, labels, [name]) for name in ("猫", "犬"))
    assert cat.shape != dog.shape or not np.array_equal(cat, dog)
