"""Images per second of one loading process: reading and augmenting COCO with masks, beside mmdet's pipeline.

Both apply the official policy of detectors: a random short side, half of the time after a random crop, and a flip. What
they draw differs, so the same images pass several times, in turns. Before that both read some images at one size, and
what they make of them is compared.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swin_dense.benchmark.backbone import describe
from swin_dense.benchmark.peers import OURS, installed_peers
from swin_dense.benchmark.photos import write_coco
from swin_dense.benchmark.processes import RemoteContestant, timed_rounds
from swin_dense.benchmark.timing import log
from swin_dense.benchmark.train import peak_memory
from swin_dense.config import load_config
from swin_dense.data.samplers import SeededDataset
from swin_dense.errors import BenchmarkError
from swin_dense.tasks import data_module

RECIPE = "mask-rcnn_swin-t_fpn_1x_coco"
CHECKED = 4
"""Images that are compared before anything is timed."""

GREY_LEVELS = 2
"""Largest difference between pixels; decoders and resizing round differently."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class DataSettings:
    """What is read.

    Attributes:
        root: Folder of a COCO data set, of which the training split is read; None generates one.
        images: Most images of a round.
        repeats: Rounds.
        peers: "mmdet", or nothing.
    """

    root: str | None = None
    images: int = 48
    repeats: int = 5
    peers: Sequence[str] = ("mmdet",)


class Pipeline:
    """Our pipeline or mmdet's, in its own process, on one thread."""

    def __init__(self, name: str, root: str, images: int) -> None:
        torch.set_num_threads(1)
        self.name, self.epoch = name, 0
        config = load_config(RECIPE, {"data.root": root, "data.keep_empty": True, "data.min_side": 0})
        data = data_module(config)
        data.setup("fit")
        self.files = data.train_annotations, data.train_images
        self.ours, self.transform, self.seed = data.train_dataset, data.train_transform, 0
        self.ids = [int(one) for one in self.ours.image_ids[:images]]
        if name != OURS:
            self.theirs, self.places = self._mmdet(official_steps())

    def at_one_size(self) -> list[tuple[NDArray[np.uint8], NDArray[np.float32], int]]:
        """Pixels (3, H, W) in RGB, boxes and the area of all masks of the first images, at a short side of 800."""
        if self.name == OURS:
            from swin_dense.data.transforms import RandomShortSide

            resize = RandomShortSide((800,), 1333)
            samples = [resize(self.ours[index]) for index in range(min(CHECKED, len(self.ids)))]
            pairs = [(one.image, one.instances) for one in samples]
            return [
                (image.numpy(), found.boxes.numpy(), int(found.masks.sum()))
                for image, found in pairs
                if found is not None and found.masks is not None
            ]
        data, places = self._mmdet([{"type": "Resize", "scale": (1333, 800), "keep_ratio": True}])
        read = []
        for image_id in self.ids[:CHECKED]:
            one = data[places[image_id]]
            objects = one["data_samples"].gt_instances
            ignored = one["data_samples"].ignored_instances
            boxes = torch.cat([objects.bboxes.tensor, ignored.bboxes.tensor]).numpy()
            area = int(objects.masks.masks.sum()) + int(ignored.masks.masks.sum())
            read.append((one["inputs"].numpy()[::-1], boxes, area))
        return read

    def round(self) -> float:
        """Seconds of one image, over all images."""
        begin = time.perf_counter()
        if self.name == OURS:
            samples = SeededDataset(self.ours, self.transform, self.seed)
            for index in range(len(self.ids)):
                samples[self.epoch, index]
        else:
            for image_id in self.ids:
                self.theirs[self.places[image_id]]
        self.epoch += 1
        return (time.perf_counter() - begin) / len(self.ids)

    def peak(self) -> int:
        """Most bytes that the process has had, libraries included."""
        return peak_memory(CPU)

    def count(self) -> int:
        """Images of a round."""
        return len(self.ids)

    def _mmdet(self, steps: Sequence[dict[str, Any]]) -> tuple[Any, dict[int, int]]:
        from swin_dense.openmmlab.peers import mmdet_dataset

        data = mmdet_dataset(*self.files, steps)
        return data, {data.get_data_info(index)["img_id"]: index for index in range(len(data))}


