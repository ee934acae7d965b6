"""Every format gives the same data set, which our own check and data module take."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms.v2 import Identity

from helpers import annotation_exports as sources
from swin_dense.coco.check import check_coco
from swin_dense.data import CocoDataModule
from swin_dense.errors import ConfigError, DataError, on_command_line
from swin_dense.images.alike import ALIKE, group_alike
from swin_dense.importing.importer import import_data
from swin_dense.importing.layouts import FORMATS, hint_to_import, recognise
from swin_dense.label_maps.check import check_ade

HALF = {"train": 0.5, "val": 0.5}


def documents(output: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted((output / "annotations").glob("*.json"))]


def objects(output: Path) -> dict[str, list[tuple[str, list[float]]]]:
    """Class and box of the objects by image."""
    found: dict[str, list[tuple[str, list[float]]]] = {}
    for document in documents(output):
        names = {one["id"]: one["name"] for one in document["categories"]}
        files = {one["id"]: Path(one["file_name"]).name for one in document["images"]}
        found |= {name: [] for name in files.values()}
        for one in document["annotations"]:
            found[files[one["image_id"]]].append((names[one["category_id"]], [round(side, 6) for side in one["bbox"]]))
    return found


@pytest.mark.parametrize("format", sources.EXPORTS)
def test_every_format_gives_the_same_data_set(format: str, tmp_path: Path) -> None:
    source = sources.EXPORTS[format](tmp_path / "source")
    assert recognise(source) == format
    report = import_data(source, tmp_path / "out", split=HALF)
    assert report.format == format and report.classes == ["cup", "plate"] and report.dropped == []
    expected = [("cup", [10, 5, 20, 20]), ("plate", [32, 8, 24, 24])]
    assert objects(tmp_path / "out") == {"a.png": expected, "b.png": expected}
    for split in ("train", "val"):
        check = check_coco(tmp_path / f"out/annotations/instances_{split}.json", None)
        assert check.ok and check.images is not None, check.problems
        assert check.counts["images"] == 1 and check.counts["annotations"] == 2
    outlines = [one["segmentation"] for document in documents(tmp_path / "out") for one in document["annotations"]]
    assert all(len(one) == 1 for one in outlines)
    assert report.changed == {"boxes that got their outline from the box": 2}
    assert (tmp_path / "out/classes.txt").read_text("utf-8") == "cup\nplate\n"
    assert json.loads((tmp_path / "out/import.json").read_text("utf-8")) == report.to_dict()


def test_what_is_imported_trains(tmp_path: Path) -> None:
    import_data(sources.labelme(tmp_path / "source"), tmp_path / "out", split=HALF)
    data = CocoDataModule(tmp_path / "out", train_transform=Identity(), num_workers=0)
    data.setup("fit")
    assert data.train_dataset is not None
    instances = data.train_dataset[0].instances
    assert instances is not None and instances.masks is not None
    assert data.class_names == ("cup", "plate") and instances.boxes.tolist()[0] == list(sources.BOX)
    assert instances.masks.sum(dim=(1, 2)).tolist() == [400, 288]


def test_the_split_is_seeded_and_keeps_groups_together(tmp_path: Path) -> None:
    names = [f"scene{scene}_{shot}" for scene in range(5) for shot in range(4)]
    for seed, name in enumerate(names):
        sources.image(tmp_path / f"in/{name}.png", seed)
        sources.json_file(tmp_path / f"in/{name}.json", sources.labelme_document(name))
    made = [
        import_data(tmp_path / "in", tmp_path / f"out{n}", group_by=r"^(scene\d+)", seed=seed, images="hardlink")
        for n, seed in enumerate((0, 0, 1))
    ]
    files = [
        [sorted(one["file_name"] for one in document["images"]) for document in documents(tmp_path / f"out{n}")]
        for n in range(3)
    ]
    assert [one.images for one in made] == [{"train": 16, "val": 4}] * 3
    assert files[0] == files[1] != files[2]
    scenes = [{name[:6] for name in split} for split in files[0]]
    assert not scenes[0] & scenes[1]
    assert os.path.samefile(tmp_path / "in" / files[0][1][0], tmp_path / "out0/images/val" / files[0][1][0])


def test_images_that_look_alike_stay_together(tmp_path: Path) -> None:
    """The second of each pair is the first, a little darker and saved as JPEG."""
    rng = np.random.default_rng(0)
    for n in range(4):
        pixels = np.kron(rng.integers(0, 256, (5, 6, 3)), np.ones((8, 10, 1))).astype(np.uint8)
        for name, shown in ((f"{n}a.png", pixels), (f"{n}b.jpg", (pixels * 0.9).astype(np.uint8))):
            (tmp_path / "in").mkdir(exist_ok=True)
            Image.fromarray(shown).save(tmp_path / "in" / name)
            document = sources.labelme_document(name[:-4], imagePath=name)
            sources.json_file(tmp_path / f"in/{name[:-4]}.json", document)
    report = import_data(tmp_path / "in", tmp_path / "out", group_by="duplicates", split=HALF)
    train, val = ({one["file_name"][0] for one in document["images"]} for document in documents(tmp_path / "out"))
    assert report.images == {"train": 4, "val": 4} and not train & val


def test_groups_of_look_alikes_are_those_of_all_pairs() -> None:
    """Compared by blocks of bits, or each with each."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2, (60, 64), dtype=np.uint8)
    hashes = np.concatenate([hashes, hashes[:40] ^ (rng.random((40, 64)) < 0.09), hashes[:5]]).astype(np.uint8)
    near = (hashes[:, None] != hashes).sum(axis=-1) <= ALIKE
    reach = np.linalg.matrix_power(near.astype(float), 8) > 0
    groups = np.array(group_alike(hashes))
    assert ((groups[:, None] == groups) == reach).all()
    assert 60 < len({*groups.tolist()}) < 100


