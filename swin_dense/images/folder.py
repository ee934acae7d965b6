"""Images that nobody has annotated: files and folders to predict on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Dataset

from swin_dense.errors import DataError
from swin_dense.images.store import ImageStore
from swin_dense.records import Batch, Sample, collate

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jp2")
"""What counts as an image in a folder; a file that is named itself may have any suffix."""


class ImageFiles(Dataset[Sample]):
    """The images of some files and folders as samples without instances; the id of an image is its position.

    Attributes:
        paths: The image files, those of a folder sorted by name.
    """

    def __init__(self, paths: Sequence[Path], output: Path | None = None) -> None:
        """Lists the files; nothing is decoded yet.

        Args:
            paths: Image files, and folders that are searched, subfolders too; hidden files in them are left out.
            output: Where results go. A folder around it is searched without it, so that what an earlier run has drawn
                is not taken for images; a folder inside it was named on purpose and is searched as any other.

        Raises:
            DataError: A path does not exist, or a folder holds no image.
        """
        self.paths: list[Path] = []
        for path in paths:
            found = _images_below(path, output) if path.is_dir() else [path]
            if not found:
                raise DataError(f"{path}: no image in this folder ({', '.join(SUFFIXES)})")
            self.paths += found
        missing = [str(path) for path in self.paths if not path.is_file()]
        if missing:
            raise DataError("images to predict on do not exist", missing)
        self._stems_differ = len({path.stem for path in self.paths}) == len(self.paths)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Decodes one image.

        Raises:
            DataError: It is damaged, or no image.
        """
        path = self.paths[index]
        image = ImageStore(path.parent).read(path.name)
        return Sample(image, index, str(path), (int(image.shape[-2]), int(image.shape[-1])))

    def stem(self, index: int) -> str:
        """A name for what is made of an image, unique among all of them.

        Args:
            index: Position of the image.

        Returns:
            The file's name without suffix; with the position before it, for all images, where two have the same name.
        """
        stem = self.paths[index].stem
        return stem if self._stems_differ else f"{index:06d}_{stem}"


def read_batch(files: ImageFiles, positions: Sequence[int]) -> tuple[Batch | None, dict[int, str]]:
    """Reads some images, such that one that cannot be read does not stop the others.

    Args:
        files: The images.
        positions: Which to read.

    Returns:
        The images that could be read, if any, and by position what is wrong with the others.
    """
    samples, failures = [], {}
    for position in positions:
        try:
            samples.append(files[position])
        except DataError as error:
            failures[position] = str(error)
    return (collate(samples, size_divisor=1) if samples else None), failures


def _images_below(folder: Path, output: Path | None) -> list[Path]:
    paths = sorted(folder / name for name in ImageStore(folder).names() if Path(name).suffix.lower() in SUFFIXES)
    if output is None or folder.resolve().is_relative_to(output.resolve()):
        return paths
    below, results = folder.resolve(), output.resolve()
    return [path for path in paths if not (below / path.relative_to(folder)).is_relative_to(results)]
