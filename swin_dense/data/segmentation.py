"""Semantic segmentation from images and label PNGs, as a map-style data set."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from swin_dense.errors import DataError
from swin_dense.images.ragged import Ragged
from swin_dense.images.store import ImageStore
from swin_dense.label_maps.labels import LabelConversion, read_label_file
from swin_dense.label_maps.pairs import match_pairs
from swin_dense.records import Sample


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
