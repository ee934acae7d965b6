"""What is said of images that are not there."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from swin_dense.images.store import ImageError, ImageStore

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8))

NEAR = [
    ("train\\a.png", "train/a.png", "backslashes"),
    ("images\\a.png", "a.png", "backslashes and the folder"),
    ("my%20img%20(HD).png", "my img (HD).png", "percent-encoding"),
    ("u\u0308ber.png", "\u00fcber.png", "the Unicode normal form"),
    ("\u00fcber.png", "u\u0308ber.png", "the Unicode normal form"),
    ("\u00c3\u00bcber.png", "\u00fcber.png", "the text encoding"),
    ("A.PNG", "a.png", "upper and lower case"),
    ("a.jpg", "a.jpeg", "the suffix"),
    ("a", "a.png", "the suffix"),
    ("a.png ", "a.png", "spaces"),
    ("7.png", "000007.png", "leading zeros"),
    ("val2017/a.png", "a.png", "the folder"),
    ("a.png", "deep/er/a.png", "the folder"),
    ("R&amp;D.png", "R&D.png", "HTML encoding"),
    ("a%2520b.png", "a b.png", "percent-encoding"),
    ("%FCber.png", "\u00fcber.png", "percent-encoding"),
    ("a\u00a0b.png", "a b.png", "the Unicode normal form"),
    ("a+b.png", "a b.png", "punctuation"),
    ("a_b_(1).png", "a-b (1).png", "punctuation"),
    ("val/a+b.PNG", "a b.png", "upper and lower case and the folder and punctuation"),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("asked", "there", "difference"), NEAR)
def test_a_missing_image_is_looked_for_under_near_names(tmp_path, asked, there, difference, packed):
    root = tmp_path / "root"
    (root / there).parent.mkdir(parents=True)
    PICTURE.save(root / there, format="PNG")
    PICTURE.save(root / "other.png")
    if packed:
        with zipfile.ZipFile(tmp_path / "packed.zip", "w") as file:
            for name in (there, "other.png"):
                file.write(root / name, name)
        root = tmp_path / "packed.zip"
    with pytest.raises(ImageError, match="no such file, but there is") as error:
        ImageStore(root).read(asked)
    assert repr(there) in str(error.value) and f"the names differ in {difference};" in str(error.value)
    assert "remove" not in str(error.value) and error.value.kind == "missing-image"


def test_a_name_that_could_mean_two_files_means_none(tmp_path):
    for name in ("one/a.png", "two/a.png"):
        (tmp_path / name).parent.mkdir()
        PICTURE.save(tmp_path / name)
    with pytest.raises(ImageError, match=r"a\.png: no such file; restore it, or correct the name or the folder"):
        ImageStore(tmp_path).read("a.png")


def test_a_link_to_an_image_that_is_gone_is_called_one(tmp_path):
    (tmp_path / "a.png").symlink_to("../store/a.png")
    with pytest.raises(ImageError, match=r"a\.png: a link to \.\./store/a\.png, which cannot be reached"):
        ImageStore(tmp_path).read("a.png")


@pytest.mark.parametrize("packed", [False, True])
def test_all_missing_files_are_found_without_opening_any(tmp_path, packed):
    (tmp_path / "root/sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        (tmp_path / "root" / name).write_text("no image")
    (tmp_path / "root/linked.png").symlink_to("a.png")
    (tmp_path / "root/broken.png").symlink_to("gone.png")
    root = tmp_path / "root"
    if packed:
        root = tmp_path / "root.zip"
        with zipfile.ZipFile(root, "w") as file:
            for name in ("a.png", "sub/b.png", "linked.png"):
                file.write(tmp_path / "root" / name, f"root/{name}")
    names = ["a.png", "sub/b.png", "linked.png", "broken.png", "b.png", "sub", "sub/c.png", "no/d.png", "x\0.png"]
    assert ImageStore(root).missing(names) == names[3:]
