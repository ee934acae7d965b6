"""Images with label PNGs as a map-style data set, and the Lightning data module of semantic segmentation."""

from __future__ import annotations

import logging
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
from torchvision.transforms.v2 import Identity

from swin_dense.data.datamodule_base import ImageDataModule
from swin_dense.data.segmentation_transforms import official_transform
from swin_dense.data.transforms import Transform
from swin_dense.errors import ConfigError, DataError
from swin_dense.images.store import ImageStore
from swin_dense.label_maps.check import coverage_findings
from swin_dense.label_maps.classes import Palette, read_classes
from swin_dense.label_maps.conversion import LabelConversion
from swin_dense.label_maps.files import count_labels, read_label_file
from swin_dense.label_maps.layout import find_class_list, match_pairs, official_layout
from swin_dense.records import Ragged, Sample

logger = logging.getLogger(__name__)

MOST_LOOKED_AT = 1000
"""Training label maps that are counted before the first step, which takes some seconds."""


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


class ADE20KDataModule(ImageDataModule):
    """Semantic segmentation data, for training and validation: ADE20K, or any images with label PNGs.

    Attributes:
        train_dataset: The training images; None until `setup("fit")`.
        val_dataset: The validation images; None until `setup`.
        class_names: Names by class 0..K-1; after `setup`.
        palette: (K, 3) uint8 RGB by class, None where the data set brings no colours; after `setup`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from swin_dense.data import ADE20KDataModule
        >>> from swin_dense.data.shapes import write_shapes
        >>> folder = Path(tempfile.mkdtemp()) / "shapes"
        >>> root = write_shapes(folder, train=2, val=1, size=64) / "ade20k"  # in place of ADEChallengeData2016
        >>> data = ADE20KDataModule(root, batch_size=2, num_workers=0)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.images.dtype, len(batch.label_maps), data.class_names[0]
        (torch.uint8, 2, 'ground')
    """

    class_names: tuple[str, ...]
    palette: Palette | None
    train_dataset: SegmentationDataset | None
    val_dataset: SegmentationDataset | None

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        train_images: str | Path | None = None,
        train_labels: str | Path | None = None,
        val_images: str | Path | None = None,
        val_labels: str | Path | None = None,
        classes: str | Path | None = None,
        label_shift: int = -1,
        ignore_index: int = 255,
        train_transform: Transform | None = None,
        test_transform: Transform | None = None,
        batch_size: int = 2,
        eval_batch_size: int = 1,
        num_workers: int | None = None,
        seed: int = 0,
        limit_images: int | None = None,
    ) -> None:
        """Takes note of where the data is and how it is to be read; nothing is opened yet.

        Args:
            root: The official layout: the folder `ADEChallengeData2016`, its zip file, or the folder that either lies
                in. None where the four places are named one by one.
            train_images: Folder, zip file, or folder in a zip file; None takes that of the layout, as below.
            train_labels: Likewise, of label PNGs with the names of the images.
            val_images: Likewise, for validation.
            val_labels: Likewise, for validation.
            classes: Class list; None looks for it where the official layout has it (see `find_class_list`).
            label_shift: Added to the labels in the files to get classes; see `label_maps.conversion`.
            ignore_index: The label in the files without a class, beside those that the shift makes negative.
            train_transform: Applied to training samples; drawn again for every (seed, epoch, index). None takes the
                official one: `official_transform()`.
            test_transform: Applied to the images of validation samples; their label maps stay as they are on disk. None
                leaves the images as they are, too.
            batch_size: Training images per device.
            eval_batch_size: Validation images per device.
            num_workers: Reading processes per device; 0 reads in the training process, None has one for each core, up
                to four.
            seed: Order and randomness of the training samples derive from it.
            limit_images: Use only the first images of training and of validation, to see whether a model can overfit.

        Raises:
            ConfigError: A number is out of range, or a place is not named.
        """
        super().__init__(
            train_transform=official_transform() if train_transform is None else train_transform,
            test_transform=Identity() if test_transform is None else test_transform,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            limit_images=limit_images,
        )
        self.root = None if root is None else Path(root)
        self.places = {
            "train_images": train_images,
            "train_labels": train_labels,
            "val_images": val_images,
            "val_labels": val_labels,
        }
        if root is None and (missing := [name for name, place in self.places.items() if place is None]):
            raise ConfigError(f"ADE20KDataModule needs root, or else {', '.join(missing)}")
        self.classes = None if classes is None else Path(classes)
        self.label_shift = label_shift
        self.ignore_index = ignore_index

    def read_val(self) -> SegmentationDataset:
        """Reads the class list and lists the validation files."""
        self.class_names, self.palette = read_classes(self._locate())
        return self._read("val")

    def read_train(self) -> SegmentationDataset:
        """Lists the training files.

        Label maps are looked at: a class without a pixel, and many pixels without a class, are logged as warnings.
        """
        dataset = self._read("train")
        if self._rank_and_world_size()[0] == 0:
            self._look_at_labels(dataset)
        return dataset

    def _locate(self) -> Path:
        """Takes what is not named from the official layout; returns the class list."""
        layout = official_layout(self.root, self.classes) if self.root is not None else None
        if layout is not None:
            for name, place in self.places.items():
                self.places[name] = getattr(layout, name) if place is None else place
        labels = Path(str(self.places["val_labels"]))
        found = self.classes or (layout.classes if layout else find_class_list(labels))
        if found is None:
            raise DataError(f"{labels}: no class list where the official layout has it; name one with classes=FILE")
        return found

    def _look_at_labels(self, dataset: SegmentationDataset) -> None:
        """Logs what the label maps, or as many of them spread evenly, say about the class list."""
        count = len(range(len(dataset))[: self.limit_images])
        looked_at = min(count, MOST_LOOKED_AT)
        pixels = dataset.count_labels([i * count // looked_at for i in range(looked_at)])
        where = f"{looked_at} training label maps" + (f" spread over all {count}" if looked_at < count else "")
        for finding in coverage_findings(pixels, dataset.conversion, self.class_names, dataset.labels, where):
            if finding.severity == "error" and looked_at == count:
                raise DataError(str(finding))
            logger.warning("%s", finding)

    def _read(self, split: str) -> SegmentationDataset:
        images, labels = (Path(str(self.places[f"{split}_{what}"])) for what in ("images", "labels"))
        conversion = LabelConversion(len(self.class_names), self.label_shift, self.ignore_index)
        return SegmentationDataset(images, labels, conversion)
