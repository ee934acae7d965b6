"""Images as users have them: in memory, as files, in folders, zip files and lists; finding them, and reading them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from swin_dense.errors import DataError, WorkerError
from swin_dense.files import is_there
from swin_dense.images.files import locate, visible
from swin_dense.images.store import BrightnessError, ImageError, ImageStore, decode, orientation_of
from swin_dense.records import Batch, Sample, collate

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jp2")
"""What counts as an image in a folder or zip file, as a file without a suffix does that holds one; a file that is named
itself may have any other suffix."""

UNREAD = (".heic", ".heif", ".avif", ".jxl", ".tga", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw")
"""Suffixes of pictures that are left out of a folder, and said to be: nearly all are of formats that are not read."""

VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".ogv", ".3gp")
"""What counts as a video in a folder; a file that is named itself may have any other suffix."""

LISTED = (*SUFFIXES, *UNREAD, "")
"""Suffixes of files that are looked at."""

LISTS = (".txt", ".lst")
"""Suffixes of text files that name an image per line."""


logger = logging.getLogger(__name__)

GRACE = 60
"""Seconds that a reading process goes on after SIGTERM, so that the main process can end a step, save and stop."""

_ADDRESS = re.compile("(https?|s3|gs|ftp):")

Handed = TypeVar("Handed")


def is_video_file(path: object) -> bool:
    """Whether this is a path with the suffix of a video, and not that of a folder."""
    return isinstance(path, str | PathLike) and Path(path).suffix.lower() in VIDEOS and not os.path.isdir(path)


@dataclass(frozen=True)
class ImageSource:
    """Where an image lies: its name below a folder or a zip file."""

    root: Path
    name: str

    @property
    def store(self) -> ImageStore:
        """What reads it, and others of that root; one for each process."""
        return _store(self.root)

    @property
    def path(self) -> str:
        """Root and name; bytes that are no UTF-8 are written as backslash, x, and two digits."""
        return str(self.root / self.name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@lru_cache(maxsize=64)
def _store(root: Path) -> ImageStore:
    return ImageStore(root)


def image_names(store: ImageStore, videos: bool = False) -> list[str]:
    """Names of the images of a store: by their suffix, and without one by what the files hold.

    Pictures of formats that are not read are left out with a warning. Those of `videos` are listed where asked for.
    """
    return _images_among(store.names((*LISTED, *VIDEOS) if videos else LISTED), store)


def _images_among(names: Sequence[str], store: ImageStore) -> list[str]:
    suffixes = {name: Path(name).suffix.lower() for name in names}
    if unread := [name for name, suffix in suffixes.items() if suffix in UNREAD]:
        advice = "to have them read, save them as JPEG or PNG"
        logger.warning("%s: left out %d pictures, such as %s; %s", store.root, len(unread), unread[0], advice)
    listed = (*SUFFIXES, *VIDEOS)
    return [name for name, suffix in suffixes.items() if suffix in listed or not suffix and _opens(store, name)]


def _opens(store: ImageStore, name: str) -> bool:
    """Whether a file begins as an image does."""
    try:
        with store.open(name):
            return True
    except ImageError:
        return False


def find_images(inputs: Sequence[Path], output: Path | None = None, videos: bool = False) -> list[ImageSource]:
    """Lists images in the order given; nothing is decoded yet.

    A path that is named twice counts once, at its first place; a link and what it leads to are two images.

    Args:
        inputs: Image files; folders and zip files, which are searched to the bottom, in the order of names, links
            followed and hidden files left out; text files (.txt, .lst) with the path of one image file per line,
            relative to the folder of the text file. What lies in a zip file may be named as if the zip file were a
            folder.
        output: Where results go. A folder around it is searched without it, so that what an earlier run has drawn is
            not taken for images; a folder inside it was named on purpose and is searched as any other.
        videos: Whether videos in folders are listed, too.
    """
    if not inputs:
        raise DataError("no image is named")
    paths = [Path(path) for path in inputs]
    absent = [str(path) for path in paths if not is_there(path) and locate(path) is None]
    if absent:
        fetch = "; addresses are not fetched, so download the file first" if any(map(_ADDRESS.match, absent)) else ""
        raise DataError(f"there is no such image, folder, list or zip file{fetch}", absent)
    found: dict[str, ImageSource] = {}
    for path in paths:
        sources = list(_sources(path, output, videos))
        if not sources:
            listed = (*SUFFIXES, *VIDEOS) if videos and path.is_dir() else SUFFIXES  # zip files: no videos
            raise DataError(f"{path}: no image in it ({', '.join(listed)})")
        for source in sources:
            found.setdefault(source.path, source)
    return list(found.values())


def _sources(path: Path, output: Path | None, videos: bool) -> Iterator[ImageSource]:
    place = locate(path)
    if place is not None:
        archive, inside = place
        if inside and inside in archive:
            yield ImageSource(archive.path, inside)
        elif not inside or archive.has(inside):
            below = f"{inside}/" if inside else ""
            listed = [below + name for name in visible(archive.names_below(inside), LISTED)]
            yield from (ImageSource(archive.path, name) for name in _images_among(listed, _store(archive.path)))
    elif path.is_dir():
        results = None if output is None or path.resolve().is_relative_to(output.resolve()) else output.resolve()
        for name in image_names(ImageStore(path), videos):
            if results is None or not (path.resolve() / name).is_relative_to(results):
                yield ImageSource(path, name)
    else:
        files = [path]
        if path.suffix.lower() in LISTS:
            lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
            files = [path.parent / os.fsdecode(line) for line in lines if line.strip()]
        yield from (ImageSource(file.parent, file.name) for file in files)


class ImageFiles(Dataset[Sample]):
    """Found images as samples without instances; ids are positions, paths lead into zip files as into folders.

    Attributes:
        videos: Positions of files that are videos, where those were asked for, and no samples.
    """

    videos: frozenset[int] = frozenset()

    def __init__(self, inputs: Sequence[Path], output: Path | None = None, videos: bool = False) -> None:
        self.sources = find_images(inputs, output, videos)
        self.paths = [source.root / source.name for source in self.sources]
        self.videos = frozenset(i for i, path in enumerate(self.paths) if videos and is_video_file(path))
        self._stems_differ = len({path.stem for path in self.paths}) == len(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        source = self.sources[index]
        image = source.store.read(source.name)
        return Sample(image, index, source.path, (int(image.shape[-2]), int(image.shape[-1])))

    def stem(self, index: int) -> str:
        """A name for what is made of an image: the file's, with its position before it where two have the same."""
        stem = self.paths[index].stem
        return stem if self._stems_differ else f"{index:06d}_{stem}"


