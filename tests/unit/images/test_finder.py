"""Which images are predicted on when files and folders are named."""

from __future__ import annotations

import io
import multiprocessing
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.shared_memory import without_shared_memory
from swin_dense.errors import DataError
from swin_dense.images.finder import ImageFiles, each_image, find_images, is_single, read_image, worker_options


def picture(path: Path, red: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (red, 0, 255)).save(path, format="PNG")
    return path


def test_files_keep_their_order_and_have_any_suffix(tmp_path: Path) -> None:
    first, second = picture(tmp_path / "b.photo", red=10), picture(tmp_path / "a.png", red=20)
    files = ImageFiles([first, second])
    assert files.paths == [first, second] and len(files) == 2
    sample = files[0]
    assert torch.equal(sample.image[:, 3, 5], torch.tensor([10, 0, 255], dtype=torch.uint8))
    assert (sample.image_id, sample.file_name, sample.original_size) == (0, str(first), (4, 6))
    assert sample.instances is None


def test_a_folder_is_searched_to_the_bottom_and_other_files_are_left(tmp_path: Path) -> None:
    lower, upper = picture(tmp_path / "z.png"), picture(tmp_path / "deep" / "deeper" / "a.JPG")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    extra = picture(tmp_path.with_name(f"{tmp_path.name}_extra.png"))
    assert ImageFiles([extra, tmp_path]).paths == [extra, upper, lower]


def test_every_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such image") as error:
        ImageFiles([tmp_path / "absent.png", picture(tmp_path / "there.png"), tmp_path / "gone"])
    assert error.value.problems == (str(tmp_path / "absent.png"), str(tmp_path / "gone"))


@pytest.mark.parametrize("address", ["https://example.org/cat.jpg", "s3://bucket/cats"])
def test_an_address_is_refused_with_what_to_do(address: str) -> None:
    with pytest.raises(DataError, match="addresses are not fetched, so download the file first"):
        ImageFiles([address])


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("")
    with pytest.raises(DataError, match=rf"{tmp_path.name}: no image in it \(\.jpg"):
        ImageFiles([picture(tmp_path.with_name(f"{tmp_path.name}_fine.png")), tmp_path])


def test_videos_are_found_in_folders_and_not_promised_in_zip_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("clip.mp4", "")
    with pytest.raises(DataError, match=r"a\.zip: no image in it \([^()]*\.jp2\)$"):
        find_images([tmp_path / "a.zip"], videos=True)
    with pytest.raises(DataError, match=r"no image in it \(\.jpg.*\.mp4"):
        find_images([tmp_path], videos=True)
    (tmp_path / "clip.mp4").touch()
    files = ImageFiles([tmp_path, picture(tmp_path / "a.png")], videos=True)
    assert ([path.name for path in files.paths], files.videos) == (["a.png", "clip.mp4"], {1})


def test_a_file_that_is_no_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>")
    files = ImageFiles([tmp_path])
    with pytest.raises(DataError, match=r"page\.jpg"):
        files[0]


def test_names_of_results_differ_where_names_of_images_do_not(tmp_path: Path) -> None:
    names = ["one/cat.png", "two/cat.png", "two/cat.jpg", "000000_cat.png"]
    files = ImageFiles([picture(tmp_path / name) for name in names])
    assert len({files.stem(index) for index in range(len(files))}) == len(names)
    assert files.stem(1) == "000001_cat"
    assert [ImageFiles(files.paths[:1]).stem(0), ImageFiles(files.paths[-1:]).stem(0)] == ["cat", "000000_cat"]


def test_hidden_files_of_a_folder_are_left_and_one_that_is_named_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / ".cache" / "photos"
    seen, hidden = picture(folder / "c.jpg"), picture(folder / "._c.jpg")
    picture(folder / ".thumbnails" / "c.jpg")
    assert ImageFiles([folder]).paths == [seen]
    assert ImageFiles([folder, hidden], folder / "out").paths == [seen, hidden]


