"""Boxes: reading them, and RoIAlign from one map or from the right level of a pyramid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from swin_dense.errors import DataError
from swin_dense.export.boxes import check_inside, pool_map, pool_pyramid, read_boxes

IMAGES = ["data/train/1.jpg", "data/val/1.jpg", "data/val/2.jpg"]


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def coco(images: object = ({"id": 1, "file_name": "2.jpg"},), annotations: object = ()) -> dict[str, object]:
    return {"images": images, "annotations": annotations}


def test_names_are_paths_or_their_ends(tmp_path: Path) -> None:
    file = written(
        tmp_path / "b.json", {"2.jpg": [[0, 1, 2, 3.5]], "train/1.jpg": [], "data/val/1.jpg": [[1, 1, 2, 2]] * 2}
    )
    boxes = read_boxes(file, IMAGES)
    assert {number: one.tolist() for number, one in boxes.items()} == {
        2: [[0, 1, 2, 3.5]],
        0: [],
        1: [[1, 1, 2, 2], [1, 1, 2, 2]],
    }
    assert boxes[0].shape == (0, 4)


def test_coco_boxes_are_turned_into_corners(tmp_path: Path) -> None:
    coco = {
        "images": [{"id": 7, "file_name": "2.jpg"}, {"id": 9, "file_name": "train/1.jpg"}],
        "annotations": [{"image_id": 7, "bbox": [10, 20, 5, 6]}],
        "categories": [],
    }
    boxes = read_boxes(written(tmp_path / "b.json", coco), IMAGES)
    assert boxes[2].tolist() == [[10, 20, 15, 26]] and boxes[0].shape == (0, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ([], "must be an object"),
        ({"2.jpg": {}}, "must have a list of boxes"),
        ({"2.jpg": [[1, 2, 3]]}, "2.jpg, box 0: must be four finite numbers"),
        ('{"2.jpg": [[1, 2, 3, NaN]]}', "four finite numbers"),
        ({"2.jpg": [[1, 2, 3, True]]}, "four finite numbers"),
        ({"2.jpg": [[0, 0, 1, 1], [5, 5, 5, 9]]}, "box 1: .* has no area"),
        ({"1.jpg": []}, "1.jpg: fits data/train/1.jpg and data/val/1.jpg"),
        ({"l/1.jpg": []}, "no such image is exported"),
        ({"2.jpg": [], "val/2.jpg": []}, "two names mean the same image"),
        ({"images": [{"id": 1}], "annotations": []}, "malformed COCO"),
        ({"images": [], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}, "malformed COCO"),
        ("[" * 100_000, "cannot be read as JSON"),
        ({"2.jpg": [[0, 0, 10**400, 1]]}, "four finite numbers"),
        ({"2.jpg": [[0, 0, 1e300, 1]]}, "four finite numbers"),
        ('{"2.jpg": [[-Infinity, 0, 1, 1]]}', "four finite numbers"),
        ({"2.jpg": [["1", 2, 3, 4]]}, "four finite numbers"),
        ({"2.jpg": None}, "must have a list of boxes"),
        ('{"\\ud800.jpg": []}', r"\\ud800.jpg: no such image is exported"),
        ('{"\\ud800.jpg": [["\\ud800"]]}', r"\\ud800.jpg, box 0: must be four"),
        (coco([{"id": 1, "file_name": 5}]), r"images\[0\] must have an id and a file_name"),
        (coco([{"id": [1], "file_name": "2.jpg"}]), r"images\[0\] must have an id and a file_name"),
        (coco([{"id": 1, "file_name": "2.jpg"}] * 2), r"images\[1\] must have an id and a file_name of its own"),
        ({"images": None, "annotations": {}}, r"images\[0\] must have"),
        (coco([None]), r"images\[0\] must have"),
        (coco(annotations=[{"image_id": True, "bbox": [0, 0, 1, 1]}]), r"annotations\[0\] has no image_id"),
        (coco(annotations=[{"image_id": 1, "bbox": [0, 0, True, 1]}]), r"annotations\[0\]: must be four finite"),
        (coco(annotations=[{"image_id": 1, "bbox": [0, 0, 1e308, 1e308]}]), "must be four finite"),
        (coco(annotations=[{"image_id": 1, "bbox": {"x": 1}}]), "must be four finite"),
        (coco(annotations=[{"image_id": 1}]), "must be four finite"),
        (coco(annotations=[{"image_id": 1, "bbox": [5, 5, 0, 1]}]), r"annotations\[0\]: \[5, 5, 0, 1\] has no area"),
    ],
)
def test_malformed_boxes_are_named(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_boxes(written(tmp_path / "b.json", content), IMAGES)
    assert "b.json" in str(error.value)


def test_a_box_may_stand_out_of_its_image_by_a_rounded_pixel_and_no_more() -> None:
    check_inside(torch.tensor([[-0.9, 0.0, 50.4, 40.9]]), (40, 50), "x.jpg")
    with pytest.raises(DataError, match="x.jpg: boxes outside the image, which is 50 wide and 40 high"):
        check_inside(torch.tensor([[0.0, 0.0, 40.0, 50.0]]), (40, 50), "x.jpg")


def test_a_cell_of_a_box_sees_its_own_place() -> None:
    """On a map that holds the coordinates of its cells, pooling gives the centres of a box's cells."""
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    box = torch.tensor([[16.0, 24.0, 128.0, 80.0]])  # x 2..16 and y 3..10 in cells of 8 pixels
    pooled = pool_map(torch.stack([rows, columns]) + 0.5, box, stride=8)
    assert torch.allclose(pooled[0, 0, :, 0], 3 + torch.arange(7) + 0.5, atol=1e-5)
    assert torch.allclose(pooled[0, 1, 0], 2 + 2 * (torch.arange(7) + 0.5), atol=1e-5)


