import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from swin_dense.coco.check import check_coco
from swin_dense.data import shapes
from swin_dense.data.coco import CocoDataset
from swin_dense.data.scenes import MIN_AREA, MIN_VISIBLE, draw_scene
from swin_dense.data.shapes import CLASS_NAMES, SEGMENTATION_CLASS_NAMES, write_shapes
from swin_dense.errors import DataError, OutputError


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "shapes", train=60, val=12)


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_gives_the_same_bytes_and_another_seed_other_scenes(root, tmp_path):
    assert digests(write_shapes(tmp_path / "again", train=60, val=12)) == digests(root)
    other = digests(write_shapes(tmp_path / "other", train=60, val=12, seed=1))
    pictures = [name for name in other if name.endswith(".jpg")]
    assert not any(other[name] == digest for name, digest in digests(root).items() if name in pictures)


def test_more_scenes_leave_the_first_ones_as_they_were(root, tmp_path):
    few = digests(write_shapes(tmp_path / "few", train=7, val=3))
    assert all(digests(root)[name] == digest for name, digest in few.items() if name.endswith((".jpg", ".png")))


def test_splits_share_no_scene(root):
    train, val = (
        {digest for name, digest in digests(root).items() if f"/{split}/" in name} for split in ("train", "val")
    )
    assert train and val and not train & val


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_reader_and_the_checks_find_nothing_wrong(root, split):
    report = check_coco(root / f"annotations/instances_{split}.json", root / f"images/{split}")
    assert report.problems == ()
    assert set(report.instances_per_class) == set(CLASS_NAMES)


def test_every_class_size_and_kind_of_mask_occurs(tmp_path):
    root = write_shapes(tmp_path / "shapes", train=150, val=1)
    report = check_coco(root / "annotations/instances_train.json", root / "images/train")
    assert min(report.instances_per_class.values()) > 50
    assert report.counts["small"] > 100 and report.counts["medium"] > 100 and report.counts["empty_images"] > 0
    document = json.loads((root / "annotations/instances_train.json").read_text())
    areas = [one["area"] for one in document["annotations"]]
    assert max(areas) > 50 * min(areas)
    polygons = sum(isinstance(one["segmentation"], list) for one in document["annotations"])
    assert 0.2 < polygons / len(document["annotations"]) < 0.6


def test_ade_labels_are_the_coco_masks_on_the_ground_with_borders_between_them(root):
    dataset = CocoDataset(root / "annotations/instances_train.json", root / "images/train")
    for index in range(len(dataset)):
        sample = dataset[index]
        expected = torch.ones(sample.size, dtype=torch.uint8)
        assert sample.instances.masks.sum(dim=0).max() <= 1, "visible masks may not overlap"
        for mask, label in zip(sample.instances.masks, sample.instances.labels, strict=True):
            expected[mask] = 2 + label.to(torch.uint8)
        name = f"ADE_train_{sample.image_id:08d}"
        labels = np.array(Image.open(root / f"ade20k/annotations/training/{name}.png"))
        border = labels == 0
        np.testing.assert_array_equal(labels[~border], expected.numpy()[~border])
        down, right = (expected.diff(dim=dim).ne(0).numpy() for dim in (0, 1))
        assert not border[0, 0] and (border[1:, 1:] == (down[:, 1:] | right[1:])).all()
        assert (root / f"ade20k/images/training/{name}.jpg").read_bytes() == (
            root / "images/train" / sample.file_name
        ).read_bytes()


def test_class_list_has_the_official_columns(root, shared_data):
    ours, official = (
        [line.split("\t") for line in (folder / "objectInfo150.txt").read_text().splitlines()]
        for folder in (root / "ade20k", shared_data / "ade20k_tiny")
    )
    assert ours[0] == official[0]
    assert [(row[0], row[4]) for row in ours[1:]] == [
        (str(place), name) for place, name in enumerate(SEGMENTATION_CLASS_NAMES, 1)
    ]


def test_picture_shows_an_edge_where_the_mask_ends(root):
    """Colours inside and outside of a mask differ: masks lie where the objects are."""
    dataset = CocoDataset(root / "annotations/instances_train.json", root / "images/train")
    contrasts = []
    for index in range(len(dataset)):
        sample = dataset[index]
        ground = ~sample.instances.masks.any(dim=0)
        for mask in sample.instances.masks:
            contrasts.append((sample.image[:, mask].float().mean(1) - sample.image[:, ground].float().mean(1)).norm())
    assert torch.stack(contrasts).quantile(0.05) > 40


def test_objects_stay_mostly_visible():
    for seed in range(40):
        _, objects = draw_scene(np.random.default_rng(seed), 96)
        for one in objects:
            assert np.count_nonzero(one.visible) >= max(MIN_VISIBLE * one.area, MIN_AREA * 96**2)


def test_a_ring_has_a_hole():
    rings = (one for seed in range(99) for one in draw_scene(np.random.default_rng(seed), 128)[1] if one.name == "ring")
    ring = next(one for one in rings if one.area == one.visible.sum() and all((0 < c).all() for c in one.contours))
    x, y = ring.contours[0].mean(axis=0).astype(int)
    assert not ring.visible[y, x] and not ring.is_whole()
    assert coco_mask.area(coco_mask.encode(np.asfortranarray(ring.visible, dtype=np.uint8))) == ring.area


def test_a_complete_folder_is_kept_and_other_parameters_replace_it(tmp_path, monkeypatch):
    root = write_shapes(tmp_path / "shapes", train=2, val=1)
    with monkeypatch.context() as patch:
        patch.setattr(shapes, "draw_scene", None)
        write_shapes(root, train=2, val=1)
    write_shapes(root, train=3, val=1)
    assert len(list((root / "images/train").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"], "nothing temporary is left"


def test_another_process_that_was_quicker_is_not_disturbed(tmp_path, monkeypatch):
    draw = shapes.draw_scene

    def draw_late(*arguments: object) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(shapes, "draw_scene", draw)
            quicker.append(write_shapes(tmp_path / "shapes", train=1, val=1).stat().st_ino)
        return draw(*arguments)

    quicker: list[int] = []
    monkeypatch.setattr(shapes, "draw_scene", draw_late)
    assert write_shapes(tmp_path / "shapes", train=1, val=1).stat().st_ino == quicker[0]
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "_write_class_names", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path / "shapes", train=2, val=1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_never_touched(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="photos is there and is no shapes data set"):
        write_shapes(tmp_path / "photos", train=2, val=1)
    assert (tmp_path / "photos" / "mine.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(OutputError, match=r"notes/data/shapes cannot be written: "):
        write_shapes(tmp_path / "notes" / "data" / "shapes", train=1, val=1, size=64)


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": 0}, {"size": 8}, {"seed": -1}])
def test_numbers_out_of_range_are_named(tmp_path, wrong):
    with pytest.raises(DataError, match="=".join(map(str, *wrong.items()))):
        write_shapes(tmp_path / "shapes", **({"train": 1, "val": 1} | wrong))
