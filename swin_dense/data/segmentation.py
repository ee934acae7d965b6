"""Semantic segmentation from images and label PNGs, as a map-style data set."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from swin_dense.data.folder import SUFFIXES
from swin_dense.data.images import ImageStore
from swin_dense.data.labels import LabelConversion, read_label_file
from swin_dense.data.problems import Problem
from swin_dense.data.ragged import Ragged
from swin_dense.data.samples import Sample
from swin_dense.errors import DataError

Pair = tuple[str, str]
"""File names of an image and of its label map, relative to where they lie."""


def match_pairs(images: ImageStore, labels: ImageStore) -> tuple[list[Pair], list[Problem]]:
    """Finds the label map of every image: the PNG of the same name, but for the suffix.

    Args:
        images: The images; files that are no pictures are passed over.
        labels: The label maps; files other than `.png` are passed over.

    Returns:
        The pairs, sorted, and what has no partner or more than one.
    """
    image_names, problems = _by_stem(images, SUFFIXES)
    label_names, more_problems = _by_stem(labels, (".png",))
    problems += more_problems
    for stem in sorted(image_names.keys() - label_names.keys()):
        message, fix = f"has no label map {labels.root / stem}.png", "add it or remove the image"
        problems.append(Problem("missing-label-map", str(images.root / image_names[stem]), message, fix))
    for stem in sorted(label_names.keys() - image_names.keys()):
        message, fix = f"has no image {images.root / stem}.*", "add it or remove the label map"
        problems.append(Problem("missing-image", str(labels.root / label_names[stem]), message, fix))
    pairs = [(image_names[stem], label_names[stem]) for stem in sorted(image_names.keys() & label_names.keys())]
    if not pairs and not problems:
        message, fix = f"holds no image, nor {labels.root} a label map", "name the folders that do"
        problems.append(Problem("no-images", str(images.root), message, fix))
    return pairs, problems


def _by_stem(store: ImageStore, suffixes: tuple[str, ...]) -> tuple[dict[str, str], list[Problem]]:
    """Names of files by name without suffix."""
    groups = defaultdict(list)
    for name in store.names():
        if name.lower().endswith(suffixes):
            groups[name.rpartition(".")[0]].append(name)
    problems = [
        Problem("ambiguous-name", str(store.root / names[0]), f"{names[1]} has the same name", "remove one of them")
        for names in groups.values()
        if len(names) > 1
    ]
    return {stem: names[0] for stem, names in groups.items()}, problems


class SegmentationDataset(Dataset[Sample]):
    """Images and label maps of one split. The id of an image is its position.

    Attributes:
        conversion: From the labels in the files to classes.
    """

    def __init__(self, images: Path, labels: Path, conversion: LabelConversion) -> None:
        """Lists and matches the files; nothing is decoded yet.

        Args:
            images: Folder, zip file, or folder in a zip file; subfolders are searched too.
            labels: Likewise, of label PNGs with the names of the images.
            conversion: From the labels in the files to classes.

        Raises:
            DataError: The files cannot be listed, there is none, or some have no partner: the message lists them.
        """
        self.conversion = conversion
        self._images, self._labels = ImageStore(images), ImageStore(labels)
        pairs, problems = match_pairs(self._images, self._labels)
        if problems:
            raise DataError(f"{images} and {labels} do not fit together", [str(problem) for problem in problems])
        names = ([name.encode("utf-8", "surrogatepass") for name in column] for column in zip(*pairs, strict=True))
        self._image_names, self._label_names = map(Ragged.from_bytes, names)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._image_names)

    def __getitem__(self, index: int) -> Sample:
        """Reads one image with its label map, untransformed.

        Args:
            index: 0..len - 1.

        Returns:
            The sample.

        Raises:
            DataError: A file cannot be read, the two differ in size, or a label is no class.
        """
        file_name, label_name = self._image_names.text(index), self._label_names.text(index)
        path = self._labels.root / label_name
        labels = read_label_file(self._labels, label_name).labels
        height, width = labels.shape
        try:
            image = self._images.read(file_name, (height, width))
        except DataError as error:
            raise DataError(f"image of {path}: {error}") from error
        label_map = tv_tensors.Mask(torch.from_numpy(self.conversion.classes(labels, path)))
        return Sample(image, index, file_name, (height, width), label_map=label_map)
