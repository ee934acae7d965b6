"""What each format has of its own, and what is wrong in files of it: left out with a reason, or refused."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision
from PIL import Image
from pycocotools import mask as coco_mask

from helpers import annotation_exports as exports
from swin_dense.errors import DataError
from swin_dense.importing.coco import read_coco
from swin_dense.importing.cvat import read_cvat
from swin_dense.importing.label_studio import brush_mask, read_label_studio
from swin_dense.importing.labelme import read_labelme
from swin_dense.importing.masks import read_masks
from swin_dense.importing.records import Imported, UnusableError
from swin_dense.importing.voc import read_voc
from swin_dense.importing.yolo import read_yolo
from swin_dense.label_maps.files import label_image

BRUSH = bytes.fromhex(
    "00002580391bff07f700c9fffa7c0327ffe9f00c9fffa7c0327ffe9f00c9fffa7c0327ffe9f00c9fffa7c0327ffe9f00c9fffa7c0327ffe9f00c9fffa7c0327fff12e70000"
)
"""A rectangle from (30, 8) to (50, 20)."""


def kinds(imported: Imported) -> list[str]:
    return sorted(one.kind for one in imported.dropped)


def boxes(imported: Imported, image: int = 0) -> list[tuple[float, ...]]:
    return [tuple(round(side, 4) for side in one.box) for one in imported.images[image].objects]


def pixels(one: Any, size: tuple[int, int] = (exports.HEIGHT, exports.WIDTH)) -> np.ndarray[Any, Any]:
    rle = one.outline if isinstance(one.outline, dict) else coco_mask.merge(coco_mask.frPyObjects(one.outline, *size))
    return np.asarray(coco_mask.decode(rle)) != 0


def test_yolo_and_voc_have_the_boxes_that_supervision_reads(tmp_path: Path) -> None:
    root = exports.yolo(tmp_path / "yolo")
    theirs = supervision.DetectionDataset.from_yolo(
        str(root / "images/train"), str(root / "labels/train"), str(root / "data.yaml")
    )
    ours = read_yolo(root)
    assert theirs.classes == ours.classes == ["cup", "plate"]
    found = next(iter(theirs.annotations.values())).xyxy
    np.testing.assert_allclose(found, [[x, y, x + w, y + h] for x, y, w, h in boxes(ours)], atol=1e-4)
    root = exports.voc(tmp_path / "voc")
    theirs = supervision.DetectionDataset.from_pascal_voc(str(root / "JPEGImages"), str(root / "Annotations"))
    found = next(iter(theirs.annotations.values())).xyxy
    np.testing.assert_allclose(found, [[x, y, x + w, y + h] for x, y, w, h in boxes(read_voc(root))])


def test_yolo_of_darknet_without_a_yaml_file(tmp_path: Path) -> None:
    exports.image(tmp_path / "obj_train_data/a.png")
    exports.image(tmp_path / "obj_train_data/b.png")
    exports.text(tmp_path / "obj_train_data/a.txt", "1 0.5 0.5 0.5 0.5\n")
    exports.text(tmp_path / "obj.names", "cup\nplate\n")
    exports.text(tmp_path / "train.txt", "data/obj_train_data/a.png\n/home/me/obj_train_data/b.png\n../../etc/c.png\n")
    imported = read_yolo(tmp_path)
    assert [image.split for image in imported.images] == ["train", "train"]
    assert [len(image.objects) for image in imported.images] == [1, 0]
    assert boxes(imported) == [(15, 10, 30, 20)] and kinds(imported) == ["missing-image"]
    assert imported.notes == ["1 images have no label file: kept, as images without objects"]


def test_lines_of_yolo_that_cannot_be_used(tmp_path: Path) -> None:
    root = exports.yolo(tmp_path)
    lines = {
        "9 0.5 0.5 0.1 0.1": "unknown-class",
        "-1 0.5 0.5 0.1 0.1": "unknown-class",
        "0.5 0.5 0.5 0.1 0.1": "bad-number",
        "cup 0.5 0.5 0.1 0.1": "bad-number",
        "0 nan 0.5 0.1 0.1": "bad-number",
        "0 1e999 0.5 0.1 0.1": "bad-number",
        "0 0.5 0.5 0.1": "bad-line",
        "0 30 20 10 10": "not-fractions",
        "0 0.5 0.5 -0.1 0.1": "negative-box",
        "0 0.5 0.5 0 0.1": "no-area",
        "0 1.5 0.5 0.1 0.1": "outside",
        "1 0.1 0.1 0.2 0.2 0.3 0.3": "no-area",
        "0 0.1 0.1 0.5 0.5 7 0.5": "far-outside",
    }
    exports.text(
        root / "labels/train/a.txt", "\n".join([*lines, "0 1.0 0.5 0.2 0.2 0.97", "1 0.5 0.5 1.5 0.5 1.5 1 0.5 1"])
    )
    exports.text(root / "labels/train/lost.txt", "0 0.5 0.5 0.1 0.1")
    imported = read_yolo(root)
    assert kinds(imported) == sorted([*lines.values(), "missing-image"])
    assert all(f"line {place}: " in one.message for place, one in enumerate(imported.dropped[:13], 1))
    assert boxes(imported) == [(54, 16, 6, 8), (30, 20, 30, 20)]
    assert imported.changed == {"boxes clipped to the image": 1, "polygons clipped to the image": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names: {0: cup, 2: plate}\ntrain: images/train", "number the classes 0, 1, 2"),
        ("names: [cup, cup]\ntrain: images/train", "'cup' is empty or given twice"),
        ("names: [cup]\ntrain: /etc/pictures", "names '/etc/pictures', which is not in"),
        ("names: [cup]\ntrain: ../../..", "which is not in"),
        (f"names: [cup]\ntrain: {'a' * 5000}", "which is not in"),
        ("names: &a [&b [x, x], *b]\ntrain: images/train", "no list of class names"),
        ("names: [cup\ntrain: images/train", "cannot be read as YAML"),
    ],
)
def test_a_yaml_file_of_yolo_that_is_wrong_is_refused(content: str, message: str, tmp_path: Path) -> None:
    root = exports.yolo(tmp_path)
    exports.text(root / "data.yaml", content)
    with pytest.raises(DataError, match=message):
        read_yolo(root / "data.yaml")


def test_class_names_that_yaml_takes_for_something_else_stay_as_written(tmp_path: Path) -> None:
    root = exports.yolo(tmp_path)
    exports.text(
        root / "data.yaml", "names: [no, 1.50]\ntrain: ../images/train\nval: images/val"
    )  # as Roboflow writes paths
    assert read_yolo(root).classes == ["no", "1.50"]


def test_the_shapes_of_labelme(tmp_path: Path) -> None:
    """A circle, a mask, two parts of one object, and an image inside the file."""
    exports.image(tmp_path / "elsewhere.png")
    mask = np.zeros((8, 10), np.uint8)
    mask[2:5, 3:9] = 255
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    packed = base64.b64encode(file.getvalue()).decode()
    part = {"label": "cup", "shape_type": "polygon", "group_id": 4}
    shapes = [
        {"label": "dot", "shape_type": "circle", "points": [[30, 20], [40, 20]]},
        {"label": "spot", "shape_type": "mask", "points": [[20, 10], [29, 17]], "mask": packed},
        {**part, "points": [[1, 1], [5, 1], [5, 5], [1, 5]]},
        {**part, "points": [[11, 1], [15, 1], [15, 5], [11, 5]]},
        {"label": "way", "shape_type": "linestrip", "points": [[1, 1], [5, 1]]},
        {"label": "huge", "points": [[1, 1], [1e300, 1], [5, 5]]},
        {"label": "", "points": []},
        {"label": "odd", "points": [[1, 1, 1], "x"]},
        {"label": "broken", "shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "!!"},
        "nothing",
    ]
    image = base64.b64encode(exports.image(tmp_path / "x.png").read_bytes()).decode()
    (tmp_path / "x.png").unlink()
    document = exports.labelme_document("a", *shapes, imagePath="C:\\pictures\\a.png", imageData=image)
    exports.json_file(tmp_path / "a.json", document)
    exports.text(tmp_path / "b.json", "{" + "[" * 100_000)
    exports.json_file(tmp_path / "c.json", exports.labelme_document("c", imagePath="c" * 5000))
    imported = read_labelme(tmp_path)
    dot, spot, cup = imported.images[0].objects
    assert dot.area == pytest.approx(np.pi * 100, rel=0.02) and dot.box == pytest.approx((20, 10, 20, 20), abs=0.1)
    assert spot.box == (23, 12, 6, 3) and spot.area == 18
    assert cup.box == (1, 1, 14, 4) and pixels(cup).sum() == 32
    assert imported.images[0].embedded is not None and imported.images[0].embedded()[:4] == b"\x89PNG"
    expected = ["no-area", "far-outside", "bad-shape", "bad-shape", "bad-mask", "bad-shape"]
    assert kinds(imported) == sorted([*expected, "broken-json", "missing-image", "not-annotated"])


def test_masks_and_flags_of_voc(tmp_path: Path) -> None:
    root = tmp_path
    exports.image(root / "JPEGImages/a.png")
    masks = np.zeros((exports.HEIGHT, exports.WIDTH), np.uint8)
    masks[5:25, 10:30], masks[4, 10:30], masks[30:35, 40:50] = 1, 255, 2
    (root / "SegmentationObject").mkdir()
    label_image(masks).save(root / "SegmentationObject/a.png")
    flags = "<difficult>1</difficult><truncated>0</truncated>"
    parts = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    objects = exports.voc_object("person", (11, 6, 30, 25), flags + parts) + exports.voc_object("dog", (41, 2, 50, 9))
    exports.text(root / "Annotations/a.xml", exports.voc_xml("a", objects, "<width>0</width><height>0</height>"))
    exports.text(root / "ImageSets/Main/train.txt", "a\n")
    imported = read_voc(root)
    (image,) = imported.images
    person, dog = image.objects
    assert image.split == "train" and image.size == (exports.HEIGHT, exports.WIDTH)
    assert person.box == (10, 5, 20, 20) and person.extra == {"difficult": 1} and pixels(person).sum() == 400
    assert dog.outline == [] and dog.box == (40, 1, 10, 8) and kinds(imported) == ["no-object"]
    assert len(imported.classes) == 20 and "1 objects are difficult: kept, with the key 'difficult'" in imported.notes


def test_voc_of_tools_that_count_pixels_from_zero(tmp_path: Path) -> None:
    exports.image(tmp_path / "a.png")
    exports.text(tmp_path / "a.xml", exports.voc_xml("a", exports.voc_object("cup", (0, 6, 30, 25))))
    imported = read_voc(tmp_path)
    assert boxes(imported) == [(0, 6, 30, 19)] and imported.notes == [
        "pixels are counted from 0, as the coordinates show"
    ]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>'


@pytest.mark.parametrize("content", [BOMB, OUTSIDE, "<annotation>", "", "<other/>", "\x00", "<annotation/>"])
@pytest.mark.parametrize("read", [read_voc, read_cvat])
def test_xml_that_cannot_be_used_is_left_out(read: Any, content: str, tmp_path: Path) -> None:
    exports.text(tmp_path / "a.xml", content)
    imported = read(tmp_path)
    assert imported.images == [] and len(imported.dropped) == 1


def test_the_shapes_of_cvat(tmp_path: Path) -> None:
    exports.image(tmp_path / "images/a.png")
    shapes = (
        '<mask label="cup" rle="1,2,4,1" left="10" top="5" width="4" height="2"/>'
        '<box label="cup" xtl="20" ytl="10" xbr="30" ybr="20" rotation="45" occluded="1"/>'
        '<ellipse label="dot" cx="30" cy="20" rx="10" ry="5"/>'
        '<polygon label="pair" points="1,1;5,1;5,5;1,5" group_id="2"/>'
        '<polygon label="pair" points="11,1;15,1;15,5;11,5" group_id="2"/>'
        '<polyline label="way" points="1,1;5,1"/>'
        '<mask label="cup" rle="1,2" left="10" top="5" width="4" height="2"/>'
        '<mask label="cup" rle="1,1e9" left="10" top="5" width="99" height="2"/>'
        '<box label="cup" xtl="a" ytl="10" xbr="30" ybr="20"/>'
    )
    image = f'<image name="a.png" width="60" height="40" subset="Validation">{shapes}</image>'
    lost = '<image name="../../etc/passwd" width="60" height="40"/>'
    labels = "<meta><job><labels><label><name>dot</name></label></labels></job></meta>"
    exports.text(tmp_path / "annotations.xml", f"<annotations>{labels}{image}{lost}</annotations>")
    exports.text(tmp_path / "video.xml", "<annotations><track/></annotations>")
    imported = read_cvat(tmp_path)
    mask, turned, dot, pair = imported.images[0].objects
    assert np.argwhere(pixels(mask)).tolist() == [[5, 11], [5, 12], [6, 13]]
    assert turned.box == pytest.approx((25 - 50**0.5, 15 - 50**0.5, 200**0.5, 200**0.5)) and turned.extra == {
        "occluded": 1
    }
    assert dot.area == pytest.approx(np.pi * 50, rel=0.02) and pair.box == (1, 1, 14, 4)
    assert imported.images[0].split == "val" and imported.classes == ["dot"]
    assert kinds(imported) == ["bad-mask", "bad-number", "missing-image", "no-area", "outside", "video"]


def test_the_shapes_of_label_studio(tmp_path: Path) -> None:
    exports.image(tmp_path / "images/a.png")
    base = {"original_width": exports.WIDTH, "original_height": exports.HEIGHT}

    def shape(kind: str, **value: Any) -> dict[str, Any]:
        return {**base, "type": kind, "value": {kind: ["cup"], **value}}

    result = [
        shape("rectanglelabels", x=50, y=25, width=20, height=25, rotation=90),
        shape("ellipselabels", x=50, y=50, radiusX=10, radiusY=10),
        shape("brushlabels", format="rle", rle=list(BRUSH)),
        shape("brushlabels", format="rle", rle=list(BRUSH[:20])),
        shape("keypointlabels", x=50, y=50),
        shape("rectanglelabels", x=50, y=25, width=20, height=25, rectanglelabels=["cup", "plate"]),
        {"type": "choices", "value": {"choices": ["sharp"]}},
    ]
    annotations = [{"was_cancelled": True, "result": []}, {"result": result}, {"result": []}]
    tasks = [
        {"data": {"image": "/data/local-files/?d=mine%2Fa.png"}, "annotations": annotations},
        {"data": {"image": "a.png"}, "annotations": []},
        {"data": {"image": "s3://bucket/other.png"}, "annotations": annotations[1:2]},
        7,
    ]
    exports.json_file(tmp_path / "tasks.json", tasks)
    imported = read_label_studio(tmp_path)
    turned, dot, brush = imported.images[0].objects
    assert turned.box == pytest.approx((20, 10, 10, 12)) and dot.box == pytest.approx((24, 16, 12, 8), abs=0.05)
    assert brush.box == (30, 8, 20, 12) and brush.area == 240
    of_shapes = ["bad-mask", "no-area", "no-class", "no-shape", "second-annotation"]
    assert kinds(imported) == sorted([*of_shapes, "not-annotated", "missing-image", "bad-task"])


def test_the_short_json_of_label_studio(tmp_path: Path) -> None:
    exports.image(tmp_path / "a.png")
    box = {
        "x": 10,
        "y": 10,
        "width": 50,
        "height": 50,
        "rectanglelabels": ["cup"],
        "original_width": 60,
        "original_height": 40,
    }
    exports.json_file(tmp_path / "min.json", [{"id": 1, "image": "/data/upload/0a1b2c3d-a.png", "label": [box]}])
    assert boxes(read_label_studio(tmp_path)) == [(6, 4, 30, 20)]


def test_brush_masks_are_those_of_label_studios_own_library() -> None:
    """`BRUSH` is `label_studio_sdk.converter.brush.mask2rle` of a rectangle."""
    expected = np.zeros((exports.HEIGHT, exports.WIDTH), np.uint8)
    expected[8:20, 30:50] = 255
    assert (brush_mask(list(BRUSH), expected.shape) == expected).all()
    with pytest.raises(UnusableError, match="its image 10 pixels"):
        brush_mask(list(BRUSH), (2, 5))


def test_masks_with_numbers_and_masks_of_single_objects(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b", "c")):
        exports.image(tmp_path / f"images/{name}.png", seed)
    numbers = np.zeros((exports.HEIGHT, exports.WIDTH), np.uint16)
    numbers[1:3, 1:3], numbers[5:9, 5:9] = 7, 700
    (tmp_path / "masks/b").mkdir(parents=True)
    label_image(numbers).save(tmp_path / "masks/a.png")
    for name in ("b/cup_1", "b/plate_2", "c_cup_1", "lost"):
        Image.fromarray((numbers == 700).astype(np.uint8) * 255).save(tmp_path / f"masks/{name}.png")
    imported = read_masks(tmp_path)
    assert [[one.class_name for one in image.objects] for image in imported.images] == [
        ["object", "object"],
        ["cup", "plate"],
        ["cup"],
    ]
    assert boxes(imported) == [(1, 1, 2, 2), (5, 5, 4, 4)] and boxes(imported, 2) == [(5, 5, 4, 4)]
    assert kinds(imported) == ["missing-image"]


def test_coco_files_merge_by_class_names_and_keep_crowds(tmp_path: Path) -> None:
    root = exports.coco(tmp_path)
    path = root / "export-b/annotations.json"
    document = json.loads(path.read_text("utf-8"))
    document["categories"] += [{"id": 0, "name": "things", "supercategory": "none"}, {"id": 3, "name": "Cup"}]
    for one in document["categories"][:2]:
        one["supercategory"] = "things"
    region = {"size": [exports.HEIGHT, exports.WIDTH], "counts": [0, 40, exports.HEIGHT * exports.WIDTH - 40]}
    other = {"image_id": 5, "category_id": 9, "bbox": [0, 0, 1, 40], "area": 40, "iscrowd": 0}
    document["annotations"] += [
        {**other, "id": 3, "iscrowd": 1, "segmentation": region},
        {**other, "id": 4, "category_id": 99},
        {**other, "id": 5, "bbox": [0, 0, float("nan"), 4]},
        {**other, "id": 6, "segmentation": {"size": [3, 3], "counts": [9]}},
    ]
    path.write_text(json.dumps(document), "utf-8")
    exports.text(root / "export-c/broken.json", '{"images": [], "annotations": [')
    imported = read_coco(root)
    assert imported.classes == ["cup", "plate", "Cup"]
    crowd = imported.images[1].objects[-1]
    assert crowd.crowd and crowd.area == 40 and isinstance(crowd.outline, dict)
    assert kinds(imported) == sorted(["bad-number", "broken-json", "rle-size", "unknown-category"])
    assert "'cup' and 'Cup' are two classes; rename one in its file if they are the same" in imported.notes
