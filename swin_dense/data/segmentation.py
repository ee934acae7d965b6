"""Semantic segmentation from images and label PNGs, as a map-style data set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torchvision import tv_tensors

from swin_dense.errors import DataError
from swin_dense.images.store import ImageStore
from swin_dense.label_maps.conversion import LabelConversion
from swin_dense.label_maps.files import count_labels, read_label_file
from swin_dense.label_maps.layout import match_pairs
from swin_dense.records import Ragged, Sample


class SegmentationDataset(Dataset[Sample]):
    """Images and label maps of one split, each in a folder, a zip file, or a folder in one; ids are positions."""

    def __init__(self, images: Path, labels: Path, conversion: LabelConversion) -> None:
        """Lists and matches the files, which have the same names but for the suffix; nothing is decoded yet."""
        self.conversion = conversion
        self.labels = labels
        self._images, self._labels = ImageStore(images), ImageStore(labels)
        pairs, problems = match_pairs(self._images, self._labels)
        if problems:
            raise DataError(f"{images} and {labels} do not fit together", [str(problem) for problem in problems])
        self._image_names, self._label_names = map(Ragged.from_texts, zip(*pairs, strict=True))

    def __len__(self) -> int:
        return len(self._image_names)

    def __getitem__(self, index: int) -> Sample:
        """Reads one image with its label map, untransformed."""
        file_name, label_name = self.image_name(index), self.label_name(index)
        path = self._labels.root / label_name
        labels = read_label_file(self._labels, label_name).labels
        height, width = labels.shape
        try:
            image = self._images.read(file_name, (height, width))
        except DataError as error:
            raise DataError(f"image of {path}: {error}") from error
        label_map = tv_tensors.Mask(torch.from_numpy(self.conversion.classes(labels, path)))
        return Sample(image, index, file_name, (height, width), label_map=label_map)

    def image_name(self, index: int) -> str:
        """The name of an image's file."""
        return self._image_names.text(index)

    def label_name(self, index: int) -> str:
        """That of its label map."""
        return self._label_names.text(index)

    def count_labels(self, indices: Sequence[int]) -> Counter[int]:
        """Pixels by stored label in some label maps, several of which are read at a time."""
        pixels: Counter[int] = Counter()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for values, counts in pool.map(self._count, indices):
                pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        return pixels

    def _count(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return count_labels(read_label_file(self._labels, self.label_name(index)).labels)