def test_a_class_list_gives_the_order_and_the_others_are_counted(tmp_path: Path) -> None:
    classes = sources.text(tmp_path / "list.txt", "fork\nplate\n")
    report = import_data(sources.coco(tmp_path / "in"), tmp_path / "out", classes=classes, split=HALF)
    assert report.classes == ["fork", "plate"] and report.dropped_by_kind == {"class-not-listed": 2}
    assert [one["id"] for one in documents(tmp_path / "out")[0]["categories"]] == [1, 2]
    assert {one["category_id"] for document in documents(tmp_path / "out") for one in document["annotations"]} == {2}


def test_outlines_are_wanted_or_not(tmp_path: Path) -> None:
    source = sources.labelme(tmp_path / "in")
    import_data(source, tmp_path / "boxes", masks=False, split=HALF)
    assert all(
        "segmentation" not in one for document in documents(tmp_path / "boxes") for one in document["annotations"]
    )
    with pytest.raises(DataError, match=r"no image is left(.|\n)*an object on it has a box alone; draw its outline"):
        import_data(source, tmp_path / "masks", masks=True, split=HALF)
    assert not (tmp_path / "masks").exists() and sorted(one.name for one in tmp_path.iterdir()) == ["boxes", "in"]


def test_images_that_cannot_be_used_are_left_out_with_a_reason(tmp_path: Path) -> None:
    source = sources.labelme(tmp_path / "in")
    for name in ("c", "d", "e"):
        sources.json_file(source / f"{name}.json", sources.labelme_document(name))
    (source / "c.png").write_bytes((source / "a.png").read_bytes()[:200])
    sources.image(source / "d.png", size=(50, 50))
    report = import_data(source, tmp_path / "out", split=HALF)
    assert report.dropped_by_kind == {"missing-image": 1, "unreadable-image": 1, "image-size": 1}
    assert sum(report.images.values()) == 2
    assert any("left out, 1 x missing-image" in line and "e.json" in line for line in report.lines())


def test_objects_of_classes_that_no_list_can_hold_are_left_out_with_a_reason(tmp_path: Path) -> None:
    source = sources.labelme(tmp_path / "in")
    document = sources.labelme_document("a")
    document["shapes"] = [
        {"label": label, "points": [[1, 1], [9, 9]], "shape_type": "rectangle"}
        for label in ("\ud800", "cup\nplate", "cup")
    ]
    sources.json_file(source / "a.json", document)
    report = import_data(source, tmp_path / "out", split=HALF)
    assert report.dropped_by_kind == {"bad-class-name": 2}
    assert set(report.classes) == {"cup", "plate"}
    assert (tmp_path / "out" / "classes.txt").read_text("utf-8").splitlines() == report.classes
    root = sources.yolo(tmp_path / "yolo")
    for name in (r"\ud800", r"cup\nplate"):
        sources.text(root / "data.yaml", f'names: ["{name}", plate]\ntrain: images/train')
        with pytest.raises(DataError, match="a class of the source is called .*; call it by a line of text"):
            import_data(root, tmp_path / "of-yolo", split=HALF)