def test_results_in_a_folder_are_not_taken_for_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo, drawn = picture(tmp_path / "photos" / "a.png"), picture(tmp_path / "photos" / "out" / "labels" / "a.png")
    namesake = picture(tmp_path / "photos" / "outside" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert ImageFiles([tmp_path / "photos"], Path("photos/out")).paths == [photo, namesake]
    assert ImageFiles([tmp_path / "photos"]).paths == [photo, drawn, namesake]
    # Named on purpose.
    assert ImageFiles([drawn], tmp_path / "photos" / "out").paths == [drawn]
    assert ImageFiles([drawn.parent], tmp_path / "photos" / "out").paths == [drawn]
    assert ImageFiles([tmp_path / "photos"], tmp_path / "photos").paths == [photo, drawn, namesake]


def paths(*inputs: Path) -> list[str]:
    return [source.path for source in find_images(inputs)]


def test_folders_are_searched_to_the_bottom_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.jpg", ".cache/x.png", "b/._1.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.csv").write_text("no image")
    assert paths(tmp_path) == [str(tmp_path / name) for name in ("a.jpg", "b/1.png", "b/2.JPG")]


def test_a_list_is_relative_to_itself_and_keeps_its_order(tmp_path: Path) -> None:
    one, two = picture(tmp_path / "deep/x.png"), picture(tmp_path / "x.png")
    (tmp_path / "all.txt").write_bytes(b"\xef\xbb\xbfdeep/x.png\r\n\r\nx.png\nabsent.png\n")
    assert paths(tmp_path / "all.txt") == [str(one), str(two), str(tmp_path / "absent.png")]


def test_the_same_path_counts_once_and_a_link_is_an_image_of_its_own(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(image)
    (tmp_path / "list.txt").write_text("a.png\n./a.png\nlink.png\n")
    assert paths(image, tmp_path / "list.txt", tmp_path) == [str(image), str(tmp_path / "link.png")]


def test_a_zip_file_is_read_in_place_whole_or_by_folder(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        for name in (
            "all/train/1.png",
            "all/val/2.png",
            "__MACOSX/all/val/._2.png",
            "all/val/.hidden/3.png",
            "all/x.csv",
        ):
            file.write(image, name)
    zip_file = tmp_path / "all.zip"
    assert paths(zip_file) == [str(zip_file / "all/train/1.png"), str(zip_file / "all/val/2.png")]
    assert paths(zip_file / "val") == paths(zip_file / "all/val/2.png") == [str(zip_file / "all/val/2.png")]


@pytest.mark.parametrize("name", ["absent.png", "absent", "empty", "empty.txt", "empty.zip"])
def test_what_holds_no_image_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    with pytest.raises(DataError, match=name):
        find_images([tmp_path / name])


def test_no_image_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="no image is named"):
        find_images([])


def test_linked_folders_are_searched_and_one_that_leads_back_is_entered_once(tmp_path: Path) -> None:
    elsewhere = picture(tmp_path / "store" / "deep" / "a.png").parent.parent
    folder = picture(tmp_path / "images" / "b.png").parent
    (folder / "one").symlink_to(elsewhere)
    (folder / "two").symlink_to(elsewhere)
    (elsewhere / "deep" / "up").symlink_to(elsewhere)
    (folder / "self").symlink_to(folder)
    assert paths(folder) == [str(folder / name) for name in ("b.png", "one/deep/a.png", "two/deep/a.png")]


@pytest.mark.parametrize("name", ["a.png", "folder"])
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "b.png")
    (tmp_path / name).symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=rf"{name}: a link to .*gone"):
        find_images([tmp_path])


def test_links_that_no_image_hangs_on_may_lead_nowhere(tmp_path: Path) -> None:
    image = picture(tmp_path / "b.png")
    for name in (".#lock", "notes.txt"):
        (tmp_path / name).symlink_to(tmp_path / "gone")
    assert paths(tmp_path) == [str(image)]


@pytest.mark.parametrize("name", ["a" * 5000, "a" * 5000 + "/b.png", "/".join(["a" * 200] * 30) + "/b.png"])
def test_a_name_that_no_file_can_have_is_an_error_of_its_image(tmp_path: Path, name: str) -> None:
    (tmp_path / "list.txt").write_text(name)
    with pytest.raises(DataError, match="cannot be (looked up|read) .File name too long"):
        ImageFiles([tmp_path / "list.txt"])[0]


