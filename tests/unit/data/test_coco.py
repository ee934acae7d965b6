import json
import pickle
import pickletools
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch.utils.data import DataLoader

from swin_dense.coco.parsing import read_json
from swin_dense.data.coco import CocoDataset
from swin_dense.errors import DataError

SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 25.0, 10.0, 25.0]


def annotation(number: int, image_id: int, **other: Any) -> dict[str, Any]:
    default = {
        "id": number,
        "image_id": image_id,
        "category_id": 7,
        "bbox": [10, 10, 20, 15],
        "area": 300,
        "iscrowd": 0,
    }
    return default | {"segmentation": [SQUARE]} | other


def write(folder: Path, annotations: list[dict[str, Any]], sizes: dict[int, tuple[int, int]]) -> Path:
    """An annotation file with categories 90, 7 and 13, beside images of (height, width) by image id."""
    images = []
    for image_id, (height, width) in sizes.items():
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width})
        Image.new("RGB", (width, height), (image_id, 0, 0)).save(folder / f"{image_id}.png")
    categories = [{"id": number, "name": name} for number, name in ((90, "toothbrush"), (7, "train"), (13, "stop"))]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.fixture(scope="module")
def val2017(shared_data: Path) -> tuple[Path, Path]:
    root = shared_data / "coco2017_tiny"
    return root / "annotations/instances_val2017.json", root / "val2017"


@pytest.mark.parametrize(
    "name",
    [
        "coco2017_tiny/annotations/instances_train2017.json",
        "coco2017_tiny/annotations/instances_val2017.json",
        "coco_eval_golden/instances_val2014_100.json",
    ],
)
def test_every_real_mask_equals_pycocotools(shared_data, name):
    path = shared_data / name
    reference = COCO(path)
    dataset = CocoDataset(path, shared_data)
    seen = 0
    for index, image_id in enumerate(dataset.image_ids.tolist()):
        instances = dataset.instances(index)
        expected = reference.loadAnns(reference.getAnnIds(image_id))
        for place, record in enumerate(expected):
            x, y, width, height = record["bbox"]
            assert np.array_equal(instances.masks[place].numpy().view(np.uint8), reference.annToMask(record))
            assert instances.boxes[place].tolist() == pytest.approx([x, y, x + width, y + height])
            assert dataset.category_ids[instances.labels[place]] == record["category_id"]
            assert bool(instances.crowd[place]) == record["iscrowd"]
        assert len(instances) == len(expected)
        seen += len(instances)
    assert seen == len(reference.anns) > 300
    assert dataset.class_names == tuple(reference.cats[number]["name"] for number in sorted(reference.cats))


def test_a_known_image_is_read_as_published(val2017):
    dataset = CocoDataset(*val2017)
    sample = dataset[dataset.image_ids.tolist().index(397133)]
    assert (sample.image_id, sample.file_name) == (397133, "000000397133.jpg")
    assert sample.size == sample.original_size == (427, 640)
    data = dataset.annotations
    place = data.ids.tolist().index(82445)
    assert data.boxes[place].tolist() == [217.62, 240.54, 38.99, 57.75]
    row = place - int(data.first_annotation[data.images[place]])
    expected = [217.62, 240.54, 217.62 + 38.99, 240.54 + 57.75]
    assert sample.instances.boxes[row].tolist() == pytest.approx(expected)
    pixels = np.asarray(Image.open(val2017[1] / "000000397133.jpg"))
    np.testing.assert_array_equal(sample.image.permute(1, 2, 0).numpy(), pixels)