def read_batch(files: ImageFiles, positions: Sequence[int]) -> tuple[Batch | None, dict[int, str]] | WorkerError:
    """The images that could be read, if any, as one batch, and by position what is wrong with the others."""
    samples: list[Sample] = []
    failures: dict[int, str] = {}
    for position in positions:
        try:
            samples.append(files[position])
        except DataError as error:
            failures[position] = str(error)
    return handed_over((collate(samples, size_divisor=1) if samples else None, failures))


def worker_options(num_workers: int) -> dict[str, Any]:
    """How a `DataLoader` starts workers and draws, as its arguments.

    Where workers can be forked they are, as Python did by itself before 3.14: they share the memory of libraries and
    annotations, begin at once, and take data sets that are defined in a notebook. Another way to start processes that
    the caller has chosen is kept.
    """
    default, *others = multiprocessing.get_all_start_methods()
    chosen = multiprocessing.get_start_method(allow_none=True) or default
    forked = num_workers > 0 and default == chosen == "forkserver" and "fork" in others
    return {
        "num_workers": num_workers,
        "multiprocessing_context": "fork" if forked else None,
        "worker_init_fn": set_worker_signals,
        # Its own generator: otherwise every start of an iteration would draw from the one that the caller draws from.
        "generator": torch.Generator(),
    }


def handed_over(record: Handed) -> Handed | WorkerError:
    """The same, once its tensors lie where a loader's worker shares memory with its main process.

    They would be put there by a thread of the worker that only prints what fails, and the main process would wait for
    ever. Whatever a worker returns is to go through here, and through `received` in the main process. Without room for
    the tensors an error is returned: one that a worker raises comes with its traceback as its message, and holds the
    loader, whose workers then outlive the main process's last line.
    """
    if get_worker_info() is not None:
        try:
            for tensor in _tensors(record):
                if tensor.untyped_storage().nbytes():
                    tensor.share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        except RuntimeError as error:
            return WorkerError(
                f"a process that reads data cannot hand it over: {error}; docker run --shm-size=8g gives /dev/shm more "
                "room, fewer workers or smaller batches need less, and num_workers=0 none"
            )
    return record


def received(records: Iterable[Handed | WorkerError]) -> Iterator[Handed]:
    """What the workers of a loader have handed over.

    Raises:
        WorkerError: One of them could not.
    """
    for record in records:
        if isinstance(record, WorkerError):
            raise record
        yield record