def test_images_without_a_suffix_are_found_by_what_they_hold(tmp_path: Path) -> None:
    image, other = picture(tmp_path / "in" / "a.png"), picture(tmp_path / "in" / "b.png")
    other.rename(other.with_suffix(""))
    (tmp_path / "in" / "Python notes").write_text("Python")  # Pillow's first look takes it for a PPM
    (tmp_path / "in" / "LICENSE").touch()
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as file:
        for path in (tmp_path / "in").iterdir():
            file.write(path, f"top/in/{path.name}")
    assert paths(image.parent) == [str(image), str(other.with_suffix(""))]
    assert paths(tmp_path / "in.zip" / "in") == [str(tmp_path / "in.zip" / "top/in" / name) for name in ("a.png", "b")]
    assert ImageFiles([tmp_path / "in.zip"])[1].original_size == (4, 6)


def test_pictures_of_formats_that_are_not_read_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = [picture(tmp_path / "a.png"), picture(tmp_path / "d.jfif")]
    for name in ("b.HEIC", "c.avif", "notes.txt"):
        (tmp_path / name).touch()
    assert paths(tmp_path) == [str(image) for image in images]
    assert f"{tmp_path}: left out 2 pictures, such as b.HEIC; to have them read, save them as JPEG" in caplog.text


LINUX = ["forkserver", "spawn", "fork"]
"""How processes are started on Linux from Python 3.14 on, its own way first."""


@pytest.mark.parametrize(
    ("methods", "chosen", "workers", "expected"),
    [
        (LINUX, None, 2, "fork"),
        (LINUX, "forkserver", 2, "fork"),
        (LINUX, "spawn", 2, None),
        (LINUX, None, 0, None),
        (["fork", "spawn", "forkserver"], "forkserver", 2, None),
        (["spawn"], None, 2, None),
    ],
)
def test_workers_are_forked_unless_another_way_was_chosen(
    monkeypatch: pytest.MonkeyPatch, methods: list[str], chosen: str | None, workers: int, expected: str | None
) -> None:
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: methods)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: chosen)
    assert worker_options(workers)["multiprocessing_context"] == expected


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="Windows ends processes at once")
def test_a_reading_process_lives_through_one_signal_of_each_kind_but_not_through_two_to_end() -> None:
    code = """
import os, signal
from swin_dense.images.finder import set_worker_signals
set_worker_signals(0)
os.kill(os.getpid(), signal.SIGINT)
os.kill(os.getpid(), signal.SIGTERM)
print("alive", 0 < signal.alarm(0) <= 60, flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("still alive")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("alive True\n", -signal.SIGTERM)


def test_what_does_not_fit_in_shared_memory_is_an_error_of_the_worker(tmp_path: Path) -> None:
    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")
    imports = "from torch.utils.data import DataLoader; from functools import partial; from pathlib import Path; "
    imports += "from swin_dense.images.finder import ImageFiles, read_batch, received, worker_options"
    read = (
        f"DataLoader([0], collate_fn=partial(read_batch, ImageFiles([Path({str(tmp_path)!r})])), **worker_options(1))"
    )
    assert re.match(
        r"WorkerError a process that reads data cannot hand it over: unable to .*torch_.*; docker run --shm-size",
        without_shared_memory(imports, f"list(received({read}))"),
    )
    assert without_shared_memory(imports, f"print(len(list(received({read.replace('(1)', '(0)')}))))") == "1\n"


@pytest.mark.parametrize("image", [io.BytesIO(b"a\nb"), b"bytes"], ids=["open file", "bytes"])
def test_an_open_file_is_refused_as_one_and_not_read_line_by_line(image: object) -> None:
    assert is_single(image)
    with pytest.raises(DataError, match=rf"{type(image).__name__} is no image: .*PIL.Image.open makes an image of"):
        read_image(next(each_image(image)))


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        (np.zeros((8, 8, 1), np.uint8), "repeat the one channel of a gray image three times"),
        (np.zeros((8, 8, 4), np.uint8), "leave the alpha channel out"),
        (np.zeros((2, 8, 8, 3), np.uint8), "pass several images as a list"),
        (torch.zeros(8, 8, dtype=torch.uint8), "repeat the one channel of a gray image three times"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), "its channels come last"),
        (np.zeros((), np.uint8), None),
        (torch.zeros(3, 4, 4, 4, 4, dtype=torch.uint8), None),
    ],
)
def test_an_array_of_another_shape_is_refused_with_what_to_do(image: object, hint: str | None) -> None:
    with pytest.raises(DataError, match=rf"uint8{f'; {hint}' if hint else ''}$"):
        read_image(image)
