"""The Lightning data module of semantic segmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from swin_dense.data.datamodule_base import ImageDataModule
from swin_dense.data.loaders import ResumableLoader, evaluation_loader, train_loader
from swin_dense.data.samplers import EvaluationSampler, TrainBatchSampler
from swin_dense.data.segmentation import SegmentationDataset
from swin_dense.data.transforms import Transform
from swin_dense.label_maps.labels import LabelConversion
from swin_dense.label_maps.layout import find_class_list, read_classes
from swin_dense.label_maps.palettes import Palette
from swin_dense.records import Sample


class ADE20KDataModule(ImageDataModule):
    """Semantic segmentation data, for training and validation: ADE20K, or any images with label PNGs.

    Attributes:
        train_dataset: The training images; None until `setup("fit")`.
        val_dataset: The validation images; None until `setup`.
        class_names: Names by class 0..K-1; after `setup`.
        palette: (K, 3) uint8 RGB by class, None where the data set brings no colours; after `setup`.
    """

    class_names: tuple[str, ...]
    palette: Palette | None

    def __init__(
        self,
        *,
        train_images: Path,
        train_labels: Path,
        val_images: Path,
        val_labels: Path,
        classes: Path | None = None,
        label_shift: int = -1,
        ignore_index: int = 255,
        train_transform: Transform,
        test_transform: Transform,
        batch_size: int,
        eval_batch_size: int = 1,
        num_workers: int = 2,
        seed: int = 0,
        limit_images: int | None = None,
    ) -> None:
        """Takes note of where the data is and how it is to be read; nothing is opened yet.

        Args:
            train_images: Folder, zip file, or folder in a zip file.
            train_labels: Likewise, of label PNGs with the names of the images.
            val_images: Likewise, for validation.
            val_labels: Likewise, for validation.
            classes: Class list; None looks for it where the official layout has it (see `find_class_list`).
            label_shift: Added to the labels in the files to get classes; see `labels`.
            ignore_index: The label in the files without a class, beside those that the shift makes negative.
            train_transform: Applied to training samples; drawn anew for every (seed, epoch, index).
            test_transform: Applied to the images of validation samples; their label maps stay as they are on disk.
            batch_size: Training images per device.
            eval_batch_size: Validation images per device.
            num_workers: Reading processes per device; 0 reads in the training process.
            seed: Order and randomness of the training samples derive from it.
            limit_images: Use only the first images of training and of validation, to see whether a model can overfit.

        Raises:
            ConfigError: A number is out of range.
        """
        super().__init__(
            train_transform=train_transform,
            test_transform=test_transform,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            limit_images=limit_images,
        )
        self.train_images = train_images
        self.train_labels = train_labels
        self.val_images = val_images
        self.val_labels = val_labels
        self.classes = classes
        self.label_shift = label_shift
        self.ignore_index = ignore_index
        self.train_dataset: SegmentationDataset | None = None
        self.val_dataset: SegmentationDataset | None = None

    def read_splits(self, stage: str) -> None:
        """Reads the class list and lists the files that the stage needs; a second call does nothing again.

        Args:
            stage: "fit" needs both splits; "validate" leaves the training data alone, so that it may be absent.

        Raises:
            ConfigError: A label has two meanings: `ignore_index` is a class.
            DataError: The class list is unreadable, or images and label maps do not fit together.
        """
        if self.val_dataset is None:
            classes = self.classes or find_class_list(self.val_labels)
            self.class_names, self.palette = read_classes(classes)
            self.val_dataset = self._read("validation", self.val_images, self.val_labels)
        if stage == "fit" and self.train_dataset is None:
            self.train_dataset = self._read("training", self.train_images, self.train_labels)

    def _read(self, name: str, images: Path, labels: Path) -> SegmentationDataset:
        """The data set of one split."""
        conversion = LabelConversion(len(self.class_names), self.label_shift, self.ignore_index)
        dataset = SegmentationDataset(images, labels, conversion)
        self._log_limit(name, len(dataset))
        return dataset

    @property
    def val_image_ids(self) -> tuple[int, ...]:
        """Ids of the images that validation predicts on, over all ranks: their positions; after `setup`."""
        return tuple(range(len(self._val()))[: self.limit_images])

    def train_dataloader(self) -> ResumableLoader:
        """The loader of this rank's training batches, each a `Batch` with label maps of the size of its images."""
        assert self.train_dataset is not None, 'call setup("fit") first'
        count = len(range(len(self.train_dataset))[: self.limit_images])
        # Training images are cropped to one size, so that there are no orientations to sort by.
        sampler = TrainBatchSampler(np.ones((count, 2), int), self.batch_size, self.seed, *self._rank_and_world_size())
        return train_loader(
            self.train_dataset,
            self.train_transform,
            sampler,
            self._position,
            num_workers=self.num_workers,
            size_divisor=1,
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """The loader of this rank's validation batches, each a `Batch` with label maps as they are on disk."""
        sampler = EvaluationSampler(len(self.val_image_ids), *self._rank_and_world_size())
        return evaluation_loader(
            self._val(),
            self.test_transform,
            sampler,
            batch_size=self.eval_batch_size,
            num_workers=self.num_workers,
            size_divisor=1,
        )

    def _val(self) -> SegmentationDataset:
        """The validation data, which every stage needs."""
        assert self.val_dataset is not None, "call setup first"
        return self.val_dataset
