"""One small data set as several annotation tools export it: two images, a box and a polygon on each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 60
BOX = (10.0, 5.0, 30.0, 25.0)
"""Of a cup: left, top, right, bottom."""

POLYGON = [(32.0, 8.0), (56.0, 8.0), (44.0, 32.0)]
"""Of a plate."""

NAMES = ("a", "b")


def image(path: Path, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH), orientation: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def json_file(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")
    return path


def yolo(root: Path) -> Path:
    text(
        root / "data.yaml",
        "path: ../datasets/mine\ntrain: images/train\nval: images/val\nnames:\n  0: cup\n  1: plate\n",
    )
    left, top, right, bottom = BOX
    centre = f"{(left + right) / 2 / WIDTH} {(top + bottom) / 2 / HEIGHT}"
    box = f"0 {centre} {(right - left) / WIDTH} {(bottom - top) / HEIGHT}"
    polygon = "1 " + " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in POLYGON)
    for seed, (name, split) in enumerate(zip(NAMES, ("train", "val"), strict=True)):
        image(root / f"images/{split}/{name}.png", seed)
        text(root / f"labels/{split}/{name}.txt", f"{box}\n{polygon}\n")
    return root


def labelme_document(name: str, *shapes: dict[str, Any], **other: Any) -> dict[str, Any]:
    box = {"label": "cup", "shape_type": "rectangle", "points": [list(BOX[:2]), list(BOX[2:])], "group_id": None}
    polygon = {"label": "plate", "shape_type": "polygon", "points": [list(point) for point in POLYGON]}
    document = {"version": "5.5.0", "flags": {}, "shapes": list(shapes) or [box, polygon], "imagePath": f"{name}.png"}
    return {**document, "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH, **other}


def labelme(root: Path) -> Path:
    for seed, name in enumerate(NAMES):
        image(root / f"{name}.png", seed)
        json_file(root / f"{name}.json", labelme_document(name))
    return root


def voc_xml(name: str, objects: str, size: str = f"<width>{WIDTH}</width><height>{HEIGHT}</height>") -> str:
    return f"<annotation><filename>{name}.png</filename><size>{size}</size>{objects}</annotation>"


def voc_object(name: str, box: tuple[float, ...], more: str = "") -> str:
    sides = "".join(
        f"<{side}>{value:g}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name>{more}<bndbox>{sides}</bndbox></object>"


def voc(root: Path) -> Path:
    """With the polygon as Roboflow writes it; pixels are counted from 1."""
    corners = "".join(f"<x{n}>{x + 1:g}</x{n}><y{n}>{y + 1:g}</y{n}>" for n, (x, y) in enumerate(POLYGON, 1))
    left, top, right, bottom = BOX
    objects = voc_object("cup", (left + 1, top + 1, right, bottom))
    objects += voc_object("plate", (33, 9, 56, 32), f"<polygon>{corners}</polygon>")
    for seed, name in enumerate(NAMES):
        image(root / f"JPEGImages/{name}.png", seed)
        text(root / f"Annotations/{name}.xml", voc_xml(name, objects))
    return root


def cvat(root: Path) -> Path:
    left, top, right, bottom = BOX
    points = ";".join(f"{x},{y}" for x, y in POLYGON)
    shapes = f'<box label="cup" xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}" occluded="0"/>'
    shapes += f'<polygon label="plate" points="{points}" occluded="0"/>'
    images = "".join(
        f'<image id="{n}" name="{name}.png" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'
        for n, name in enumerate(NAMES)
    )
    labels = (
        "<meta><task><labels><label><name>cup</name></label><label><name>plate</name></label></labels></task></meta>"
    )
    text(root / "annotations.xml", f"<annotations><version>1.1</version>{labels}{images}</annotations>")
    for seed, name in enumerate(NAMES):
        image(root / f"images/{name}.png", seed)
    return root


def label_studio(root: Path) -> Path:
    def shape(kind: str, name: str, value: dict[str, Any]) -> dict[str, Any]:
        value = {**value, "rotation": 0, kind: [name]}
        return {"type": kind, "value": value, "original_width": WIDTH, "original_height": HEIGHT, "id": name}

    left, top, right, bottom = BOX
    percent = (100 / WIDTH, 100 / HEIGHT)
    box = {"x": left * percent[0], "y": top * percent[1]}
    box |= {"width": (right - left) * percent[0], "height": (bottom - top) * percent[1]}
    polygon = {"points": [[x * percent[0], y * percent[1]] for x, y in POLYGON]}
    result = [shape("rectanglelabels", "cup", box), shape("polygonlabels", "plate", polygon)]
    tasks = [
        {
            "id": n,
            "data": {"image": f"/data/upload/3/1f2e3d4c-{name}.png"},
            "annotations": [{"id": n, "result": result}],
        }
        for n, name in enumerate(NAMES)
    ]
    json_file(root / "project-3.json", tasks)
    for seed, name in enumerate(NAMES):
        image(root / f"images/{name}.png", seed)
    return root


def coco(root: Path) -> Path:
    """Two exports, of which each lists the classes in another way."""
    left, top, right, bottom = BOX
    for seed, name in enumerate(NAMES):
        ids = {"cup": 1, "plate": 2} if name == "a" else {"plate": 7, "cup": 9}
        box = {"id": 1, "category_id": ids["cup"], "bbox": [left, top, right - left, bottom - top], "segmentation": []}
        outline = [value for point in POLYGON for value in point]
        polygon = {"id": 2, "category_id": ids["plate"], "bbox": [32, 8, 24, 24], "segmentation": [outline]}
        objects = [{**one, "image_id": 5, "iscrowd": 0, "area": 300.0} for one in (box, polygon)]
        images = [{"id": 5, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH}]
        categories = [{"id": number, "name": one} for one, number in ids.items()]
        document = {"info": {}, "images": images, "annotations": objects, "categories": categories}
        json_file(root / f"export-{name}/annotations.json", document)
        image(root / f"export-{name}/images/{name}.png", seed)
    return root


EXPORTS = {
    "yolo": yolo,
    "labelme": labelme,
    "voc": voc,
    "cvat": cvat,
    "label-studio": label_studio,
    "coco": coco,
}
