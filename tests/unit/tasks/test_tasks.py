"""What a config becomes."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torchvision import tv_tensors

from swin_dense import tasks
from swin_dense.config import load_config
from swin_dense.config.detection import AugmentationConfig, DetectionInferenceConfig
from swin_dense.data.shapes import write_shapes
from swin_dense.errors import ConfigError, DataError
from swin_dense.openmmlab.detection import encode_masks
from swin_dense.records import Detections, Sample
from swin_dense.tasks import detection
from swin_dense.tasks.detection import DetectionResult
from swin_dense.training import trainer as trainers

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
DEMOS = CONFIGS / "demo"


def official_augmentation() -> AugmentationConfig:
    return load_config(CONFIGS / "detection" / "mask-rcnn_swin-t_fpn_1x_coco.py").augmentation


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, train=4, val=2)
    return root


def photo(height: int, width: int) -> Sample:
    """Each column is brighter than the one before it, by one grey level in two pixels."""
    row = (torch.arange(width) // 2 % 256).to(torch.uint8)
    return Sample(tv_tensors.Image(row.expand(3, height, width).contiguous()), 1, "photo.jpg", (height, width))


def aspect(sample: Sample) -> float:
    return sample.size[1] / sample.size[0]


def test_objects_are_taken_by_position_slice_and_mask() -> None:
    masks = encode_masks(torch.arange(32).view(4, 8) < torch.arange(3).view(3, 1, 1))
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 0, 1])
    some = Detections(torch.arange(12.0).view(3, 4), scores, labels, masks)
    found = DetectionResult(torch.zeros(3, 4, 8, dtype=torch.uint8), some, ("cat", "dog"), (17, 18))
    assert [one.names for one in found] == [["dog"], ["cat"], ["dog"]] and len(found) == 3
    assert torch.equal(found[-1].boxes, found.boxes[-1:]) and found.masks is not None
    assert torch.equal(torch.cat([one.masks for one in found if one.masks is not None]), found.masks)
    assert found[labels == 1].scores.tolist() == found[[0, 2]].scores.tolist() == scores[::2].tolist()
    assert found[::-1].scores.tolist() == scores.flip(0).tolist() and not found[:0]
    boxes = replace(found, detections=replace(some, masks=None))
    assert boxes[1].masks is None and boxes[1].to_coco()[0]["category_id"] == 17
    with pytest.raises(IndexError):
        found[3]


def test_the_official_policy_resizes_or_crops_with_equal_chance_and_flips_half_the_images() -> None:
    torch.manual_seed(0)
    transform = detection.train_transform(official_augmentation())
    samples = [transform(photo(256, 400)) for _ in range(200)]
    sides = [min(sample.size) for sample in samples]
    # A crop changes the shape of the image, a resize alone does not.
    whole = [sample for sample in samples if abs(aspect(sample) - 400 / 256) < 0.01]
    assert 70 < len(whole) < 150
    assert {min(one.size) for one in whole} <= set(range(480, 801, 32)) and max(sides) <= 800
    assert all(max(sample.size) <= 1333 for sample in samples)
    flipped = sum(bool(sample.image[0, 0, 0] > sample.image[0, 0, -1]) for sample in samples)
    assert 70 < flipped < 130


def test_without_crops_the_shape_of_every_image_stays() -> None:
    torch.manual_seed(0)
    augmentation = AugmentationConfig((64, 96), 400, test_short_side=96, test_max_long_side=400, flip_probability=1.0)
    samples = [detection.train_transform(augmentation)(photo(32, 60)) for _ in range(20)]
    assert {sample.size for sample in samples} == {(64, 120), (96, 180)}
    assert all(sample.image[0, 0, 0] > sample.image[0, 0, -1] for sample in samples)


def test_images_are_tested_at_the_official_size_and_at_parts_of_it() -> None:
    inference = detection.inference(DetectionInferenceConfig(), official_augmentation(), batch_size=1)
    assert [inference.evaluation_size(size, 1.0) for size in ((480, 640), (480, 1000))] == [(800, 1067), (640, 1333)]
    assert [inference.evaluation_size(size, 0.5) for size in ((480, 640), (480, 1000))] == [(400, 533), (320, 666)]


def test_a_test_size_that_no_image_can_meet_is_refused() -> None:
    augmentation = AugmentationConfig((800,), 1333, test_short_side=800, test_max_long_side=640)
    with pytest.raises(ConfigError, match=r"test_short_side 800 .* augmentation.test_max_long_side 640"):
        detection.inference(DetectionInferenceConfig(), augmentation, batch_size=1)


HTC = CONFIGS / "detection" / "htc-pp_swin-b_fpn_6x_coco.py"
SHAPES_SPLITS = [
    f"data.{split}={{'annotations': 'annotations/instances_{split}.json', 'images': 'images/{split}'}}"
    for split in ("train", "val")
]
NO_SEMANTIC_BRANCH = ["model.roi_head.semantic_head=None", "model.roi_head.semantic_roi_extractor=None"]


def test_stuff_maps_are_read_only_for_a_model_with_a_semantic_branch() -> None:
    with_branch = detection.TASK.data_module(load_config(HTC, ["data.root='coco'"]))
    assert with_branch.train_stuff == Path("coco/stuffthingmaps/train2017")
    assert detection.TASK.data_module(load_config(HTC, NO_SEMANTIC_BRANCH)).train_stuff is None


DETECTION, SEGMENTATION = (DEMOS / f"{name}_shapes.py" for name in ("mask-rcnn_swin-nano", "upernet_swin-nano"))


def data_error(config: Path, root: Path, *overrides: str) -> str:
    data = tasks.data_module(load_config(config, [f"data.root={str(root)!r}", *overrides]))
    with pytest.raises(DataError) as error:
        data.setup("fit")
    return str(error.value)


@pytest.mark.parametrize(
    ("config", "missing", "key", "fault"),
    [
        (DETECTION, "images/val", "data.val.images", "no such folder or zip file of images"),
        (DETECTION, "annotations/instances_val.json", "data.val.annotations", "cannot be read"),
        (DETECTION, "images/train", "data.train.images", "no such folder or zip file of images"),
        (SEGMENTATION, "ade20k/annotations/training", "data.train.labels", "no such folder"),
        (SEGMENTATION, "ade20k/objectInfo150.txt", "data.classes", "no such class list; put it there, or name a file"),
    ],
)
def test_a_missing_path_is_named_with_its_key_and_the_options_that_change_it(
    shapes: Path, config: Path, missing: str, key: str, fault: str
) -> None:
    root = shapes / missing.split("/")[0] if config == SEGMENTATION else shapes
    away = shapes / "away"
    (shapes / missing).rename(away)
    try:
        message = data_error(config, root)
    finally:
        away.rename(shapes / missing)
    assert message.startswith(f"{shapes / missing}: {fault}")
    note = f'({key} below data.root={root}; data="FOLDER" names the folder of the data set, '
    assert message.endswith(note + f'**{{"{key}": ...}} another place)')


def test_a_path_that_does_not_depend_on_the_root_is_not_said_to(shapes: Path) -> None:
    message = data_error(DETECTION, shapes, "data.val.images='/nowhere'")
    assert message.endswith('images (data.val.images; **{"data.val.images": ...} names another place)')


def test_missing_stuff_maps_are_answered_with_the_way_to_do_without(shapes: Path) -> None:
    message = data_error(HTC, shapes, *SHAPES_SPLITS)
    assert message.startswith(f"{shapes}/stuffthingmaps/train2017: no such folder")
    assert "data.train_stuff below data.root" in message
    assert message.endswith(
        "; without stuff maps set model.roi_head.semantic_head and model.roi_head.semantic_roi_extractor to None)"
    )
    tasks.data_module(load_config(HTC, [f"data.root={str(shapes)!r}", *SHAPES_SPLITS, *NO_SEMANTIC_BRANCH])).setup(
        "fit"
    )


def test_the_list_of_what_is_wrong_in_a_file_follows_the_key_of_the_file(shapes: Path, tmp_path: Path) -> None:
    content = json.loads((shapes / "annotations" / "instances_val.json").read_text())
    content["annotations"][0]["category_id"] = 99
    (tmp_path / "broken.json").write_text(json.dumps(content))
    first, second = data_error(DETECTION, shapes, f"data.val.annotations='{tmp_path}/broken.json'").split("\n")
    assert first.endswith('(data.val.annotations; **{"data.val.annotations": ...} names another place)')
    assert "99" in second


def trainer_of(tmp_path: Path, precision: str) -> Trainer:
    config = load_config(DEMOS / "mask-rcnn_swin-nano_shapes.py", [f"training.precision={precision!r}"])
    return trainers.training_trainer(config, tmp_path, lambda *shown: None)


def test_half_precision_without_cuda_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"training\.precision is 16, which needs a CUDA device"):
        trainer_of(tmp_path, "16")


def test_an_unknown_precision_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='training.precision: unknown "bf61"; did you mean "bf16"'):
        trainer_of(tmp_path, "bf61")


def test_training_has_the_precision_of_the_recipe_and_evaluation_that_of_published_scores(tmp_path: Path) -> None:
    assert trainer_of(tmp_path, "bf16").precision == "bf16-mixed"
    assert trainers.evaluation_trainer().precision == "32-true"


BOXES = ("bbox_AP", "bbox_AP50")


@pytest.mark.parametrize(
    ("demo", "override", "metrics", "message"),
    [
        ("mask-rcnn_swin-nano_shapes.py", "score_metric='bbox_ap'", BOXES, 'no metric "bbox_ap"; did you mean "bbox_'),
        (
            "faster-rcnn_swin-nano_shapes.py",
            "score_metric='segm_AP'",
            BOXES,
            'no metric "segm_AP"; valid: bbox_AP',
        ),
        ("upernet_swin-nano_shapes.py", "score_metric='mIOU'", ("mIoU", "mAcc"), 'did you mean "mIoU"'),
    ],
)
def test_a_training_that_could_not_tell_its_best_weights_is_refused(
    demo: str, override: str, metrics: tuple[str, ...], message: str
) -> None:
    trainers.check_validation(load_config(DEMOS / demo), metrics)
    with pytest.raises(ConfigError, match=message):
        trainers.check_validation(load_config(DEMOS / demo, [override]), metrics)


def test_a_real_detector_in_its_module_can_be_sent_to_a_spawned_process(shapes: Path) -> None:
    config = load_config(DEMOS / "mask-rcnn_swin-nano_shapes.py", {"data.root": str(shapes)})
    data, task = tasks.data_module(config), tasks.task_of(config)
    data.setup("validate")
    module = task.training_module(config, data, task.build_model(config.model, len(data.class_names)))
    sent = pickle.loads(pickle.dumps(module))
    assert all(torch.equal(a, b) for a, b in zip(sent.parameters(), module.parameters(), strict=True))
    assert sent.inference == module.inference