def official_steps() -> list[dict[str, Any]]:
    """The official policy as mmdet spells it."""
    sides = [(side, 1333) for side in range(480, 801, 32)]
    resize: dict[str, Any] = {"type": "RandomChoiceResize", "scales": sides, "keep_ratio": True}
    smaller = {**resize, "scales": [(side, 4200) for side in (400, 500, 600)]}
    crop = {
        "type": "RandomCrop",
        "crop_type": "absolute_range",
        "crop_size": (384, 600),
        "allow_negative_crop": True,
    }
    choice = {"type": "RandomChoice", "transforms": [[resize], [smaller, crop, resize]]}
    return [{"type": "RandomFlip", "prob": 0.5}, choice]


def benchmark_data(settings: DataSettings) -> dict[str, Any]:
    """Measures our pipeline and mmdet's.

    Args:
        settings: What is read.

    Returns:
        A record ready for JSON: `contestants` holds seconds per image, images per second and peak memory of each,
        `speedup` how many times as fast ours is.

    Raises:
        BenchmarkError: What they make of an image differs.

    Example:
        >>> from swin_dense.benchmark.data import DataSettings
        >>> DataSettings(images=16).repeats
        5
    """
    peers, left_out = installed_peers(settings.peers)
    record: dict[str, Any] = {
        "benchmark": "data",
        "device": describe(CPU),
        "settings": asdict(settings),
        "left_out": left_out,
        "contestants": {},
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = settings.root or str(write_coco(Path(folder) / "coco", settings.images))
        processes = {
            name: stack.enter_context(closing(RemoteContestant(Pipeline, name, root, settings.images)))
            for name in (OURS, *peers)
        }
        try:
            _check({name: one.call("at_one_size") for name, one in processes.items()})
            for one in processes.values():
                one.call("round")  # warms up
            for name, spread in timed_rounds(processes, settings.repeats).items():
                record["contestants"][name] = {
                    **spread.milliseconds("_ms"),
                    "images_per_second": 1 / spread.median,
                    "peak_memory_gib": processes[name].call("peak") / 2**30,
                }
            record["images"] = processes[OURS].call("count")
        except BenchmarkError as error:
            raise BenchmarkError(f"a pipeline failed: {error}") from error
    done = record["contestants"]
    record["speedup"] = done["mmdet"]["median_ms"] / done[OURS]["median_ms"] if "mmdet" in done else None
    return record


def _check(read: dict[str, list[tuple[NDArray[np.uint8], NDArray[np.float32], int]]]) -> None:
    """Compares images, boxes and masks with ours."""
    for name, theirs in read.items():
        for (image, boxes, area), (other, other_boxes, other_area) in zip(read[OURS], theirs, strict=True):
            same = image.shape == other.shape and boxes.shape == other_boxes.shape
            if same:
                same = int(np.abs(image.astype(int) - other.astype(int)).max()) <= GREY_LEVELS
                order, other_order = (np.lexsort(one.round().T) for one in (boxes, other_boxes))
                same &= bool(np.allclose(boxes[order], other_boxes[other_order], atol=1e-2))
                same &= abs(area - other_area) <= 0.02 * max(area, 1)
            if not same:
                raise BenchmarkError(f"{name} makes another sample of an image than ours: nothing was timed")
        log(f"{name}: {len(theirs)} images are the same")


def lines(record: dict[str, Any]) -> list[str]:
    """The results as text."""
    shown = [
        f"{name:<6} {one['images_per_second']:7.1f} images/s  {one['median_ms']:7.2f} ms ({one['lowest_ms']:.2f} to "
        f"{one['highest_ms']:.2f})  {one['peak_memory_gib']:.2f} GiB"
        for name, one in record["contestants"].items()
    ]
    if record["speedup"] is not None:
        shown.append(f"ours is {record['speedup']:.2f} times as fast as mmdet")
    return shown
