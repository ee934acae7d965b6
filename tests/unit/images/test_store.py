import io
import multiprocessing
import os
import pickle
import struct
import zipfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swin_dense.errors import DataError
from swin_dense.images.store import ORIENTATIONS, ImageError, ImageStore, escapes

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def save(path: Path, image: Image.Image, orientation: int | None = None, **options: object) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(path, exif=exif, **options)
    return path


def read(path: Path, expected_size: tuple[int, int] | None = None) -> np.ndarray:
    image = ImageStore(path.parent).read(path.name, expected_size)
    assert image.dtype == torch.uint8 and image.is_contiguous()
    return image.permute(1, 2, 0).numpy()


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def test_rgb_pixels_come_out_unchanged(tmp_path):
    np.testing.assert_array_equal(read(save(tmp_path / "a.png", Image.fromarray(PIXELS))), PIXELS)


def test_grayscale_fills_all_channels(tmp_path):
    gray = PIXELS[..., 0]
    image = read(save(tmp_path / "a.png", Image.fromarray(gray)))
    np.testing.assert_array_equal(image, np.repeat(gray[..., None], 3, axis=2))


def test_16_bit_values_are_scaled_and_never_clipped(tmp_path):
    values = np.array([[0, 128, 257, 32768, 65535, 65534]], dtype=np.uint16)
    expected = [[0, 0, 1, 128, 255, 255]]
    for name in ("a.png", "a.tiff"):
        assert read(save(tmp_path / name, Image.fromarray(values)))[..., 1].tolist() == expected


def test_alpha_and_palette_show_their_colours(tmp_path):
    rgba = Image.fromarray(np.dstack([PIXELS, np.full((6, 9), 7, dtype=np.uint8)]))
    np.testing.assert_array_equal(read(save(tmp_path / "alpha.png", rgba)), PIXELS)
    palette = Image.fromarray(PIXELS[:1]).quantize(9)
    path = save(tmp_path / "palette.png", palette, transparency=b"\x00" * 9)
    np.testing.assert_array_equal(read(path), np.asarray(palette.convert("RGB")))


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    red = Image.new("RGB", (16, 16), (220, 30, 40))
    pixels = read(save(tmp_path / "a.jpg", red.convert("CMYK"), quality=100))
    assert np.abs(pixels.astype(int) - (220, 30, 40)).max() <= 4


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_applied(tmp_path, orientation):
    """The camera stored the upright picture turned; reading must turn it back."""
    undo = ORIENTATIONS[orientation]
    opposite = {
        Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
        Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
    }
    stored = Image.fromarray(PIXELS).transpose(opposite.get(undo, undo))
    path = save(tmp_path / "a.png", stored, orientation)
    np.testing.assert_array_equal(read(path), PIXELS)
    np.testing.assert_array_equal(read(path, PIXELS.shape[:2]), PIXELS)


def test_image_annotated_on_its_stored_raster_is_not_turned(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS), orientation=6)
    np.testing.assert_array_equal(read(path, (6, 9)), PIXELS)
    assert read(path).shape == (9, 6, 3)


def test_size_that_fits_neither_way_names_file_and_both_sizes(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS), orientation=6)
    with pytest.raises(ImageError, match=r"a\.png: 6 wide and 9 high, but annotated as 8 wide and 7 high") as error:
        ImageStore(tmp_path).read(path.name, (7, 8))
    assert error.value.kind == "image-size"


def test_damaged_exif_does_not_cost_the_image(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), PIXELS)


@pytest.mark.parametrize(
    "name, content, kind",
    [
        ("missing.jpg", None, "missing-image"),
        ("empty.jpg", b"", "unreadable-image"),
        ("text.jpg", b"this is no image", "unreadable-image"),
        ("bomb.png", png_header(60_000, 60_000), "unreadable-image"),
        ("broken.png", png_header(8, 8), "unreadable-image"),
        ("program.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(run me) print\n", "unreadable-image"),
    ],
)
def test_unusable_file_is_named(tmp_path, name, content, kind):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=name) as error:
        ImageStore(tmp_path).read(name)
    assert error.value.kind == kind and error.value.fix


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["large.png", "large.tif", "large.gif"])
def test_large_images_are_read_without_a_word_where_pillow_alone_would_refuse(tmp_path, monkeypatch, name):
    expected = np.asarray(Image.fromarray(PIXELS).convert("L"))
    Image.fromarray(expected).save(tmp_path / name)
    for pillows_limit in (PIXELS[..., 0].size // 3, PIXELS[..., 0].size - 1):  # refuses; warns
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_limit)
        np.testing.assert_array_equal(read(tmp_path / name)[..., 0], expected)
        assert pillows_limit == Image.MAX_IMAGE_PIXELS


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    pillows_limit = Image.MAX_IMAGE_PIXELS
    (tmp_path / "a.png").write_bytes(png_header(40_000, 30_000))
    fault = r"a\.png: 40000 wide and 30000 high, 1200000000 pixels, more than the 1073741824 .*; cut it into tiles"
    with pytest.raises(ImageError, match=fault) as error:
        ImageStore(tmp_path).read("a.png")
    assert error.value.kind == "unreadable-image" and pillows_limit == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr("swin_dense.images.store.MAX_PIXELS", PIXELS[..., 0].size)
    assert read(save(tmp_path / "exactly.png", Image.fromarray(PIXELS))).shape == PIXELS.shape