def test_levels_are_those_of_torchvisions_fpn_pooler() -> None:
    torch.manual_seed(0)
    strides = (4, 8, 16, 32, 64)
    levels = [torch.randn(3, 1024 // stride, 1024 // stride) for stride in strides]
    sides = torch.tensor([8.0, 50, 111, 112, 200, 224, 447, 448, 700, 1000])
    boxes = torch.stack([torch.zeros(10), torch.full((10,), 5.0), sides, 5 + sides], dim=1)
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=-1)
    expected = pooler({str(i): level[None] for i, level in enumerate(levels[:4])}, [boxes], [(1024, 1024)])
    pooled = pool_pyramid(list(zip(levels, strides, strict=True)), boxes)
    # torchvision's pooler keeps the old half-pixel shift; away from it, level and place are the same.
    shifted = boxes + torch.tensor([4.0, 8, 16, 32])[_levels(boxes)][:, None] / 2
    moved = torch.stack(
        [
            pool_map(levels[int(k)], box[None], strides[int(k)])[0]
            for k, box in zip(_levels(boxes), shifted, strict=True)
        ]
    )
    assert torch.allclose(moved, expected, atol=1e-4)
    assert torch.equal(
        pooled,
        torch.stack(
            [
                pool_map(levels[int(k)], box[None], strides[int(k)])[0]
                for k, box in zip(_levels(boxes), boxes, strict=True)
            ]
        ),
    )


def _levels(boxes: torch.Tensor) -> torch.Tensor:
    """Equation 1 of the FPN paper, k0 = 4 at 224 pixels; level 2 is the first."""
    return (4 + torch.log2((boxes[:, 2] - boxes[:, 0]) / 224 + 1e-9)).floor().clamp(2, 5).long() - 2


def test_an_image_without_boxes_has_no_features_of_boxes() -> None:
    empty = torch.empty(0, 4)
    assert pool_map(torch.randn(3, 9, 9), empty, 4).shape == (0, 3, 7, 7)
    assert pool_pyramid([(torch.randn(3, 9, 9), 64)], empty).shape == (0, 3, 7, 7)