@pytest.mark.parametrize("val", ["images/train", "train.txt", "[train.txt, images/train]"])
def test_each_fault_of_yolo_counts_once_where_val_is_the_same_as_train(val: str, tmp_path: Path) -> None:
    source = sources.yolo(tmp_path / "in")
    for name in ("b", "c", "broken"):
        sources.image(source / f"images/train/{name}.png")
    sources.text(source / "images/train/broken.png", "no picture")
    sources.text(source / "labels/train/b.txt", "0 0.5 0.5 1.5 0.5\n9 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1\n")
    names = ("a", "b", "c", "broken", "gone")
    sources.text(source / "train.txt", "\n".join(f"images/train/{name}.png" for name in names))
    train = "train.txt" if val == "train.txt" else "images/train"
    sources.text(source / "data.yaml", f"names: [cup, plate]\ntrain: {train}\nval: {val}\ntest: {val}")
    report = import_data(source, tmp_path / "out", split=HALF)
    once = {"unknown-class": 1, "bad-line": 1, "unreadable-image": 1}
    assert report.dropped_by_kind == {
        **once,
        **({"missing-image": 1} if "train.txt" in val else {}),
        **({"in-no-split": 1} if (source / "images/val").is_dir() else {}),
    }
    assert report.changed["boxes clipped to the image"] == 1 and sum(report.images.values()) == 3
    assert "images are annotated in several places" not in " ".join(report.notes)
    assert any(note.startswith("2 images have no label file") for note in report.notes)


def test_an_image_that_several_files_annotate_is_imported_once(tmp_path: Path) -> None:
    """Each file lists another class; one of them names the image as Windows does, the other as macOS does."""
    sources.image(tmp_path / "in/shots/t\u00fcr 1.png")
    sources.image(tmp_path / "in/unused.png")
    for name, path, classes in (("a", "C:\\shots\\T\u00fcr 1.PNG", "cup"), ("b", "shots/tu\u0308r 1.png", "fork")):
        size = {"height": sources.HEIGHT, "width": sources.WIDTH}
        rows = [{"id": n, "image_id": 1, "category_id": 1, "bbox": [n, 1, 9 - 20 * (n == 3), 9]} for n in (1, 2, 3)]
        names = [{"id": 1, "name": classes}]
        document = {"images": [{"id": 1, "file_name": path, **size}], "annotations": rows, "categories": names}
        sources.json_file(tmp_path / f"in/{name}.json", document)
    report = import_data(tmp_path / "in", tmp_path / "out", split={"train": 1.0})
    assert report.classes == ["cup", "fork"] and report.instances == {"train": {"cup": 2, "fork": 2}}
    assert report.images == {"train": 1} and any("put together: shots/t\u00fcr 1.png" in one for one in report.notes)
    assert report.dropped_by_kind == {"negative-box": 2, "not-annotated": 1}


