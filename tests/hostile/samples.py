"""Sound small files of every kind that is read, made here."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from helpers import annotation_exports

HEIGHT, WIDTH = 48, 64
Files = dict[str, bytes]

IMAGES = ("one.png", "two.jpg")
CLASSES = ("ground", "box", "disc")


def _pixels(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """An image as a file."""
    target = io.BytesIO()
    image.save(target, format_name, **options)
    return target.getvalue()


def _picture(format_name: str, seed: int = 0, **options: Any) -> bytes:
    return encoded(Image.fromarray(_pixels(seed)), format_name, **options)


def _turned_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _picture("JPEG", exif=exif)


def packed(files: Mapping[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Files as a zip file."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", packing) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return target.getvalue()


def instances() -> dict[str, Any]:
    """COCO instances of two images: polygons, both kinds of RLE, a crowd, a box alone."""
    half = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH // 2, HEIGHT * WIDTH // 2]}
    square = [10, 10, 30, 10, 30, 30, 10, 30]

    def annotation(number: int, **other: Any) -> dict[str, Any]:
        box = {"bbox": [10, 10, 20.0, 20.0], "area": 400.0, "iscrowd": 0, "segmentation": [square]}
        return {"id": number, "image_id": 1, "category_id": 2} | box | other

    return {
        "info": {"description": "made by a test"},
        "images": [
            {"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate(IMAGES, start=1)
        ],
        "categories": [{"id": 2, "name": "box", "supercategory": "thing"}, {"id": 5, "name": "disc"}],
        "annotations": [
            annotation(1),
            annotation(2, image_id=2, category_id=5, segmentation=[square, [1, 1, 5, 1, 5, 5]], bbox=[1, 1, 29, 29]),
            annotation(3, image_id=2, bbox=[0, 0, WIDTH // 2, HEIGHT], segmentation=half, iscrowd=1),
        ],
    }


def _counts() -> str:
    from pycocotools import mask

    one = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    one[10:30, 10:30] = 1
    counts: bytes = mask.encode(one)["counts"]
    return counts.decode()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def coco() -> Files:
    return {
        "train.json": _json(instances()),
        "images/one.png": _picture("PNG"),
        "images/two.jpg": _picture("JPEG", 1),
    }


def coco_zip() -> Files:
    files = coco()
    return {
        "annotations.zip": packed({"annotations/train.json": files.pop("train.json")}),
        "images.zip": packed(files, zipfile.ZIP_STORED),
    }


def results() -> Files:
    mask = {"size": [HEIGHT, WIDTH], "counts": _counts()}
    row = {"category_id": 2, "bbox": [10, 10, 20, 20], "score": 0.9, "segmentation": mask}
    rows = [row | {"image_id": 1}, row | {"image_id": 2, "category_id": 5, "score": 0.5, "file_name": "two.jpg"}]
    return {"gt.json": _json(instances()), "predictions.json": _json(rows)}


def _label_map(high: int) -> Any:
    return np.random.default_rng(high).integers(0, high, (HEIGHT, WIDTH), dtype=np.uint8)


def _label_png(high: int = 3, mode: str = "L") -> bytes:
    image = Image.fromarray(_label_map(high))
    if mode == "P":
        image.putpalette([number % 256 for number in range(768)])
    elif mode == "I;16":
        image = Image.fromarray(_label_map(high).astype(np.uint16))
    return encoded(image, "PNG")


def labels() -> Files:
    names = {"a.png": "L", "b.png": "P", "c/d.png": "I;16"}
    return {f"{folder}/{name}": _label_png(3, mode) for folder in ("gt", "predictions") for name, mode in names.items()}


def _table() -> bytes:
    rows = (f"{number}\t0.1\t10\t2\t{name}, thing" for number, name in enumerate(CLASSES, start=1))
    return "\n".join(("Idx\tRatio\tTrain\tVal\tName", *rows)).encode()


def _palette() -> bytes:
    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<2I", kind, len(data)) + data + bytes(-len(data) % 8)

    parts = element(6, bytes(8)) + element(5, struct.pack("<2i", 3, 3)) + element(1, b"colors")
    return bytes(128) + element(14, parts + element(2, bytes(range(9))))


def ade() -> Files:
    files = {"ade/objectInfo150.txt": _table(), "ade/color150.mat": _palette()}
    for split, stem in (("training", "a"), ("validation", "b")):
        files[f"ade/annotations/{split}/{stem}.png"] = _label_png(4)
        files[f"ade/images/{split}/{stem}.jpg"] = _picture("JPEG")
    return files


def images() -> Files:
    return {
        "a.jpg": _picture("JPEG"),
        "b.png": _picture("PNG"),
        "c.tif": _picture("TIFF"),
        "d.gif": _picture("GIF"),
        "e.bmp": _picture("BMP"),
        "f.webp": _picture("WEBP", lossless=True),
        "g.jpg": _turned_jpeg(),
    }


def image_list() -> Files:
    return {"list.txt": b"a.png\nsub/b.png\r\n\n", "a.png": _picture("PNG"), "sub/b.png": _picture("PNG", 1)}


def image_zip() -> Files:
    return {"images.zip": packed({"train/a.png": _picture("PNG"), "train/sub/b.jpg": _picture("JPEG")})}


def weights() -> Files:
    import torch

    from swin_dense.weights import save_weights

    state = backbone().state_dict()

    def saved(content: Any, **options: Any) -> bytes:
        target = io.BytesIO()
        torch.save(content, target, **options)
        return target.getvalue()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        save_weights(state, path, metadata={"class_names": json.dumps(CLASSES), "category_ids": "[1, 2, 3]"})
        ours = path.read_bytes()
    return {
        "a.pth": saved({"state_dict": state, "meta": {"epoch": 3, "CLASSES": CLASSES}}),
        "b.pth": saved({"model": {f"module.{name}": value for name, value in state.items()}}),
        "c.safetensors": ours,
        "d.pth": saved(state, _use_new_zipfile_serialization=False),
    }


def backbone() -> Any:
    """The smallest backbone, always with the same weights."""
    import torch

    from swin_dense.backbones import SwinTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SwinTransformer(embed_dim=4, depths=(1, 1), num_heads=(1, 2), out_indices=(0, 1), window_size=3)


def classes() -> Files:
    table = _table()
    return {
        "classes.txt": "\n".join((*CLASSES, "Straße, road")).encode(),
        "objectInfo150.txt": table,
        "objectInfo150.csv": table.replace(b", thing", b";thing").replace(b"\t", b","),
    }


IMAGE_PATHS = ("images/one.png", "images/two.jpg", "images/sub/one.png")


def boxes() -> Files:
    named = {"two.jpg": [[0, 0, 10, 10.5], [5, 5, 60, 40]], "sub/one.png": []}
    return {"boxes.json": _json(named), "coco.json": _json(_instances_of_one())}


def _instances_of_one() -> dict[str, Any]:
    whole = instances()
    whole["images"][0]["file_name"] = "sub/one.png"
    return whole


def store() -> Files:
    return _exported(parts=False)


def store_parts() -> Files:
    return _exported(parts=True)


def _exported(parts: bool) -> Files:
    from swin_dense.export import export_features

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in (0, 1):
            (folder / f"{number}.png").write_bytes(_picture("PNG", number))
        export_features(backbone(), folder, folder / "store", pool=True, device="cpu")
        if parts:
            (folder / "store" / "manifest.parquet").unlink()
        files = [path for path in (folder / "store").rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def settings() -> Files:
    from dataclasses import asdict

    from swin_dense.config import load_config

    tree = json.loads(json.dumps(asdict(load_config("mask-rcnn_swin-nano_shapes"))))
    keys = [f"{section}.{key}" for section, value in tree.items() if isinstance(value, dict) for key in value]
    return {"settings.json": _json({"tree": tree, "keys": [*tree, *keys], "set": ["data.batch_size=4"]})}


def config_file() -> Files:
    from swin_dense.config import config_text, load_config

    return {"run/config.py": config_text(load_config("upernet_swin-nano_shapes")).encode()}


def options() -> Files:
    scored = ["evaluate", "--gt", "gt", "--predictions", "predictions", "--label-shift", "0", "--ignore-index", "255"]
    sized = ["stats", "swin_nano", "--shape", "64x96"]
    exported = ["export-features", "swin_nano", "gt/a.png", "--output", "features", "--random-weights"]
    exported += ["--device", "cpu", "--short-side", "32", "--batch-size", "1", "--shard-size", "1"]
    commands = {"scored.json": scored, "sized.json": sized, "exported.json": exported}
    return {**labels(), **{name: _json(words) for name, words in commands.items()}}


def run() -> Files:
    import torch

    state = {f"model.network.{name}": value for name, value in backbone().state_dict().items()}
    progress = {"epoch_progress": {"current": {"processed": 2, "completed": 2}}}
    ours = {"swin_dense": {"class_names": list(CLASSES)}}
    target = io.BytesIO()
    torch.save({"state_dict": state, "loops": {"fit_loop": progress}, "global_step": 8, "epoch": 1} | ours, target)
    rows = ("step,epoch,train/loss,val/bbox_AP", "0,0,1.5,", "4,0,0.75,0.25", "8,1,0.5,0.5", "")
    facts = {"versions": {"python": "3.11"}, "seed": 0, "command": ["swin-dense", "train"]}
    return {
        **config_file(),
        "run/last.ckpt": target.getvalue(),
        "run/best.ckpt": target.getvalue(),
        "run/metrics.csv": "\n".join(rows).encode(),
        "run/weights.safetensors": weights()["c.safetensors"],
        "run/run.json": _json(facts),
    }


def videos() -> Files:
    """Three containers, in folders of two classes, with a list of each form."""
    from helpers.video_files import write_frames

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, codec in (("a/a.mp4", "libx264"), ("b/b.mkv", "libx264"), ("b/c.avi", "mpeg4")):
            path = Path(folder) / Path(name).name
            found[name] = write_frames(path, codec, count=12, size=(32, 48)).read_bytes()
    rows = [{"id": stem, "template": word} for stem, word in (("a", "[a]"), ("b", "b"), ("c", "b"))]
    return {
        **found,
        "list.txt": b"a/a.mp4 a\nb/b.mkv b\nb/c.avi 1\n",
        "kinetics.csv": b"label,youtube_id,time_start,time_end,split\na,a,0,1,train\nb,b,0,1,train\n",
        "train.json": _json(rows),
        "classes.txt": b"a\nb\n",
    }


def _label_maps(root: Path, folder: str = "SegmentationClass") -> Path:
    """In colours, with their list; numbers of objects are colours, too."""
    annotation_exports.text(root / "labelmap.txt", "ground:0,0,0::\nbox:0,0,128::\ndisc:224,224,192::\n")
    colours = np.array([[0, 0, 0], [0, 0, 128], [224, 224, 192]], dtype=np.uint8)
    for seed, name in enumerate(annotation_exports.NAMES):
        annotation_exports.image(root / f"JPEGImages/{name}.png", seed)
        labels = np.random.default_rng(seed).integers(0, 3, (annotation_exports.HEIGHT, annotation_exports.WIDTH))
        (root / folder).mkdir(exist_ok=True)
        Image.fromarray(colours[labels]).save(root / folder / f"{name}.png")
    return root


EXPORTS = {**annotation_exports.EXPORTS, "masks": partial(_label_maps, folder="masks"), "label-maps": _label_maps}


@cache
def export(form: str) -> Files:
    """A small data set as an annotation tool exports it."""
    with tempfile.TemporaryDirectory() as folder:
        root = EXPORTS[form](Path(folder) / "in")
        names = sorted(path for path in root.rglob("*") if path.is_file())
        return {f"in/{path.relative_to(root).as_posix()}": path.read_bytes() for path in names}
