"""Measures load time and memory of the annotations of full COCO: flat tensors beside the usual list of dicts.

A file of train2017's size (118,287 images, 860,001 instances) is generated, read in a fresh process for each way, and
its annotations are fetched by the workers of a `DataLoader`; images are not needed. The way "none" has no annotations:
what it takes is Python and the libraries. Memory is Linux's own count: RSS is all that a process maps, PSS shares out
pages that several processes map, USS is what it has for itself alone: the memory that one more worker costs.

    python tools/benchmarks/coco_memory.py [--images 118287] [--instances 860001] [--workers 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from swin_dense.data.coco import CocoDataset

MEGABYTE = 1024
"""In the kilobytes that Linux counts in."""


def write_annotations(path: Path, images: int, instances: int) -> None:
    """Writes a COCO-like annotation file, record by record.

    Sizes follow COCO train2017: 80 categories with gaps in their ids, about 45 coordinates per instance with two
    decimals in one or two polygons, one crowd region per hundred instances.
    """
    rng = np.random.default_rng(0)
    width, height = 640, 480
    owners = np.sort(rng.integers(0, images, size=instances)).tolist()
    with path.open("w", encoding="utf-8") as file:
        categories = [{"id": number, "name": f"class {number}", "supercategory": "thing"} for number in range(1, 91)]
        file.write('{"info": {}, "licenses": [], "categories": ' + json.dumps(categories[:80]) + ', "images": [')
        for image_id in range(images):
            image = {
                "license": 3,
                "file_name": f"{image_id:012d}.jpg",
                "coco_url": f"http://images.cocodataset.org/train2017/{image_id:012d}.jpg",
                "height": height,
                "width": width,
                "date_captured": "2013-11-14 11:18:45",
                "flickr_url": "http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg",
                "id": image_id,
            }
            file.write((", " if image_id else "") + json.dumps(image))
        file.write('], "annotations": [')
        for number, image_id in enumerate(owners):
            annotation = {"id": number, "image_id": image_id, "category_id": int(rng.integers(1, 81))}
            file.write(
                (", " if number else "") + json.dumps(annotation | _outline(rng, width, height, number % 100 == 0))
            )
        file.write("]}")


def _outline(rng: np.random.Generator, width: int, height: int, crowd: bool) -> dict[str, Any]:
    """Outline, box and area of one instance."""
    if crowd:
        runs = np.diff(np.concatenate([[0], np.sort(rng.choice(width * height, 400, replace=False)), [width * height]]))
        outline: Any = {"size": [height, width], "counts": runs.tolist()}
        return {"segmentation": outline, "bbox": [0, 0, width, height], "area": int(runs[1::2].sum()), "iscrowd": 1}
    points = int(np.clip(rng.lognormal(3.0, 0.6), 4, 300))
    radius = np.clip(rng.lognormal(3.5, 0.8), 3, 200)
    angles = 2 * np.pi * np.arange(points) / points
    wobble = radius * (1 + 0.2 * rng.standard_normal(points))
    centre = rng.uniform(0, [width, height])
    ring = centre + wobble[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ring = np.round(np.clip(ring, 0, [width, height]), 2)
    (left, top), (right, bottom) = ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
    box = [left, top, round(right - left, 2), round(bottom - top, 2)]
    return {"segmentation": [ring.ravel().tolist()], "bbox": box, "area": float(radius**2), "iscrowd": 0}


class NoWay(Dataset[int]):
    """Nothing at all, to see what the libraries take."""

    def __init__(self, path: Path) -> None:
        """Takes a path like the others."""

    def __len__(self) -> int:
        """Enough for every worker to have a batch."""
        return 10_000

    def __getitem__(self, index: int) -> int:
        """The worker's process id."""
        return os.getpid()


class FlatWay(Dataset[int]):
    """Ours: every rule checked, everything in flat tensors."""

    def __init__(self, path: Path) -> None:
        """Reads the annotation file; the images are never touched."""
        self.annotations = CocoDataset(path, path.parent).annotations

    def __len__(self) -> int:
        """Number of images."""
        return len(self.annotations.image_ids)

    def __getitem__(self, index: int) -> int:
        """Reads all coordinates of an image's instances; returns the worker's process id."""
        data = self.annotations
        for place in range(*data.first_annotation[index : index + 2].tolist()):
            _ = data.boxes[place].sum(), data.labels[place]
            for polygon in range(*data.first_polygon[place : place + 2].tolist()):
                data.polygons[polygon].sum()
        return os.getpid()


