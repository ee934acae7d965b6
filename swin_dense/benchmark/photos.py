"""Generated data of the size and kind of COCO and ADE20K: reading and augmenting them costs about the same."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COCO_SIZE, ADE_SIZE = (480, 640), (512, 683)
"""Height and width."""

CATEGORIES, CLASSES = 80, 150
DISTINCT = 32
"""Different pictures; there are as many files as are asked for, which hold these in turn."""


def write_coco(root: Path, images: int, seed: int = 0) -> Path:
    """Writes COCO's layout: `images` pictures with 10 to 20 polygons each, and two for validation; returns `root`."""
    random = np.random.default_rng(seed)
    for split, count in (("train2017", images), ("val2017", 2)):
        names = [f"{number:012d}.jpg" for number in range(1, count + 1)]
        _write_copies(root / split, names, [photo(random, COCO_SIZE) for _ in range(min(count, DISTINCT))])
        height, width = COCO_SIZE
        annotations: list[dict[str, Any]] = []
        for image_id in range(1, count + 1):
            for _ in range(random.integers(10, 21)):
                one = {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0}
                category = int(random.integers(1, CATEGORIES + 1))
                annotations.append({**one, "category_id": category, **outline(random, height, width)})
        document = {
            "images": [
                {"id": number, "file_name": name, "height": height, "width": width}
                for number, name in enumerate(names, 1)
            ],
            "categories": [{"id": number, "name": f"class {number}"} for number in range(1, CATEGORIES + 1)],
            "annotations": annotations,
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document), encoding="utf-8")
    return root


def write_ade(root: Path, images: int) -> Path:
    """Writes ADE20K's layout: `images` pictures with label maps, and two for validation; returns `root`."""
    random = np.random.default_rng(0)
    for split, count in (("training", images), ("validation", 2)):
        distinct = min(count, DISTINCT)
        names = [f"ADE_{split[:5]}_{number:08d}" for number in range(1, count + 1)]
        pictures = [photo(random, ADE_SIZE) for _ in range(distinct)]
        _write_copies(root / "images" / split, [f"{name}.jpg" for name in names], pictures)
        maps = [_label_map(random, ADE_SIZE) for _ in range(distinct)]
        _write_copies(root / "annotations" / split, [f"{name}.png" for name in names], maps)
    rows = [f"{number}\t0\t0\t0\tclass {number}" for number in range(1, CLASSES + 1)]
    (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n", "utf-8")
    return root


def photo(random: np.random.Generator, size: tuple[int, int]) -> bytes:
    """A JPEG of random texture at all scales, as photographs have it: about as many bytes per pixel as COCO's."""
    height, width = size
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(1, 7):
        coarse = random.integers(0, 256, (2**octave + 1, 2**octave + 1, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(smooth, np.float32) / 2**octave
    total += random.normal(scale=6, size=total.shape).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray(np.clip(total, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def outline(random: np.random.Generator, height: int, width: int) -> dict[str, Any]:
    """The polygon, box and area of an annotation; like COCO's, most are small and have some twenty corners."""
    corners = int(np.clip(random.lognormal(3.0, 0.6), 4, 100))
    radius = float(np.clip(random.lognormal(3.5, 0.8), 6, 200))
    angles = 2 * np.pi * np.arange(corners) / corners
    reach = radius * (1 + 0.2 * random.uniform(-1, 1, corners))
    centre = random.uniform((8, 8), (width - 8, height - 8))
    corner_points = centre + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ring = np.round(np.clip(corner_points, 0, (width, height)), 2)
    (left, top), (right, bottom) = ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
    box = [left, top, round(right - left, 2), round(bottom - top, 2)]
    return {"segmentation": [ring.ravel().tolist()], "bbox": box, "area": box[2] * box[3] * 0.7}


def _label_map(random: np.random.Generator, size: tuple[int, int]) -> bytes:
    """A PNG of labels 0 to 150, ADE20K's numbers, in some fifty regions."""
    regions = random.integers(0, CLASSES + 1, (6, 8), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(regions).resize(size[::-1], Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def _write_copies(folder: Path, names: list[str], contents: list[bytes]) -> None:
    """Writes the contents in turn under all names; copies are links where the file system has them."""
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        if number < len(contents):
            (folder / name).write_bytes(contents[number])
            continue
        source = folder / names[number % len(contents)]
        try:
            os.link(source, folder / name)
        except OSError:
            shutil.copyfile(source, folder / name)
