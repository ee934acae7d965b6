"""COCO instances, with their masks or with boxes alone, as a map-style data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from hotcoco import mask as rle_codec
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from swin_dense.coco.instances import CocoInstances, read_instances, select
from swin_dense.coco.rules import apply_rules, find_empty_selection, refuse_errors
from swin_dense.errors import DataError
from swin_dense.images.store import ImageStore
from swin_dense.label_maps.conversion import LabelConversion
from swin_dense.label_maps.files import read_label_file
from swin_dense.records import Instances, Sample, Size

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
        height, width = data.image_sizes[row].tolist()
        first, end = data.first_annotation[row : row + 2].tolist()
        places = first + torch.nonzero(self._is_used[first:end]).flatten()
        corners, sides = data.boxes[places, :2], data.boxes[places, 2:]
        boxes = torch.cat([corners, corners + sides], dim=1).float()
        return Instances(
            boxes=tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            masks=tv_tensors.Mask(_decode_masks(data, places.tolist(), height, width)) if self._masks else None,
            labels=data.labels[places],
            crowd=data.crowd[places],
        )


def _stuff_name(image_name: str) -> str:
    return str(PurePosixPath(image_name).with_suffix(".png"))


def _read_stuff(store: ImageStore, image_name: str, size: Size) -> tv_tensors.Mask:
    """The label map of an image of this size."""
    name = _stuff_name(image_name)
    labels, path = read_label_file(store, name).labels, store.root / name
    if labels.shape != size:
        raise DataError(f"{path} is {labels.shape[0]}x{labels.shape[1]}, but its image {size[0]}x{size[1]}; replace it")
    return tv_tensors.Mask(torch.from_numpy(STUFF.classes(labels, path)))


def _decode_masks(annotations: CocoInstances, places: Sequence[int], height: int, width: int) -> Tensor:
    """(N, H, W) bool masks of some annotations of one image."""
    if not places:
        return torch.zeros((0, height, width), dtype=torch.bool)
    masks = rle_codec.decode([annotations.mask(place) for place in places])  # (H, W, N), each mask in column order
    return torch.from_numpy(masks.transpose(2, 0, 1).view(np.bool_))
