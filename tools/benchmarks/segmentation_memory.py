"""Measures peak memory of segmenting a large image: in bands of rows, and with the logits at full size.

The model is a stand-in that returns random logits at a quarter of the image, so that its own memory hides nothing. Each
way runs in a fresh process; its peak is the most that Linux has seen it map, less what it mapped before. The full-size
ways are the leanest there are: one resize, every crop added in place. Test-time augmentation has none: twelve views
of 2048 x 4096 pixels and 150 classes would take 60 GB.

    python tools/benchmarks/segmentation_memory.py [--classes 150] [--height 2048] [--width 4096] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from swin_dense.inference.segmentation import SegmentationInference
from swin_dense.records import Batch, Size

CROP, STRIDE = (512, 512), (341, 341)
OFFICIAL_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


class RandomLogits:
    """A segmenter without weights."""

    align_corners = False

    def __init__(self, classes: int) -> None:
        """Takes the number of classes."""
        self.classes = classes

    def logits(self, images: Tensor) -> Tensor:
        """(B, K, H / 4, W / 4) random numbers."""
        count, _, height, width = images.shape
        return torch.rand(count, self.classes, -(-height // 4), -(-width // 4))


def as_on_disk(size: Size, ratio: float) -> Size:
    """The test size of models that see images as they are."""
    return round(size[0] * ratio), round(size[1] * ratio)


def short_side_512(size: Size, ratio: float) -> Size:
    """The test size of ADE20K's official recipe, for images no more than four times as wide as high."""
    return as_on_disk(size, 512 / min(size) * ratio)


def in_bands(model: RandomLogits, image: Tensor, options: dict[str, Any]) -> Tensor:
    """Our way."""
    size = (image.shape[1], image.shape[2])
    batch = Batch(image[None], (size,), (size,), image_ids=(0,), file_names=("image.png",))
    return SegmentationInference(**options).predict(model, batch)[0].label_map


def whole_at_full_size(model: RandomLogits, image: Tensor, options: dict[str, Any]) -> Tensor:
    """All logits of the image, then the largest of each pixel."""
    logits = functional.interpolate(model.logits(image[None]), size=image.shape[1:], mode="bilinear")
    return logits.argmax(dim=1)


def slide_at_full_size(model: RandomLogits, image: Tensor, options: dict[str, Any]) -> Tensor:
    """All logits of the image, to which those of every crop are added."""
    height, width = image.shape[1:]
    total, count = torch.zeros(1, model.classes, height, width), torch.zeros(height, width)
    for top in sorted({min(y, height - CROP[0]) for y in range(0, height - CROP[0] + STRIDE[0], STRIDE[0])}):
        for left in sorted({min(x, width - CROP[1]) for x in range(0, width - CROP[1] + STRIDE[1], STRIDE[1])}):
            rows, columns = slice(top, top + CROP[0]), slice(left, left + CROP[1])
            logits = model.logits(image[None, :, rows, columns])
            total[:, :, rows, columns] += functional.interpolate(logits, size=CROP, mode="bilinear")
            count[rows, columns] += 1
    return total.div_(count).argmax(dim=1)


Way = Callable[[RandomLogits, Tensor, dict[str, Any]], Tensor]
SLIDE = {"crop_size": CROP, "stride": STRIDE}
MANY_VIEWS = {"scales": OFFICIAL_SCALES, "flip": True}
RUNS: dict[str, tuple[Way, dict[str, Any]]] = {
    "whole, full size": (whole_at_full_size, {}),
    "whole, bands": (in_bands, {"evaluation_size": as_on_disk}),
    "slide, full size": (slide_at_full_size, {}),
    "slide, bands": (in_bands, {"evaluation_size": as_on_disk, **SLIDE}),
    "12 views whole at 512, bands": (in_bands, {"evaluation_size": short_side_512, **MANY_VIEWS}),
    "12 views slide, bands": (in_bands, {"evaluation_size": as_on_disk, **SLIDE, **MANY_VIEWS}),
}


def peak_mb() -> int:
    """Most memory that this process has mapped so far."""
    return int(Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) // 1024


def measure(run: str, classes: int, size: Size, answer: Connection) -> None:
    """Segments one image by one of `RUNS`, in a process of its own, and sends what it took to `answer`."""
    way, options = RUNS[run]
    model, image = RandomLogits(classes), torch.randint(256, (3, *size), dtype=torch.uint8)
    before, started = peak_mb(), time.perf_counter()
    with torch.inference_mode():
        way(model, image, options)
    answer.send({"run": run, "peak_mb": peak_mb() - before, "seconds": round(time.perf_counter() - started, 1)})


def main() -> None:
    """Runs every way and prints a table, or one JSON object."""
    parser = argparse.ArgumentParser(description="Peak memory of segmenting one image, in bands and at full size.")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--height", type=int, default=2048)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    size = (options.height, options.width)
    full = options.classes * options.height * options.width * 4 >> 20
    quarter = full >> 4
    rows = []
    context = multiprocessing.get_context("spawn")
    for run in options.only:
        print(f"measuring: {run}", file=sys.stderr)
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=measure, args=(run, options.classes, size, sender))
        process.start()
        sender.close()  # so that waiting ends if the process dies
        rows.append(receiver.recv())
        process.join()
    if options.json:
        print(json.dumps({"full_size_logits_mb": full, "quarter_size_logits_mb": quarter, "runs": rows}))
        return
    print(f"{options.classes} classes, {size[0]} x {size[1]}: logits {full} MB at full size, {quarter} MB at a quarter")
    print("way                            peak MB  seconds")
    for row in rows:
        print(f"{row['run']:30s} {row['peak_mb']:7d} {row['seconds']:8.1f}")


if __name__ == "__main__":
    main()