def _tensors(record: object) -> Iterator[Tensor]:
    if isinstance(record, Tensor):
        yield record
    elif isinstance(record, list | tuple):
        for one in record:
            yield from _tensors(one)
    elif is_dataclass(record):
        for field in fields(record):
            yield from _tensors(getattr(record, field.name))


def set_worker_signals(worker: int) -> None:
    """Makes a process that reads images live through Ctrl-C and a first SIGTERM, whatever handlers it inherited.

    Ctrl-C reaches every process of a terminal and SIGTERM every process of a service, and the main process needs its
    workers to end the step before it saves and stops. SIGTERM is also how a loader ends a worker that hangs.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later if hasattr(signal, "alarm") else signal.SIG_DFL)


def _end_later(number: int, frame: FrameType | None) -> None:
    """Ends the process at another SIGTERM, or after `GRACE` seconds; without its main process it ends by itself."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(GRACE)


FORMS = "a path, a PIL image, an (H, W, 3) uint8 array or a (3, H, W) uint8 tensor"


def is_single(images: object) -> bool:
    """Whether this is one image, and not a folder, zip file, list or collection of images."""
    if isinstance(images, str | PathLike):
        path = Path(images)
        place = locate(path)
        if place is not None:
            return place[1] in place[0]
        return not path.is_dir() and path.suffix.lower() not in LISTS
    # An open file would be an iterable of lines, and bytes one of numbers: they are refused as what they are.
    return isinstance(images, Image.Image | np.ndarray | Tensor | bytes | bytearray) or hasattr(images, "read")


def each_image(images: Any) -> Iterator[Any]:
    """The single images of one image, a folder, or an iterable of these; nothing is decoded yet."""
    if isinstance(images, str | PathLike):
        yield from find_images([Path(images)])
    elif is_single(images):
        yield images
    elif isinstance(images, Iterable):
        for one in images:
            yield from each_image(one)
    else:
        raise DataError(f"{type(images).__name__} is no image: pass {FORMS}, a folder, or several of these")


def read_image(image: Any) -> Tensor:
    """Decodes or converts one image to (3, H, W) uint8 RGB on the CPU; EXIF orientations are applied."""
    if isinstance(image, str | PathLike):
        (image,) = find_images([Path(image)])
    if isinstance(image, ImageSource):
        pixels: Tensor = image.store.read(image.name).as_subclass(Tensor)
        return pixels
    if isinstance(image, Image.Image):
        return _from_pillow(image)
    if isinstance(image, np.ndarray):
        _check(image, channels=-1, wanted="(H, W, 3) uint8")
        return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))  # a copy: it may be read-only
    if isinstance(image, Tensor):
        _check(image, channels=0, wanted="(3, H, W) uint8")
        pixels = image.detach().cpu().as_subclass(Tensor)
        return pixels
    hint = "; PIL.Image.open makes an image of an open file, and of io.BytesIO(...)" if is_single(image) else ""
    raise DataError(f"{type(image).__name__} is no image: pass {FORMS}{hint}")


def _from_pillow(image: Image.Image) -> Tensor:
    if 0 in image.size:
        raise DataError(f"a PIL image of {image.width} x {image.height} has no pixels")
    try:
        return torch.from_numpy(decode(image, orientation_of(image)))
    except BrightnessError as error:
        raise DataError(f"a PIL image has {error}; convert it to 8 or 16 bits per channel") from error


def _hint(shape: Sequence[int], channels: int) -> str:
    """What to do with an array (channels -1) or tensor (channels 0) of another shape."""
    if len(shape) not in (2, 3):
        return "; pass several images as a list" if len(shape) == 4 else ""
    if len(shape) == 2 or shape[channels] == 1:
        return "; repeat the one channel of a gray image three times"
    if shape[-1 - channels] == 3:
        return f"; its channels come {'first' if channels else 'last'}"
    return "; leave the alpha channel out" if shape[channels] == 4 else ""


def _check(image: Any, channels: int, wanted: str) -> None:
    kind = "tensor" if isinstance(image, Tensor) else "array"
    if image.ndim != 3 or image.shape[channels] != 3 or image.dtype not in (np.uint8, torch.uint8):
        hint = "; scale values of 0..1 to 0..255 first" if "float" in str(image.dtype) else _hint(image.shape, channels)
        raise DataError(f"an image as {kind} is {wanted} RGB, not {tuple(image.shape)} {image.dtype}{hint}")
    if 0 in image.shape:
        raise DataError(f"an image of shape {tuple(image.shape)} has no pixels")
