import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from swin_dense.errors import DataError
from swin_dense.images.files import escapes
from swin_dense.images.store import ImageError, ImageStore

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def save(path: Path, image: Image.Image, orientation: int | None = None, **options: object) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(path, exif=exif, **options)
    return path


def read(path: Path, expected_size: tuple[int, int] | None = None) -> np.ndarray:
    image = ImageStore(path.parent).read(path.name, expected_size)
    assert image.dtype == torch.uint8 and image.movedim(0, -1).is_contiguous()
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


HOW_CAMERAS_STORE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What turns an upright picture into the raster of each EXIF orientation (EXIF 2.3, tag 274)."""


@pytest.mark.parametrize("band", [2**24, 9, 20])
@pytest.mark.parametrize("orientation", HOW_CAMERAS_STORE)
def test_exif_orientation_is_applied_band_by_band(tmp_path, orientation, band, monkeypatch):
    """The camera stored the upright picture turned; reading must turn it back."""
    monkeypatch.setattr("swin_dense.images.store.BAND_PIXELS", band)
    stored = Image.fromarray(PIXELS).transpose(HOW_CAMERAS_STORE[orientation])
    path = save(tmp_path / "a.png", stored, orientation)
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(Image.open(path))), PIXELS)
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


@pytest.mark.parametrize(("channels", "kind"), [(13, 1), (3, 3)])
def test_a_tiff_of_other_channels_or_numbers_is_called_one(tmp_path, channels, kind):
    """As satellites and microscopes make them: 13 channels, floating-point numbers."""
    tags = {256: 1, 257: 1, 258: 32, 259: 1, 262: 1, 273: 200, 277: channels, 278: 1, 279: 4 * channels, 339: kind}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries
    (tmp_path / "a.tif").write_bytes(header.ljust(200, b"\0") + bytes(4 * channels))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.tif", "a.tif")
    for root in (tmp_path, tmp_path / "a.zip"):
        with pytest.raises(ImageError, match="a TIFF that is damaged, or has more channels or other numbers") as error:
            ImageStore(root).read("a.tif")
        assert error.value.fix == "save it as RGB or gray with 8 or 16 bits per channel"


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


def jpeg_that_claims(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(buffer, "JPEG", exif=exif)
    content = bytearray(buffer.getvalue())
    frame = content.index(b"\xff\xc0") + 5
    content[frame : frame + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def tiff_that_claims(height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (64, 64)).save(buffer, "TIFF")
    content = buffer.getvalue()
    rows = struct.pack("<HHII", 257, 4, 1, 64)
    assert rows in content
    return content.replace(rows, struct.pack("<HHII", 257, 4, 1, height))


@pytest.mark.parametrize(
    "content", [jpeg_that_claims(40_000, 20_000), tiff_that_claims(9_961_536)], ids=["jpeg", "tiff"]
)
def test_a_size_that_the_file_cannot_hold_is_refused_before_anything_is_decoded(tmp_path, content):
    (tmp_path / "a.img").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.img: claims to be \d+ wide and \d+ high in \d+ bytes"):
        ImageStore(tmp_path).read("a.img")


def test_a_large_image_of_one_colour_is_still_an_image(tmp_path):
    """Deflate packs a thousandfold at most; 1 bit a pixel makes that 8000 pixels to the byte."""
    Image.new("L", (8000, 5000)).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png").shape == (5000, 8000, 3)


def test_reading_takes_no_more_memory_than_promised(tmp_path):
    """7 bytes a pixel while a turned photograph is read, beside 150 MB for bands and the decoder."""
    side = 6000
    save(tmp_path / "a.jpg", Image.effect_noise((side, side), 9).convert("RGB"), orientation=6)
    code = (
        "import resource, sys; from pathlib import Path; from swin_dense.images.store import ImageStore;"
        "ImageStore(Path(sys.argv[1])); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "ImageStore(Path(sys.argv[1])).read('a.jpg');"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    answer = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert int(answer.stdout) * 1024 <= 7 * side * side + 150e6


def test_threads_read_large_images_while_others_finish_theirs(tmp_path, monkeypatch):
    """Pillow's limit is the process's: it must come back only when the last reader is done."""
    save(tmp_path / "a.png", Image.fromarray(PIXELS))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # refuses the 54 pixels
    store = ImageStore(tmp_path)
    with store.open("a.png"):
        with store.open("a.png"):
            pass
        assert store.read("a.png").shape == (3, 6, 9)
    assert Image.MAX_IMAGE_PIXELS == 10
    first = store.open("a.png")
    first.__enter__()
    second = store.open("a.png")
    second.__enter__()
    first.__exit__(None, None, None)  # the one that lifted the limit ends first
    assert store.read("a.png").shape == (3, 6, 9)
    second.__exit__(None, None, None)
    assert Image.MAX_IMAGE_PIXELS == 10
