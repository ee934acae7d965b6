"""Images straight from zip files."""

import io
import multiprocessing
import pickle
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swin_dense.images.store import ImageError, ImageStore

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


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
    with pytest.raises(ImageError, match=r"0\.png: damaged in the zip file.*CRC"):
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


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_members_of_every_common_compression_are_read(tmp_path, compression):
    assert read_all(ImageStore(make_zip(tmp_path / "a.zip", "folder/", compression)))


def zip_with(path: Path, position: int, value: bytes) -> Path:
    """A zip file of one member whose central directory says something else at a position (APPNOTE.TXT 4.3.12)."""
    make_zip(path, "", zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02") + position
    content[start : start + len(value)] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("position", "value", "fault", "fix"),
    [
        (10, b"\x62\x00", "compression method is not supported", "pack it with store or deflate"),
        (8, b"\x01\x00", "encrypted", "pack it without a password"),
        (24, b"\xff\xff\xff\x7f", "claims 2147483647 bytes, more than", "pack smaller files"),
        (42, b"\xff\xff\xff\x7f", "damaged in the zip file", "download it again"),
    ],
)
def test_a_zip_member_that_cannot_be_read_has_one_fault_and_one_fix(tmp_path, position, value, fault, fix):
    store = ImageStore(zip_with(tmp_path / "a.zip", position, value))
    with pytest.raises(ImageError, match=fault) as error:
        store.read("0.png")
    assert str(error.value).endswith(fix) and str(error.value).count(";") <= 1


def test_a_zip_member_of_2_to_the_63_bytes_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.png", b"small")
        file.filelist[0].file_size = 2**63
    with pytest.raises(ImageError, match=r"a\.png: claims 9223372036854775808 bytes"):
        ImageStore(tmp_path / "a.zip").read("a.png")