def test_truncated_image_is_refused_when_read(tmp_path):
    path = save(tmp_path / "a.jpg", Image.fromarray(np.resize(PIXELS, (200, 200, 3))))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ImageError, match=r"a\.jpg: cannot be decoded"):
        ImageStore(tmp_path).read("a.jpg")


def test_unknown_brightness_is_refused(tmp_path):
    Image.fromarray(np.array([[0.5, 3e5]], dtype=np.float32)).save(tmp_path / "float.tiff")
    Image.fromarray(np.array([[0, 70_000]], dtype=np.int32)).save(tmp_path / "wide.tiff")
    for name in ("float.tiff", "wide.tiff"):
        with pytest.raises(ImageError, match=f"{name}: pixels of mode"):
            ImageStore(tmp_path).read(name)


@pytest.mark.parametrize("name", ["folder", "pipe"])
def test_what_is_not_a_regular_file_is_refused_without_waiting(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match=name):
        ImageStore(tmp_path).read(name)
    assert name not in ImageStore(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "a/../../secret.png", "/etc/passwd", "C:\\secret.png", "..\\secret.png", "", "a/", "a\0.png"],
)
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    save(tmp_path / "secret.png", Image.fromarray(PIXELS))
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "root.zip", "w") as file:
        file.writestr("../secret.png", (tmp_path / "secret.png").read_bytes())
    for store in (ImageStore(root), ImageStore(tmp_path / "root.zip")):
        assert name not in store
        with pytest.raises(ImageError, match="leads out of") as error:
            store.read(name)
        assert error.value.kind == "escaping-file-name"


@given(st.lists(st.sampled_from(["..", ".", "a", "b.jpg", "..."]), min_size=1), st.sampled_from(["", "/", "./"]))
def test_escapes_agrees_with_path_resolution(parts, start):
    """Whatever is let through stays inside; whatever has no `..` and no root is let through."""
    name = start + "/".join(parts)
    resolved = os.path.normpath(os.path.join("/data/images", name))
    if not escapes(name):
        assert (resolved + "/").startswith("/data/images/")
    assert escapes(name) == (".." in parts or start == "/")


def test_missing_root_and_damaged_zip_are_errors(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder or zip file"):
        ImageStore(tmp_path / "nowhere")
    (tmp_path / "half.zip").write_bytes(b"PK\x03\x04 this download broke off")
    with pytest.raises(DataError, match=r"half\.zip: cannot be read as a zip file"):
        ImageStore(tmp_path / "half.zip")


def make_zip(path: Path, prefix: str, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    with zipfile.ZipFile(path, "w", compression) as file:
        file.mkdir(prefix) if prefix and hasattr(file, "mkdir") else None
        for number in range(5):
            file.writestr(f"{prefix}{number}.png", buffer.getvalue())
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("prefix", ["", "train2017/", "other/"])
def test_zip_members_are_found_with_and_without_their_folder(tmp_path, prefix, compression):
    store = ImageStore(make_zip(tmp_path / "train2017.zip", prefix, compression))
    for name in ("3.png", f"{prefix}3.png"):
        assert name in store
        np.testing.assert_array_equal(store.read(name, (6, 9)).permute(1, 2, 0).numpy(), PIXELS)
    assert "9.png" not in store
    with pytest.raises(ImageError, match=r"train2017\.zip/9\.png: no such file"):
        store.read("9.png")


def test_zip_member_with_a_flipped_bit_is_refused(tmp_path):
    path = make_zip(tmp_path / "a.zip", "", zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"0\.png.*wrong checksum"):
        ImageStore(path).read("0.png")


def test_zip_member_that_claims_too_much_is_refused_before_unpacking(tmp_path, monkeypatch):
    store = ImageStore(make_zip(tmp_path / "a.zip", ""))
    monkeypatch.setattr("swin_dense.images.store.MAX_BYTES", 10)
    with pytest.raises(ImageError, match="more than the 10 allowed"):
        store.read("0.png")


def read_all(store: ImageStore) -> bool:
    return all((store.read(f"{number}.png").permute(1, 2, 0).numpy() == PIXELS).all() for number in range(5))


def test_zip_store_works_in_forked_processes_at_once_and_pickles(tmp_path):
    store = ImageStore(make_zip(tmp_path / "a.zip", "folder/"))
    assert read_all(pickle.loads(pickle.dumps(store)))
    # An executor ends its workers in good order; a pool kills them, for which they may wait with a lock for ever.
    with ProcessPoolExecutor(3, multiprocessing.get_context("fork")) as executor:
        assert all(executor.map(read_all, [store] * 30))
