"""What a detector is shown of an image, and where what it finds there lies in the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pycocotools import mask as rle_codec
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as kernels

from swin_dense.records import Rle, Size


@dataclass(frozen=True)
class View:
    """A region of an image, resized and perhaps mirrored.

    Attributes:
        top: First row of the region.
        left: First column of the region.
        region: Height and width of the region, in pixels of the image on disk.
        size: Height and width at which the detector sees it.
        mirrored: Whether left and right are exchanged.
    """

    top: int
    left: int
    region: Size
    size: Size
    mirrored: bool = False

    def show(self, image: Tensor) -> Tensor:
        """(3, h, w) of `size` that the detector sees: what training transforms would make of the region.

        Args:
            image: (3, H, W) uint8, as it is on disk.
        """
        height, width = self.region
        pixels = image[:, self.top : self.top + height, self.left : self.left + width]
        if self.size != self.region:
            pixels = kernels.resize(pixels, list(self.size), interpolation=InterpolationMode.BILINEAR, antialias=False)
        return pixels.flip(-1) if self.mirrored else pixels

    def boxes_in_image(self, boxes: Tensor) -> Tensor:
        """Moves (N, 4) XYXY boxes from pixels of the region, as it is shown, to pixels of the image."""
        if self.mirrored:
            x1, y1, x2, y2 = boxes.unbind(dim=1)
            width = self.region[1]
            boxes = torch.stack([width - x2, y1, width - x1, y2], dim=1)
        return boxes + boxes.new_tensor([self.left, self.top, self.left, self.top])

    def mask_in_image(self, mask: Rle, size: Size) -> Rle:
        """Moves a mask of the region, as it is shown, into an image of this height and width.

        No array of the image's size is made: runs go down the columns, so only the region's columns are looked at.
        """
        if self.region == size and not self.mirrored:
            return mask
        pixels = rle_codec.decode(mask)
        columns = np.zeros((self.region[1], size[0]), dtype=bool)
        columns[:, self.top : self.top + self.region[0]] = (pixels[:, ::-1] if self.mirrored else pixels).T
        edges = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False)) + self.left * size[0]
        lengths = np.diff(edges, prepend=0, append=size[0] * size[1])
        runs = lengths if lengths[-1] else lengths[:-1]
        placed: Rle = rle_codec.frPyObjects({"size": list(size), "counts": runs.tolist()}, *size)
        return placed