class DictsWay(Dataset[int]):
    """The usual way: what `json.load` returns, in lists by image."""

    def __init__(self, path: Path) -> None:
        """Reads the annotation file, checking nothing."""
        document = json.loads(path.read_text(encoding="utf-8"))
        self.images = document["images"]
        self.annotations: dict[int, list[Any]] = {image["id"]: [] for image in self.images}
        for annotation in document["annotations"]:
            self.annotations[annotation["image_id"]].append(annotation)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> int:
        """Reads all coordinates of an image's instances; returns the worker's process id."""
        for annotation in self.annotations[self.images[index]["id"]]:
            _ = sum(annotation["bbox"]), annotation["category_id"]
            if not annotation["iscrowd"]:
                for polygon in annotation["segmentation"]:
                    sum(polygon)
        return os.getpid()


WAYS: dict[str, Any] = {"none": NoWay, "flat": FlatWay, "dicts": DictsWay}


def memory_of(pid: int | str) -> dict[str, int]:
    """Memory of a process in MB.

    Args:
        pid: Its id, or "self".

    Returns:
        RSS, PSS and USS.
    """
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]:
        name, kilobytes = line.split()[:2]
        fields[name.rstrip(":")] = int(kilobytes)
    unshared = fields["Private_Clean"] + fields["Private_Dirty"]
    return {"rss": fields["Rss"] // 1024, "pss": fields["Pss"] // 1024, "uss": unshared // 1024}


def measure(way: str, start_method: str, path: Path, workers: int, answer: Connection) -> None:
    """Loads the annotations in one way and lets workers read all of them; to be run in a process of its own.

    Args:
        way: Key of `WAYS`.
        start_method: "fork" or "spawn".
        path: The annotation file.
        workers: Number of worker processes.
        answer: Where the results go: seconds and MB.
    """
    before = memory_of("self")["rss"]
    started, worked = time.perf_counter(), time.process_time()
    dataset = WAYS[way](path)
    results: dict[str, Any] = {"way": way, "start": start_method, "load_s": round(time.perf_counter() - started, 1)}
    results["load_cpu_s"] = round(time.process_time() - worked, 1)
    results["peak_mb"] = (
        int(Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) // 1024
    )
    results["imports_mb"] = before
    started = time.perf_counter()
    loader = DataLoader(
        dataset, batch_size=64, num_workers=workers, multiprocessing_context=start_method, persistent_workers=True
    )
    batches = iter(loader)
    pids = set(next(batches).tolist())
    results["first_batch_s"] = round(time.perf_counter() - started, 1)
    for batch in batches:
        pids.update(batch.tolist())
    results["parent"] = memory_of("self")
    results["workers"] = [memory_of(pid) for pid in sorted(pids)]
    answer.send(results)


def main() -> None:
    """Runs all combinations and prints a table, or one JSON object."""
    parser = argparse.ArgumentParser(description="Load time and memory of COCO annotations, flat and as dicts.")
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--instances", type=int, default=860_001)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        write_annotations(path, options.images, options.instances)
        size = path.stat().st_size >> 20
        print(f"{options.images} images, {options.instances} instances, {size} MB of JSON", file=sys.stderr)
        context = multiprocessing.get_context("spawn")
        for start_method in ("fork", "spawn"):
            for way in WAYS:
                receiver, sender = context.Pipe(duplex=False)
                arguments = (way, start_method, path, options.workers, sender)
                process = context.Process(target=measure, args=arguments)
                process.start()
                sender.close()  # so that waiting ends if the process dies
                rows.append(receiver.recv())
                process.join()
    if options.json:
        print(json.dumps({"json_mb": size, "runs": rows}))
        return
    print("way    start  load s  CPU s  peak MB  first batch s  parent RSS/PSS/USS   worker RSS/PSS/USS (mean), MB")
    for row in rows:
        mean = {kind: sum(one[kind] for one in row["workers"]) // len(row["workers"]) for kind in row["parent"]}
        parent, worker = ("/".join(f"{value:5d}" for value in memory.values()) for memory in (row["parent"], mean))
        loading = f"{row['load_s']:6.1f} {row['load_cpu_s']:6.1f} {row['peak_mb']:8d}"
        print(f"{row['way']:6s} {row['start']:6s} {loading} {row['first_batch_s']:14.1f}    {parent}    {worker}")


if __name__ == "__main__":
    main()
