"""Lightning data modules: data sets, transforms and loaders for the trainer."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision.transforms.v2 import Identity

from swin_dense.coco.instances import CocoInstances, find_annotations, images_beside
from swin_dense.coco.rules import compare_categories
from swin_dense.data.coco import CocoDataset
from swin_dense.data.datamodule_base import ImageDataModule
from swin_dense.data.transforms import Transform, official_train_transform
from swin_dense.errors import ConfigError, DataError, check_lowest

logger = logging.getLogger(__name__)


class CocoDataModule(ImageDataModule):
    """COCO-format instances, with masks or with boxes alone, for training and validation.

    Attributes:
        train_dataset: The training images; None until `setup("fit")`.
        val_dataset: The validation images; None until `setup`.

    Example:
        >>> import tempfile
        >>> from swin_dense.data import CocoDataModule
        >>> from swin_dense.data.shapes import write_shapes
        >>> root = write_shapes(tempfile.mkdtemp() + "/shapes", train=4, val=2)
        >>> data = CocoDataModule(root, batch_size=2, num_workers=0)
        >>> data.setup("fit")
        >>> data.class_names[:3]
        ('circle', 'square', 'triangle')
        >>> len(next(iter(data.train_dataloader())))
        2
    """

    def __init__(
        self,
        root: Path | str | None = None,
        *,
        train_annotations: Path | None = None,
        train_images: Path | None = None,
        val_annotations: Path | None = None,
        val_images: Path | None = None,
        train_transform: Transform | None = None,
        test_transform: Transform | None = None,
        batch_size: int = 2,
        eval_batch_size: int = 1,
        num_workers: int | None = None,
        masks: bool = True,
        train_stuff: Path | None = None,
        seed: int = 0,
        keep_empty: bool = False,
        min_side: int = 32,
        size_divisor: int = 32,
        limit_images: int | None = None,
    ) -> None:
        """Takes note of where the data is and how it is to be read; nothing is read yet.

        Args:
            root: Folder in COCO's layout: `annotations/instances_{train,val}*.json`, and for
                `instances_val2017.json` the images in `val2017`, `images/val2017` or `val2017.zip`. Not needed where
                all files are named.
            train_annotations: Instances JSON, or one inside a zip file written as if that were a folder.
            train_images: Image folder or zip file.
            val_annotations: Likewise, for validation.
            val_images: Likewise, for validation.
            train_transform: Applied to training samples, drawn for every (seed, epoch, index): any callable from
                `Sample` to `Sample`, such as torchvision's v2 transforms. None takes the official policy for Swin
                detectors: a random short side of 480..800, half of the time after a random crop, and a flip.
            test_transform: Applied to validation samples; None leaves them as they are, as `DetectorModule` resizes.
            batch_size: Training images per device.
            eval_batch_size: Validation images per device.
            num_workers: Reading processes per device; 0 reads in the training process, None has one for each core, up
                to four.
            masks: Whether instances have masks; detectors of boxes alone need none, and the annotations may lack them.
            train_stuff: Folder or zip file of label maps of the training images, as `CocoDataset` takes it.
            seed: Order and randomness of the training samples derive from it.
            keep_empty: Whether to train on images without annotations; validation always has them.
            min_side: Training leaves out images with a side shorter than this many pixels; validation has all.
            size_divisor: Batches are padded to a multiple of this.
            limit_images: Use only the first images of training and of validation, to see whether a model can overfit.

        Raises:
            ConfigError: A number is out of range, or neither `root` nor the files are named.
            DataError: `root` has no such files.
        """
        super().__init__(
            train_transform=official_train_transform() if train_transform is None else train_transform,
            test_transform=Identity() if test_transform is None else test_transform,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            limit_images=limit_images,
        )
        folder = None if root is None else Path(root)
        self.train_annotations, self.train_images = _split_files(folder, "train", train_annotations, train_images)
        self.val_annotations, self.val_images = _split_files(folder, "val", val_annotations, val_images)
        self.masks = masks
        self.train_stuff = train_stuff
        self.keep_empty = keep_empty
        self.min_side = min_side
        self.size_divisor = size_divisor
        check_lowest("data", self, min_side=0, size_divisor=1)
        self.train_dataset: CocoDataset | None = None
        self.val_dataset: CocoDataset | None = None

    def read_splits(self, stage: str) -> None:
        """Reads the annotation files that the stage needs, which must have the same categories; reads nothing twice."""
        if self.val_dataset is None:
            self.val_dataset = CocoDataset(self.val_annotations, self.val_images, masks=self.masks)
            self.val_dataset.check_files(self.limit_images)
            self._log_limit("validation", len(self.val_dataset))
        if stage == "fit" and self.train_dataset is None:
            train_dataset = CocoDataset(
                self.train_annotations,
                self.train_images,
                masks=self.masks,
                stuff=self.train_stuff,
                keep_empty=self.keep_empty,
                min_side=self.min_side,
            )
            different = compare_categories(train_dataset.annotations, self.val_dataset.annotations)
            if problems := [str(finding) for finding in different]:
                raise DataError(f"{self.train_annotations} and {self.val_annotations} do not fit together", problems)
            train_dataset.check_files(self.limit_images)
            if train_dataset.left_out:
                left_out = ", ".join(f"{count} {what}" for what, count in train_dataset.left_out.items())
                logger.warning("%s: left out of training: %s", self.train_annotations, left_out)
            self._log_limit("training", len(train_dataset))
            self.train_dataset = train_dataset

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by contiguous label; after `setup`."""
        return tuple(self._val().class_names)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The annotation files' category ids by contiguous label; after `setup`."""
        return tuple(self._val().category_ids)

    @property
    def ground_truth(self) -> CocoInstances:
        """The annotations of validation, for `CocoMetric`; after `setup`."""
        return self._val().annotations

    @property
    def val_image_ids(self) -> tuple[int, ...]:
        """Ids of the images that validation predicts on, over all ranks; after `setup`."""
        return tuple(self._val().image_ids[: self.limit_images].tolist())

    def image_sizes(self) -> NDArray[np.integer]:
        """(n, 2) height and width of the training images."""
        assert self.train_dataset is not None
        return self.train_dataset.image_sizes

    def _val(self) -> CocoDataset:
        """The validation data, which every stage needs."""
        assert self.val_dataset is not None, "call setup first"
        return self.val_dataset


def _split_files(root: Path | None, split: str, annotations: Path | None, images: Path | None) -> tuple[Path, Path]:
    """Annotations and images of a split, found in the data set's folder where they are not named."""
    if annotations is None:
        if root is None:
            raise ConfigError(f"CocoDataModule needs root, or {split}_annotations and {split}_images")
        annotations = find_annotations(root, split)
    images = images or images_beside(Path(annotations))
    if images is None:
        raise DataError(f"{annotations}: no images found beside its folder; name {split}_images")
    return Path(annotations), Path(images)