@pytest.mark.parametrize("to", ["coco", "label-maps"])
def test_masks_of_images_with_one_name_stay_with_their_split(to: str, tmp_path: Path) -> None:
    """A mask that cannot be used takes its image with it, which would else look empty."""
    for number, split in enumerate(("train", "val"), 1):
        for name in ("1", "2"):
            sources.image(tmp_path / f"in/{split}/images/{name}.png", number)
        mask = np.zeros((sources.HEIGHT, sources.WIDTH), np.uint8)
        mask[: 10 * number] = 1
        (tmp_path / f"in/{split}/masks").mkdir()
        Image.fromarray(mask).save(tmp_path / f"in/{split}/masks/1.png")
    sources.text(tmp_path / "in/val/masks/2.png", "no picture")
    report = import_data(tmp_path / "in", tmp_path / "out", to=to)
    assert report.images == {"train": 1, "val": 1} and report.dropped_by_kind["unreadable-image"] == 1
    if to == "coco":
        boxes = [document["annotations"][0]["bbox"] for document in documents(tmp_path / "out")]
        assert boxes == [[0, 0, sources.WIDTH, 10], [0, 0, sources.WIDTH, 20]]
    else:
        maps = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out/annotations").glob("*/1.png"))]
        assert [(one == 2).sum() // sources.WIDTH for one in maps] == [10, 20]


@pytest.mark.parametrize("orientation", [3, 6])
def test_turned_images_keep_what_was_drawn_on_the_picture_as_shown(orientation: int, tmp_path: Path) -> None:
    """A phone stores its picture on its side; Labelme, CVAT, Label Studio and YOLO's trainers show it upright."""
    stored = (60, 40) if orientation == 6 else (40, 60)
    source = sources.yolo(tmp_path / "in")
    for split, name in (("train", "a"), ("val", "b")):
        sources.image(source / f"images/{split}/{name}.png", size=stored, orientation=orientation)
    import_data(source, tmp_path / "out")
    first = documents(tmp_path / "out")[0]
    assert (first["images"][0]["height"], first["images"][0]["width"]) == (40, 60)
    assert first["annotations"][0]["bbox"] == pytest.approx([10, 5, 20, 20])
    assert check_coco(tmp_path / "out/annotations/instances_train.json", None).problems == ()


def test_a_folder_in_use_and_a_folder_of_nothing_are_refused(tmp_path: Path) -> None:
    source = sources.yolo(tmp_path / "in")
    with pytest.raises(ConfigError, match="is not empty"):
        import_data(source, source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot tell what format"):
        import_data(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ConfigError, match='did you mean "yolo"'):
        import_data(source, tmp_path / "out", format="yolov8")


def test_training_on_a_foreign_folder_says_how_to_import_it(tmp_path: Path) -> None:
    for format, export in sources.EXPORTS.items():
        source = export(tmp_path / format)
        with on_command_line():
            hint = hint_to_import(source)
        wanted = f"looks like {FORMATS[format]}: import it first with `swin-dense import-data {source} OUT`"
        assert hint is not None and wanted in hint
    with on_command_line():
        hint = hint_to_import(source, "label-maps")
    assert hint is not None and f"`swin-dense import-data {source} OUT --to label-maps`, then --data OUT" in hint
    hint = hint_to_import(source, "label-maps")
    assert hint is not None and f'`swin_dense.import_data("{source}", "OUT", to="label-maps")`' in hint
    (tmp_path / "other").mkdir()
    assert hint_to_import(tmp_path / "other") is None


def test_label_maps_of_outlines(tmp_path: Path) -> None:
    """The background is the first class; 0 in a file is no class, as in ADE20K."""
    report = import_data(sources.labelme(tmp_path / "in"), tmp_path / "out", to="label-maps", split=HALF)
    assert report.format == "labelme" and report.classes == ["background", "cup", "plate"]
    (path,) = (tmp_path / "out/annotations/training").iterdir()
    labels = np.asarray(Image.open(path))
    assert labels.shape == (40, 60) and labels[2, 2] == 1 and labels[10, 45] == 3


def test_label_maps_of_masks_of_objects(tmp_path: Path) -> None:
    """An image without a label map of its own, whose objects have a mask each."""
    pixels = np.zeros((sources.HEIGHT, sources.WIDTH), np.uint8)
    pixels[:10] = 255
    for seed, name in enumerate(("a", "b")):
        sources.image(tmp_path / f"in/images/{name}.png", seed)
        sources.image(tmp_path / "in/masks" / f"{name}_cup_1.png")
        Image.fromarray(pixels).save(tmp_path / f"in/masks/{name}_cup_1.png")
    report = import_data(tmp_path / "in", tmp_path / "out", to="label-maps", split=HALF)
    assert report.classes == ["background", "cup"] and not report.dropped
    (path,) = (tmp_path / "out/annotations/training").iterdir()
    labels = np.asarray(Image.open(path))
    assert labels[0, 0] == 2 and labels[20, 0] == 1 and check_ade(tmp_path / "out").ok


@pytest.mark.parametrize(
    ("listed", "values", "classes"),
    [
        ("", (0, 255), ["background", "object"]),
        ("polyp\n", (0, 255), ["background", "polyp"]),
        ("skin\npolyp\n", (0, 255), ["skin", "polyp"]),
        ("", (0, 1, 255), ["0", "1"]),
        ("skin\npolyp\nhair\n", (0, 255), ["skin", "polyp", "hair"]),
    ],
)
def test_label_maps_of_0_and_255(tmp_path: Path, listed: str, values: tuple[int, ...], classes: list[str]) -> None:
    """255 are the objects where nothing else is there, and no class elsewhere."""
    labels = np.zeros((sources.HEIGHT, sources.WIDTH), np.uint8)
    for row, value in enumerate(values):
        labels[row] = value
    for seed, name in enumerate(("a", "b")):
        sources.image(tmp_path / f"in/images/{name}.png", seed)
        sources.image(tmp_path / f"in/masks/{name}.png")
        Image.fromarray(labels if name == "a" else np.minimum(labels, 0)).save(tmp_path / f"in/masks/{name}.png")
    if listed:
        sources.text(tmp_path / "in/classes.txt", listed)
    report = import_data(tmp_path / "in", tmp_path / "out", to="label-maps", split=HALF)
    assert report.classes == classes
    stored = [np.asarray(Image.open(path)) for path in (tmp_path / "out/annotations").rglob("*.png")]
    (kept,) = [one for one in stored if one.min() != one.max()]
    binary = values == (0, 255) and len(classes) == 2
    assert kept[len(values) - 1, 0] == (2 if binary else 0) and kept[0, 0] == 1
    assert binary == any("0 and 255 alone" in note for note in report.notes)


def test_label_maps_in_colours(tmp_path: Path) -> None:
    """As CVAT writes them; a colour that its list does not name leaves the image out."""
    sources.text(tmp_path / "in/labelmap.txt", "# label:color_rgb:parts:actions\nground:0,0,0::\ncup:0,0,128::\n")
    pixels = np.zeros((sources.HEIGHT, sources.WIDTH, 3), np.uint8)
    pixels[:10, :, 2] = 128
    for seed, name in enumerate(("a", "b", "c")):
        sources.image(tmp_path / f"in/JPEGImages/{name}.png", seed)
        sources.image(tmp_path / "in/SegmentationClass" / f"{name}.png")
        shown = np.where(pixels == 128, 127, pixels) if name == "c" else pixels
        Image.fromarray(shown.astype(np.uint8)).save(tmp_path / f"in/SegmentationClass/{name}.png")
    report = import_data(tmp_path / "in", tmp_path / "out", to="label-maps", split=HALF)
    assert report.classes == ["ground", "cup"] and report.images == {"train": 1, "val": 1}
    assert [one["kind"] for one in report.dropped] == ["unknown-color"]
    assert "for instance 0,0,127" in report.dropped[0]["message"]
    (path,) = (tmp_path / "out/annotations/validation").iterdir()
    labels = np.asarray(Image.open(path))
    assert labels[0, 0] == 2 and labels[20, 0] == 1 and check_ade(tmp_path / "out").ok


def test_label_maps_of_voc(tmp_path: Path) -> None:
    """Classes are shifted by one and 255, which is no class, becomes 0; images without a map are named."""
    labels = np.zeros((sources.HEIGHT, sources.WIDTH), np.uint8)
    labels[:10], labels[10:12] = 15, 255
    for seed, name in enumerate(("a", "b", "c")):
        sources.image(tmp_path / f"in/JPEGImages/{name}.png", seed)
        if name != "c":
            sources.image(tmp_path / "in/SegmentationClass" / f"{name}.png")
            Image.fromarray(labels).save(tmp_path / f"in/SegmentationClass/{name}.png")
    report = import_data(tmp_path / "in", tmp_path / "out", to="label-maps", split=HALF)
    assert report.classes[15] == "person" and len(report.classes) == 21
    assert report.dropped_by_kind == {"no-label-map": 1} and report.instances["val"]["person"] == 1
    (path,) = (tmp_path / "out/annotations/validation").iterdir()
    assert np.unique(np.asarray(Image.open(path))).tolist() == [0, 1, 16]
    check = check_ade(tmp_path / "out")
    assert check.ok, check.problems