def test_official_zip_files_give_the_same_samples(val2017, tmp_path):
    annotations, images = val2017
    with zipfile.ZipFile(tmp_path / "val2017.zip", "w") as file:
        for path in images.iterdir():
            file.write(path, f"val2017/{path.name}")
    with zipfile.ZipFile(tmp_path / "annotations_trainval2017.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write(annotations, f"annotations/{annotations.name}")
    member = tmp_path / "annotations_trainval2017.zip" / "annotations" / annotations.name
    assert read_json(member) == json.loads(annotations.read_text())
    packed, plain = CocoDataset(member, tmp_path / "val2017.zip"), CocoDataset(annotations, images)
    for index in (0, 17, 49):
        one, other = packed[index], plain[index]
        assert torch.equal(one.image, other.image) and torch.equal(one.instances.masks, other.instances.masks)


def test_labels_are_contiguous_in_the_order_of_category_ids(tmp_path):
    path = write(tmp_path, [annotation(1, 5, category_id=90), annotation(2, 5, category_id=13)], {5: (40, 60)})
    dataset = CocoDataset(path, tmp_path)
    assert (dataset.category_ids, dataset.class_names) == ((7, 13, 90), ("train", "stop", "toothbrush"))
    assert dataset[0].instances.labels.tolist() == [2, 1]


def test_all_three_kinds_of_mask_decode_to_the_same_pixels(tmp_path):
    compressed = coco_mask.frPyObjects([SQUARE], 40, 60)[0]
    mask = coco_mask.decode(compressed)
    flat = mask.flatten(order="F")
    runs = np.diff(np.flatnonzero(np.diff(flat, prepend=1 - flat[0], append=1 - flat[-1]))).tolist()
    text = {"size": [40, 60], "counts": compressed["counts"].decode()}
    kinds = [[SQUARE], text, {"size": [40, 60], "counts": runs}]
    path = write(tmp_path, [annotation(n, 5, segmentation=kind) for n, kind in enumerate(kinds)], {5: (40, 60)})
    masks = CocoDataset(path, tmp_path)[0].instances.masks
    assert masks.dtype == torch.bool and masks.sum(dim=(1, 2)).tolist() == [300, 300, 300]
    assert all(np.array_equal(one, mask) for one in masks.numpy())


def test_images_without_instances_are_kept_or_dropped_as_told(tmp_path):
    crowd = annotation(2, 6, iscrowd=1, segmentation={"size": [40, 60], "counts": [0, 2400]}, bbox=[0, 0, 60, 40])
    path = write(
        tmp_path, [annotation(1, 5), crowd, annotation(3, 9)], {4: (40, 60), 5: (40, 60), 6: (40, 60), 9: (31, 60)}
    )
    everything = CocoDataset(path, tmp_path)
    assert everything.image_ids.tolist() == [4, 5, 6, 9] and everything.left_out == {"crowd regions": 1}
    empty = everything[0].instances
    assert empty.boxes.shape == (0, 4) and empty.masks.shape == (0, 40, 60) and len(empty.labels) == 0
    dataset = CocoDataset(path, tmp_path, keep_empty=False, min_side=32)
    assert dataset.image_ids.tolist() == [5] and dataset.image_sizes.tolist() == [[40, 60]] and len(dataset) == 1
    assert dataset.left_out == {
        "images with a side below 32 pixels": 1,
        "images without anything to learn from": 2,
        "crowd regions": 1,
    }
    assert dataset[0].image[0].float().mean() == 5, "rows of what is left must lead to the right image"


def test_slivers_as_in_official_coco_are_left_out_and_counted(tmp_path, caplog):
    line = annotation(2, 5, bbox=[10.5, 20, 8, 0], segmentation=[[10.5, 20, 18.5, 20, 18.5, 20, 10.5, 20]], area=0)
    path = write(tmp_path, [line, annotation(3, 5), line | {"id": 4, "image_id": 6}], {5: (40, 60), 6: (40, 60)})
    dataset = CocoDataset(path, tmp_path)
    assert dataset.left_out == {"boxes without area": 2}
    assert [len(dataset[index].instances) for index in range(2)] == [1, 0]
    assert "2 x sliver" in caplog.text
    assert CocoDataset(path, tmp_path, keep_empty=False).image_ids.tolist() == [5]


def test_nothing_left_to_train_on_is_an_error(tmp_path):
    path = write(tmp_path, [], {5: (40, 60)})
    with pytest.raises(DataError, match="none of its 1 images is left"):
        CocoDataset(path, tmp_path, keep_empty=False)


def test_broken_annotations_stop_with_all_of_them_listed(tmp_path):
    wrong = [annotation(n, 5, bbox=[10, 10, -n, 15]) for n in range(1, 31)]
    path = write(tmp_path, [*wrong, annotation(99, 77)], {5: (40, 60)})
    with pytest.raises(DataError, match=r"instances\.json: 31 errors") as error:
        CocoDataset(path, tmp_path)
    assert len(error.value.problems) == 31
    assert "image 77, annotation 99" in str(error.value) and "and 11 more" in str(error.value)


def test_a_bad_image_is_named_with_its_id(tmp_path):
    path = write(tmp_path, [annotation(1, 5), annotation(2, 6)], {5: (40, 60), 6: (40, 60)})
    Image.new("RGB", (60, 41)).save(tmp_path / "5.png")
    (tmp_path / "6.png").unlink()
    dataset = CocoDataset(path, tmp_path)
    with pytest.raises(
        DataError, match=r"image 5: .*5\.png: 60 wide and 41 high, but annotated as 60 wide and 40 high"
    ):
        dataset[0]
    with pytest.raises(DataError, match=r"image 6: .*6\.png: no such file"):
        dataset[1]


@pytest.mark.parametrize(
    "text, message",
    [
        ("<annotation><folder>VOC2007</folder></annotation>", r"looks like XML \(Pascal VOC"),
        ('{"images": [', "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "a results file"),
        ("[]", "this is a list"),
        ("3", "this is a single value"),
        (
            '{"images": [], "annotations": {}, "info": {}}',
            r"categories and annotations missing or not a list \(found: images",
        ),
    ],
)
def test_what_is_no_coco_file_is_said_to_be_so(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        CocoDataset(tmp_path / "a.json", tmp_path)


def test_missing_files_are_named(tmp_path, val2017):
    with pytest.raises(DataError, match=r"absent\.json: cannot be read"):
        CocoDataset(tmp_path / "absent.json", tmp_path)
    with pytest.raises(DataError, match=r"absent: no such folder or zip file"):
        CocoDataset(val2017[0], tmp_path / "absent")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("other.json", "{}")
    with pytest.raises(DataError, match=r"a\.zip/absent\.json: no such member"):
        CocoDataset(tmp_path / "a.zip" / "absent.json", tmp_path)


boxes = st.tuples(st.integers(0, 50), st.integers(0, 30), st.integers(1, 10), st.integers(1, 10))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), boxes, st.sampled_from([7, 13, 90])), max_size=12))
def test_each_image_gets_its_own_annotations_whatever_their_order(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("any")
    annotations = []
    for number, (image_id, (x, y, width, height), category_id) in enumerate(drawn):
        outline = [x, y, x + width, y, x + width, y + height, x, y + height]
        fields = {"category_id": category_id, "bbox": [x, y, width, height], "segmentation": [outline]}
        annotations.append(annotation(number, image_id, **fields))
    dataset = CocoDataset(write(folder, annotations, dict.fromkeys([3, 1, 0, 4, 2], (40, 60))), folder)
    for index, image_id in enumerate([3, 1, 0, 4, 2]):
        instances = dataset[index].instances
        expected = [(box, category) for owner, box, category in drawn if owner == image_id]
        assert instances.boxes.tolist() == [[x, y, x + w, y + h] for (x, y, w, h), _ in expected]
        assert [dataset.category_ids[label] for label in instances.labels] == [category for _, category in expected]
        for mask, ((x, y, width, height), _) in zip(instances.masks, expected, strict=True):
            assert mask.sum() == width * height == mask[y : y + height, x : x + width].sum()
    shutil.rmtree(folder)


def summarise(samples: list[Any]) -> list[tuple[int, float, int]]:
    return [(one.image_id, float(one.instances.boxes.sum()), int(one.instances.masks.sum())) for one in samples]


def test_workers_and_pickled_copies_see_the_same_samples(val2017):
    dataset = CocoDataset(*val2017)
    expected = summarise([dataset[index] for index in range(6)])
    copy = pickle.loads(pickle.dumps(dataset))
    assert summarise([copy[index] for index in range(6)]) == expected
    subset = torch.utils.data.Subset(dataset, range(6))
    loader = DataLoader(subset, 2, num_workers=2, collate_fn=summarise, multiprocessing_context="fork")
    assert [row for batch in loader for row in batch] == expected


def test_no_python_object_per_annotation_is_kept(tmp_path):
    """A pickle walks everything that is held: it must hold no more objects for many annotations than for one."""

    def objects_held(count: int) -> int:
        path = write(tmp_path, [annotation(number, 5) for number in range(count)], {5: (40, 60)})
        return sum(1 for _ in pickletools.genops(pickle.dumps(CocoDataset(path, tmp_path))))

    assert objects_held(400) <= objects_held(1) + 5
