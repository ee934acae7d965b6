"""Labelled images as a map-style data set, and the Lightning data module of classification."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from swin_dense.data.classification_transforms import CentreView, official_transform
from swin_dense.data.datamodule_base import ImageDataModule
from swin_dense.data.transforms import Transform
from swin_dense.errors import ConfigError
from swin_dense.images.files import exists
from swin_dense.images.labelled import (
    ClassList,
    LabelledImages,
    find_classes,
    find_shards,
    official_split,
    open_images,
    read_class_list,
    read_labelled,
)
from swin_dense.images.store import ImageStore
from swin_dense.records import Sample


class ClassificationDataset(Dataset[Sample]):
    """Labelled images of one split; ids are positions."""

    def __init__(self, images: LabelledImages) -> None:
        """Takes the list of the images; each is decoded when it is asked for."""
        self.images = images

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def labels(self) -> Tensor:
        """(n,) the class of each image."""
        return self.images.labels

    def __getitem__(self, index: int) -> Sample:
        """Reads one image, untransformed."""
        name = self.images.names.text(index)
        image = self.images.store.read(name)
        size = (int(image.shape[-2]), int(image.shape[-1]))
        return Sample(image, index, name, size, label=int(self.images.labels[index]))


class ImageNetDataModule(ImageDataModule):
    """Images with one class each, for training and validation: ImageNet, or any images in folders by class.

    A split is a folder with a folder for each class, a folder with an uncompressed tar file for each class, a zip file,
    any images with a list of their labels, or shards: tar files of WebDataset, Arrow or Parquet files of Hugging Face's
    `datasets` (see `swin_dense.images.labelled`).

    Attributes:
        train_dataset: The training images; None until `setup("fit")`.
        val_dataset: The validation images; None until `setup`.
        class_names: Names by class 0..K-1; after `setup`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from swin_dense.data import ImageNetDataModule
        >>> from swin_dense.data.shapes import write_shapes
        >>> root = write_shapes(Path(tempfile.mkdtemp()) / "shapes", train=40, val=4, size=64) / "imagenet"
        >>> data = ImageNetDataModule(root, batch_size=2, num_workers=0)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> tuple(batch.images.shape), len(batch.labels), data.class_names[:2]
        ((2, 3, 224, 224), 2, ('circle', 'cross'))
    """

    class_names: tuple[str, ...]
    train_dataset: ClassificationDataset | None
    val_dataset: ClassificationDataset | None

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        train_images: str | Path | None = None,
        train_labels: str | Path | None = None,
        val_images: str | Path | None = None,
        val_labels: str | Path | None = None,
        classes: str | Path | None = None,
        train_transform: Transform | None = None,
        test_transform: Transform | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 64,
        num_workers: int | None = None,
        seed: int = 0,
        limit_images: int | None = None,
    ) -> None:
        """Takes note of where the data is and how it is to be read; nothing is opened yet.

        Args:
            root: Folder with the splits `train` and `val`, or `train.zip` and `val.zip`; None where they are named.
            train_images: Folder, zip file, folder in a zip file, or what the names of shards begin with.
            train_labels: List of the training images with their labels; None takes the folders for the classes.
            val_images: Likewise, for validation.
            val_labels: Likewise, for validation.
            classes: Text file with one class per line, in the order of labels (see `read_class_list`); None takes the
                sorted folders of the training images, or of the validation images where there are no others.
            train_transform: Applied to training samples; drawn again for every (seed, epoch, index). None takes the
                official one: `official_transform()`.
            test_transform: Applied to validation samples. None takes the official one: the middle 224 pixels at a short
                side of 256. All must come out with one size.
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
            test_transform=CentreView(224, 256) if test_transform is None else test_transform,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            limit_images=limit_images,
        )
        images = {"train": train_images, "val": val_images}
        if root is None and None in images.values():
            raise ConfigError("ImageNetDataModule needs root, or else train_images and val_images")
        self.images = {
            split: Path(place) if place is not None else official_split(Path(str(root)), split)
            for split, place in images.items()
        }
        self.labels = {
            split: None if place is None else Path(place)
            for split, place in (("train", train_labels), ("val", val_labels))
        }
        self.classes = None if classes is None else Path(classes)
        self.class_list: ClassList | None = None
        self._stores: dict[str, ImageStore] = {}

    def read_val(self) -> ClassificationDataset:
        """Lists the classes and the validation images."""
        self.class_list = self._read_classes()
        self.class_names = self.class_list.names
        return self._read("val")

    def read_train(self) -> ClassificationDataset:
        """Lists the training images."""
        return self._read("train")

    def _read_classes(self) -> ClassList:
        if self.classes is not None:
            return read_class_list(self.classes)
        splits = [split for split in ("train", "val") if exists(place := self.images[split]) or find_shards(place)]
        splits = splits or ["train"]  # which is then an error that names the place
        return find_classes([self._store(one) for one in splits], [self.labels[one] for one in splits])

    def _store(self, split: str) -> ImageStore:
        if split not in self._stores:
            self._stores[split] = open_images(self.images[split])
        return self._stores[split]

    def _read(self, split: str) -> ClassificationDataset:
        assert self.class_list is not None
        return ClassificationDataset(read_labelled(self._store(split), self.labels[split], self.class_list))
