"""Image classification as a map-style data set."""

from __future__ import annotations

from torch.utils.data import Dataset

from swin_dense.images.labelled import LabelledImages
from swin_dense.records import Sample


class ClassificationDataset(Dataset[Sample]):
    """Labelled images of one split; ids are positions."""

    def __init__(self, images: LabelledImages) -> None:
        """Takes the list of the images; each is decoded when it is asked for."""
        self.images = images

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        """Reads one image, untransformed."""
        name = self.images.names.text(index)
        image = self.images.store.read(name)
        size = (int(image.shape[-2]), int(image.shape[-1]))
        return Sample(image, index, name, size, label=int(self.images.labels[index]))
