"""The embedded data set `shapes`: generated scenes on disk in the formats of COCO, ADE20K and ImageNet.

It is read by the same readers as real data:

    root/annotations/instances_{train,val}.json      COCO instances: polygons, and RLE where a polygon cannot say it
    root/images/{train,val}/000000000001.jpg
    root/ade20k/images/{training,validation}/ADE_{train,val}_00000001.jpg          the same scenes as label maps
    root/ade20k/annotations/{training,validation}/ADE_{train,val}_00000001.png     0 = border, 1 = ground, 2.. = classes
    root/ade20k/objectInfo150.txt                                                  class names, as in the official data
    root/imagenet/{train,val}/CLASS/000000000001_1.jpg                             the same objects, cut out one by one
    root/shapes.json                                 the parameters; its presence says that the folder is complete

Every scene has its own random generator, made from (seed, split, number): more scenes never change the first ones.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from swin_dense.data.scenes import OUTLINES, Pixels, SceneObject, draw_scene
from swin_dense.errors import DataError
from swin_dense.files import written

CLASS_NAMES = tuple(OUTLINES)
"""Names of the classes of objects; the category id of a class is its position here plus one."""

SEGMENTATION_CLASS_NAMES = ("ground", *CLASS_NAMES)
"""Names of the classes of pixels; the ADE label of a class is its position here plus one."""

FORMAT = 7
"""Raised whenever the same parameters begin to give other files."""

MARKER = "shapes.json"
JPEG_QUALITY = 95
ADE_SPLITS = {"train": "training", "val": "validation"}


def write_shapes(root: Path, *, train: int, val: int, size: int = 128, seed: int = 0) -> Path:
    """Writes the data set to `root`, or keeps it where it is there already with the same parameters; returns `root`.

    The folder must be absent, empty, or an earlier `shapes` data set, which is then replaced. The files appear at once
    under their final name, so that an interrupted run leaves nothing half done and several processes may ask for the
    same folder. `train` and `val` are numbers of scenes, `size` is the side of the square pictures in pixels.
    """
    root = Path(root)
    if train < 1 or val < 1 or size < 32 or seed < 0:
        raise DataError(
            f"shapes need train >= 1, val >= 1, size >= 32 and seed >= 0, not train={train}, val={val}, size={size}, "
            f"seed={seed}"
        )
    parameters = {"format": FORMAT, "train": train, "val": val, "size": size, "seed": seed}

    def write(fresh: Path) -> None:
        for number, (split, count) in enumerate((("train", train), ("val", val))):
            _write_split(fresh, split, count, size, np.random.SeedSequence([seed, number]))
        _write_class_names(fresh / "ade20k" / "objectInfo150.txt")

    return written_once(root, MARKER, parameters, write)


def written_once(root: Path, marker: str, parameters: Mapping[str, int], write: Callable[[Path], None]) -> Path:
    """Lets a generated data set be written to `root` unless it is there with these parameters; returns `root`.

    `write` fills a fresh folder, which appears as `root` at once. `marker` is the file that says what it was made with.
    """
    if _is_complete(root, marker, parameters):
        return root
    if root.exists() and not (root / marker).is_file() and (not root.is_dir() or any(root.iterdir())):
        name = Path(marker).stem.replace("_", " ")
        raise DataError(f"{root} is there and is no {name} data set; name another folder or remove it")
    with written(root):
        root.parent.mkdir(parents=True, exist_ok=True)
    with written(root), tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as scratch:
        fresh = Path(scratch) / "fresh"
        write(fresh)
        (fresh / marker).write_text(json.dumps(parameters), encoding="utf-8")
        if not _is_complete(root, marker, parameters):  # another process may have been quicker
            try:
                if root.exists():
                    os.replace(root, Path(scratch) / "old")
                os.replace(fresh, root)
            except OSError as error:
                if not _is_complete(root, marker, parameters):
                    raise DataError(f"{root} cannot be written: {error}") from error
    return root


def _is_complete(root: Path, marker: str, parameters: Mapping[str, int]) -> bool:
    """Whether `root` holds the data set with these parameters."""
    try:
        found: Any = json.loads((root / marker).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(found == parameters)


def _write_split(root: Path, split: str, count: int, size: int, seeds: np.random.SeedSequence) -> None:
    folders = {
        "coco": root / "images" / split,
        "images": root / "ade20k" / "images" / ADE_SPLITS[split],
        "labels": root / "ade20k" / "annotations" / ADE_SPLITS[split],
    }
    for folder in folders.values():
        folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, scene_seed in enumerate(seeds.spawn(count), start=1):
        picture, objects = draw_scene(np.random.default_rng(scene_seed), size)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)  # full colour resolution
        ade_name = f"ADE_{split}_{image_id:08d}"
        images.append({"id": image_id, "file_name": f"{image_id:012d}.jpg", "width": size, "height": size})
        (folders["coco"] / images[-1]["file_name"]).write_bytes(buffer.getvalue())
        (folders["images"] / f"{ade_name}.jpg").write_bytes(buffer.getvalue())
        for place, one in enumerate(objects, 1):
            folder = root / "imagenet" / split / one.name
            folder.mkdir(parents=True, exist_ok=True)
            cut_out = Image.fromarray(_cut_out(picture, one))
            cut_out.save(folder / f"{image_id:012d}_{place}.jpg", quality=JPEG_QUALITY, subsampling=0)
        Image.fromarray(_label_map(objects, size)).save(folders["labels"] / f"{ade_name}.png")
        annotations += [_annotation(one, image_id, len(annotations) + place) for place, one in enumerate(objects, 1)]
    document = {
        "info": {"description": "Swin Dense shapes, generated"},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": "shape"} for number, name in enumerate(CLASS_NAMES, start=1)
        ],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document), encoding="utf-8")


def _cut_out(picture: Pixels, thing: SceneObject) -> Pixels:
    """The part of a picture around one object, of a fifth of its size more on each side."""
    rows, columns = (np.flatnonzero(thing.visible.any(axis=axis)) for axis in (1, 0))
    margin = max(2, len(rows) // 5, len(columns) // 5)
    top, left = max(rows[0] - margin, 0), max(columns[0] - margin, 0)
    return picture[top : rows[-1] + 1 + margin, left : columns[-1] + 1 + margin]


def _label_map(objects: list[SceneObject], size: int) -> Pixels:
    """ADE20K labels, (size, size) uint8: 0 on borders, whose pixels show two things, else the class plus one."""
    labels = np.ones((size, size), dtype=np.uint8)
    for one in objects:
        labels[one.visible] = 1 + SEGMENTATION_CLASS_NAMES.index(one.name)
    border = np.zeros(labels.shape, dtype=bool)
    border[1:] |= labels[1:] != labels[:-1]
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    labels[border] = 0
    return labels


def _annotation(thing: SceneObject, image_id: int, annotation_id: int) -> dict[str, Any]:
    """The COCO record of one object: its outline where that says all, else its visible pixels as compressed RLE."""
    rle = coco_mask.encode(np.asfortranarray(thing.visible, dtype=np.uint8))
    segmentation: Any
    if thing.is_whole():
        outline = thing.contours[0]
        (left, top), (right, bottom) = outline.min(axis=0).tolist(), outline.max(axis=0).tolist()
        box = [left, top, round(right - left, 2), round(bottom - top, 2)]
        segmentation = [outline.ravel().tolist()]
    else:
        box = coco_mask.toBbox(rle).tolist()
        segmentation = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1 + CLASS_NAMES.index(thing.name),
        "bbox": box,
        "area": float(np.count_nonzero(thing.visible)),
        "iscrowd": 0,
        "segmentation": segmentation,
    }


def _write_class_names(path: Path) -> None:
    """Writes the class list in the columns of ADE20K's objectInfo150.txt, whose statistics are left at 0."""
    rows = [f"{number}\t0\t0\t0\t{name}" for number, name in enumerate(SEGMENTATION_CLASS_NAMES, start=1)]
    path.write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n", encoding="utf-8")
