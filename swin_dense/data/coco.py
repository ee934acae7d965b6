"""COCO instances, with masks or boxes alone, as a map-style data set, and the Lightning data module of detection."""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import Identity

from swin_dense.coco.instances import CocoInstances, find_annotations, images_beside, read_instances, select
from swin_dense.coco.rules import apply_rules, compare_categories, find_empty_selection, refuse_errors
from swin_dense.data.datamodule_base import ImageDataModule
from swin_dense.data.transforms import Transform, official_train_transform
from swin_dense.errors import ConfigError, DataError, check_lowest
from swin_dense.images.store import ImageStore
from swin_dense.label_maps.conversion import LabelConversion
from swin_dense.label_maps.files import read_label_file
from swin_dense.records import Instances, Sample, Size

logger = logging.getLogger(__name__)

STUFF = LabelConversion(class_count=183, label_shift=0, ignore_index=255)
"""COCO's stuffthingmaps: category id - 1 of things and stuff, 255 where there is neither."""


class CocoDataset(Dataset[Sample]):
    """Images and instances of a COCO annotation file.

    Annotations are flat tensors, so that workers share them: forked ones as pages, spawned ones as shared memory.

    Attributes:
        annotations_path: The annotation file.
        annotations: All that is in it, images that were left out too.
        class_names: By contiguous label.
        category_ids: The file's, by contiguous label, ascending.
        image_ids: (n,) int64, by index.
        image_sizes: (n, 2) int64 heights and widths, by index.
        left_out: What is not learnt from, and how many; see `coco.instances.Selection`.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path,
        *,
        masks: bool = True,
        stuff: Path | None = None,
        keep_empty: bool = True,
        min_side: int = 0,
    ) -> None:
        """Reads the annotation file and applies every rule that needs no image.

        Args:
            annotations: Instances JSON, or one inside a zip file as if that were a folder:
                `annotations_trainval2017.zip/annotations/instances_val2017.json`.
            images: Image folder or zip file.
            masks: Whether the samples have masks, so that every annotation needs a `segmentation`; without them those
                that the file has are checked like everything else, and not decoded.
            stuff: Folder or zip file of COCO's stuffthingmaps, PNGs with the names of the images; the samples then have
                label maps of things and stuff, as semantic branches learn them.
            keep_empty: Whether to keep images that have nothing to learn from: no instances other than crowd regions.
            min_side: Leaves out images with a side shorter than this many pixels.
        """
        self.annotations_path = Path(annotations)
        self._store = ImageStore(images)
        self._masks = masks
        self._stuff = None if stuff is None else ImageStore(stuff)
        self.annotations, findings = read_instances(self.annotations_path)
        findings += apply_rules(self.annotations, masks=masks)
        selection = select(self.annotations, keep_empty=keep_empty, min_side=min_side)
        refuse_errors(str(self.annotations_path), [*findings, *find_empty_selection(self.annotations, selection)])
        self.class_names = self.annotations.class_names
        self.category_ids = self.annotations.category_ids
        self.left_out = selection.left_out
        self._rows, self._is_used = selection.images, selection.instances
        self.image_ids = self.annotations.image_ids[self._rows].numpy()
        self.image_sizes = self.annotations.image_sizes[self._rows].numpy()

    def check_files(self, limit: int | None = None) -> None:
        """Makes sure that the images, or the first `limit`, and their label maps, if any, are there; opens nothing."""
        rows = self._rows[:limit].tolist()
        every_name = self.annotations.file_names.texts()
        names = [every_name[row] for row in rows]
        stores = [(self._store, names)]
        if self._stuff is not None:
            stores.append((self._stuff, [_stuff_name(name) for name in names]))
        for store, wanted in stores:
            missing = set(store.missing(wanted))
            if missing:
                ids = [int(self.annotations.image_ids[row]) for row in rows]
                lines = [
                    f"image {image_id}: {name}: {fault.fault}; {fault.fix}"
                    for image_id, name in zip(ids, wanted, strict=True)
                    if name in missing
                    for fault in (store.missing_image(name),)
                ]
                what = f"{len(lines)} of the {len(wanted)} files that {self.annotations_path} names are missing"
                raise DataError(f"{store.root}: {what}", lines)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Reads one image with its instances, untransformed; masks, if any, are decoded at the image's size."""
        row = int(self._rows[index])
        height, width = self.annotations.image_sizes[row].tolist()
        image_id = int(self.annotations.image_ids[row])
        file_name = self.annotations.file_names.text(row)
        try:
            image = self._store.read(file_name, (height, width))
        except DataError as error:
            raise DataError(f"image {image_id}: {error}") from error
        label_map = None if self._stuff is None else _read_stuff(self._stuff, file_name, (height, width))
        return Sample(image, image_id, file_name, (height, width), self.instances(index), label_map)

    def instances(self, index: int) -> Instances:
        """The instances of one image, in pixels of the image on disk, without reading the image."""
        data, row = self.annotations, int(self._rows[index])
        first, end = data.first_annotation[row : row + 2].tolist()
        places = first + torch.nonzero(self._is_used[first:end]).flatten()
        return data.instances(row, places, masks=self._masks)


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

    train_dataset: CocoDataset | None
    val_dataset: CocoDataset | None

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

    def read_val(self) -> CocoDataset:
        """Reads the annotation file of validation."""
        dataset = CocoDataset(self.val_annotations, self.val_images, masks=self.masks)
        dataset.check_files(self.limit_images)
        return dataset

    def read_train(self) -> CocoDataset:
        """Reads the annotation file of training, which must have the same categories."""
        dataset = CocoDataset(
            self.train_annotations,
            self.train_images,
            masks=self.masks,
            stuff=self.train_stuff,
            keep_empty=self.keep_empty,
            min_side=self.min_side,
        )
        if problems := [str(finding) for finding in compare_categories(dataset.annotations, self._val().annotations)]:
            raise DataError(f"{self.train_annotations} and {self.val_annotations} do not fit together", problems)
        dataset.check_files(self.limit_images)
        if dataset.left_out:
            left_out = ", ".join(f"{count} {what}" for what, count in dataset.left_out.items())
            logger.warning("%s: left out of training: %s", self.train_annotations, left_out)
        return dataset

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


def _stuff_name(image_name: str) -> str:
    return str(PurePosixPath(image_name).with_suffix(".png"))


def _read_stuff(store: ImageStore, image_name: str, size: Size) -> tv_tensors.Mask:
    """The label map of an image of this size."""
    name = _stuff_name(image_name)
    labels, path = read_label_file(store, name).labels, store.root / name
    if labels.shape != size:
        raise DataError(f"{path} is {labels.shape[0]}x{labels.shape[1]}, but its image {size[0]}x{size[1]}; replace it")
    return tv_tensors.Mask(torch.from_numpy(STUFF.classes(labels, path)))
