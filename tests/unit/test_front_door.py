"""`import swin_dense`: load, predict, train, evaluate and export_features, as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import swin_dense
from helpers.commands import command, figures
from swin_dense.config import load_config
from swin_dense.data.shapes import write_shapes
from swin_dense.errors import ConfigError, DataError, WeightsError
from swin_dense.models import Model
from swin_dense.openmmlab.features import NetworkMaps
from swin_dense.tasks.training import Run

DETECTOR, SEGMENTER = "mask-rcnn_swin-nano_shapes", "upernet_swin-nano_shapes"
SMALL = {
    "augmentation.short_sides": [64],
    "augmentation.test_short_side": 64,
    "training.pictures": 1,
    "data.num_workers": 0,
}
SHOWN = 0.01
"""A threshold below the scores of a model that has seen a few images."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=8, val=3)


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "mine"
    return swin_dense.train(DETECTOR, data=root, run=folder, epochs=2, batch_size=4, device="cpu", **SMALL)


@pytest.fixture(scope="module")
def model(run: Run) -> Model:
    return swin_dense.load(run, device="cpu")


@pytest.fixture(scope="module")
def segmenter(root: Path) -> Model:
    with pytest.warns(UserWarning, match=f"{SEGMENTER}: no weights given, these are random"):
        return swin_dense.load(SEGMENTER, data=root / "ade20k", device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three images of different sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, (height, width) in enumerate(((48, 64), (64, 40), (80, 80))):
        pixels = np.random.default_rng(i).integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / f"{i}.png")
    return folder


def as_lists(found: Any) -> tuple[Any, ...]:
    masks = found.detections.masks
    return found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), masks


# What `predict` takes.


def test_the_same_image_in_every_form_gives_the_same_result(model: Model, photos: Path) -> None:
    path = photos / "0.png"
    array = np.array(Image.open(path))
    read_only = array.copy()
    read_only.flags.writeable = False
    forms: dict[str, Any] = {
        "path": path,
        "text": str(path),
        "PIL": Image.open(path),
        "PIL with alpha": Image.open(path).convert("RGBA"),
        "array": array,
        "array of another order": np.asfortranarray(array),
        "read-only array": read_only,
        "tensor": torch.from_numpy(array).permute(2, 0, 1),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {form: as_lists(model.predict(image, threshold=SHOWN)) for form, image in forms.items()}
    assert len(found["path"][0]) > 0
    assert {form: one == found["path"] for form, one in found.items()} == dict.fromkeys(forms, True)


def test_one_image_gives_a_result_several_a_list_and_an_iterator_an_iterator(model: Model, photos: Path) -> None:
    paths = sorted(photos.iterdir())
    each = [as_lists(model.predict(path, threshold=SHOWN)) for path in paths]
    (photos.parent / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    for images in (photos, paths, tuple(paths), [Image.open(path) for path in paths], photos.parent / "list.txt"):
        found = model.predict(images, threshold=SHOWN)
        assert isinstance(found, list) and [as_lists(one) for one in found] == each
    lazy = model.predict(iter(paths), threshold=SHOWN)
    assert isinstance(lazy, Iterator) and [as_lists(one) for one in lazy] == each
    assert model.predict([]) == []


def test_an_iterator_is_read_as_far_as_results_are_taken(model: Model, photos: Path) -> None:
    taken: list[Path] = []

    def endless() -> Iterator[Path]:
        while True:
            taken.append(photos / "0.png")
            yield taken[-1]

    results = model.predict(endless(), batch_size=2)
    next(results)
    assert len(taken) == 2


def test_a_zip_file_is_a_folder_of_images(model: Model, photos: Path, tmp_path: Path) -> None:
    import shutil

    archive = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", photos))
    expected = [as_lists(one) for one in model.predict(photos, threshold=SHOWN)]
    assert [as_lists(one) for one in model.predict(archive, threshold=SHOWN)] == expected
    assert as_lists(model.predict(archive / "1.png", threshold=SHOWN)) == expected[1]


def test_results_do_not_depend_on_the_batch(model: Model, segmenter: Model, photos: Path) -> None:
    alone, together = (model.predict(photos, threshold=SHOWN, batch_size=size) for size in (1, 3))
    for one, other in zip(alone, together, strict=True):
        assert_close(other.boxes, one.boxes, rtol=0, atol=1e-3)
        assert_close(other.scores, one.scores, rtol=0, atol=1e-5)
        assert other.names == one.names and torch.equal(other.masks, one.masks)
    alone, together = (segmenter.predict(photos, batch_size=size, probabilities=True) for size in (1, 3))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(other.label_map, one.label_map)
        assert_close(other.probabilities, one.probabilities, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        (np.zeros((8, 8), np.uint8), r"an image as array is \(H, W, 3\) uint8 RGB, not \(8, 8\) uint8; repeat the one"),
        (np.zeros((3, 8, 8), np.uint8), r"not \(3, 8, 8\) uint8; its channels come first"),
        (np.zeros((8, 8, 3), np.float32), "float32; scale values of 0..1 to 0..255 first"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"an image as tensor is \(3, H, W\) uint8 RGB, not \(8, 8, 3\)"),
        (np.zeros((0, 8, 3), np.uint8), "has no pixels"),
        (Image.new("RGB", (0, 8)), "has no pixels"),
        (Image.new("F", (8, 8)), "mode F without a known range of brightness"),
        ("absent.png", "no such image"),
        (7, "int is no image: pass a path, a PIL image"),
    ],
    ids=["gray", "channels first", "float", "channels last", "no rows", "no columns", "mode F", "no file", "number"],
)
def test_what_is_no_image_is_refused(model: Model, image: Any, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        model.predict(image)


# What comes out of a detector.


def test_a_detection_has_boxes_scores_labels_names_and_decoded_masks(model: Model, photos: Path) -> None:
    found = model.predict(photos / "0.png", threshold=SHOWN)
    n = len(found)
    assert (found.boxes.shape, found.scores.shape, found.labels.shape) == ((n, 4), (n,), (n,))
    assert found.names == [model.class_names[label] for label in found.labels]
    assert found.masks.shape == (n, 48, 64) and found.masks.dtype == torch.bool
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert repr(found).startswith(f"DetectionResult({found.names[0]} {found.scores[0]:.2f}")


def test_the_threshold_keeps_the_best(model: Model, photos: Path) -> None:
    found = model.predict(photos / "0.png", threshold=SHOWN)
    middle = float(found.scores[len(found) // 2])
    kept = model.predict(photos / "0.png", threshold=middle)
    assert kept.scores.tolist() == [score for score in found.scores.tolist() if score >= middle]
    assert len(model.predict(photos / "0.png", threshold=1.0)) == 0


def test_a_result_is_drawn_and_handed_to_other_libraries(model: Model, photos: Path) -> None:
    from pycocotools import mask as rle_codec

    found = model.predict(photos / "0.png", threshold=SHOWN)
    assert found.draw().mode == "RGB" and found._repr_png_().startswith(b"\x89PNG")
    theirs = found.to_supervision()
    assert np.array_equal(theirs.xyxy, found.boxes) and np.array_equal(theirs.mask, found.masks)
    assert theirs.data["class_name"].tolist() == found.names
    rows = json.loads(json.dumps(found.to_coco(image_id=5)))
    assert {row["image_id"] for row in rows} == {5}
    x, y, width, height = rows[0]["bbox"]
    assert_close(torch.tensor([x, y, x + width, y + height]), found.boxes[0])
    assert np.array_equal(rle_codec.decode(rows[0]["segmentation"]), found.masks[0])
    nothing = model.predict(photos / "0.png", threshold=1.0)
    assert (len(nothing.to_supervision()), nothing.to_coco(), nothing.masks.shape) == (0, [], (0, 48, 64))


# What comes out of a segmenter.


def test_a_segmentation_has_a_label_map_and_probabilities(segmenter: Model, photos: Path) -> None:
    found = segmenter.predict(photos / "1.png", probabilities=True)
    assert found.label_map.shape == (64, 40) and found.probabilities.shape == (len(segmenter.class_names), 64, 40)
    assert_close(found.probabilities.float().sum(0), torch.ones(64, 40), rtol=0, atol=1e-2)
    best = found.probabilities.float().gather(0, found.label_map.long()[None])[0]
    assert_close(best, found.probabilities.float().amax(0), rtol=0, atol=1e-3)
    assert segmenter.predict(photos / "1.png").probabilities is None
    assert found.masks.sum(0).eq(1).all() and sum(found.shares.values()) == pytest.approx(1)
    assert len(found.to_supervision()) == len(found.to_coco()) == len(found.names)
    assert found.draw().mode == "RGB" and found._repr_png_().startswith(b"\x89PNG")


def test_an_option_of_another_task_is_refused_before_any_image_is_read(model: Model, segmenter: Model) -> None:
    with pytest.raises(ConfigError, match="threshold is not for segmentation, which upernet_swin-nano_shapes is for"):
        segmenter.predict("absent.png", threshold=0.5)
    with pytest.raises(ConfigError, match="probabilities is not for detection"):
        model.predict(iter([]), probabilities=True)
    with pytest.raises(ConfigError, match="engine is not for segmentation"):
        segmenter.evaluate(engine="pycocotools")
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        model.predict("absent.png", batch_size=0)
    with pytest.raises(TypeError, match="colour"):
        swin_dense.evaluate(SEGMENTER, data=None, colour="red")


# What is loaded.


def test_a_backbone_gives_features_and_refuses_to_predict() -> None:
    backbone = swin_dense.load("swin_nano", device="cpu")
    image = torch.randint(0, 255, (3, 50, 70), dtype=torch.uint8)
    maps = backbone.features(image)
    assert {name: tuple(one.shape) for name, one in maps.items()} == {
        "stage1": (32, 13, 18),
        "stage2": (64, 7, 9),
        "stage3": (128, 4, 5),
        "stage4": (256, 2, 3),
    }
    assert (backbone.class_names, repr(backbone)) == ((), "Model(swin_nano: backbone, on cpu)")
    for use in (lambda: backbone.predict(image), lambda: backbone.predict(iter([])), backbone.evaluate):
        with pytest.raises(ConfigError, match="swin_nano is a backbone alone, without classes: load a run folder or"):
            use()


def test_a_model_says_what_it_is(model: Model, run: Run) -> None:
    assert repr(model) == f"Model({run.folder}: detection, 6 classes, on cpu)"
    assert model.class_names == ("circle", "square", "triangle", "star", "ring", "cross")
    assert model.to("cpu") is model


def test_a_model_that_a_trainer_has_had_predicts_as_before(model: Model, photos: Path) -> None:
    before = as_lists(model.predict(photos / "0.png", threshold=SHOWN))
    model.module.train()
    assert as_lists(model.predict(photos / "0.png", threshold=SHOWN)) == before
    model.module.train()
    assert torch.equal(model.features(photos / "0.png")["p2"], model.features(photos / "0.png")["p2"])


def test_the_features_are_the_networks_own_at_the_test_size(model: Model, photos: Path) -> None:
    image = torch.from_numpy(np.array(Image.open(photos / "2.png").resize((64, 64)))).permute(2, 0, 1)
    maps = model.features(image)
    assert list(maps) == ["stage1", "stage2", "stage3", "stage4", "p2", "p3", "p4", "p5", "p6"]
    network = model.module.network
    normalised = network.data_preprocessor({"inputs": [image]})["inputs"]
    with torch.inference_mode():
        expected = NetworkMaps(network, None, True)(normalised)
    for one, other in zip(maps.values(), expected, strict=True):
        assert_close(one, other[0])
    listed = model.features(photos, batch_size=3)
    assert [tuple(one["p2"].shape[1:]) for one in listed] == [(16, 24), (32, 16), (16, 16)]  # padded


def test_what_cannot_be_loaded_is_said(run: Run) -> None:
    with pytest.raises(ConfigError, match='no backbone variant "swin_tinny"; did you mean "swin_tiny"'):
        swin_dense.load("swin_tinny")
    with pytest.raises(ConfigError, match="mask-rcnn_swin-nano_shape: .* did you mean mask-rcnn_swin-nano_shapes"):
        swin_dense.load("mask-rcnn_swin-nano_shape")
    with pytest.raises(WeightsError, match=r"there is no file absent\.pth"):
        swin_dense.load(run, weights="absent.pth")
    with pytest.raises(ConfigError, match="swin_nano is a backbone variant and has no config keys"):
        swin_dense.load("swin_nano", overrides={"data.batch_size": 2})
    with pytest.raises(ConfigError, match="a config is a name, file, dict or dataclass"):
        swin_dense.load(7)
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        swin_dense.lode  # noqa: B018  (looking it up is the test)


# Training and evaluation.


def test_a_run_has_its_metrics_and_evaluates_to_the_same(
    run: Run, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = swin_dense.evaluate(run, device="cpu", predictions=str(tmp_path / "val.json"))
    assert scores["bbox"]["AP"] == pytest.approx(max(figures(run.folder, "val/bbox_AP")), abs=1e-6)
    assert {row["image_id"] for row in json.loads((tmp_path / "val.json").read_text())} <= {1, 2, 3, *range(9, 12)}
    capsys.readouterr()
    assert command("evaluate", str(run.folder), "--device", "cpu", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == scores
    assert "GPU available" not in said.err  # what Lightning says about itself


def test_keyword_overrides_end_in_the_config_and_milestones_follow_the_epochs(run: Run) -> None:
    official = load_config(DETECTOR)
    config = load_config(run.folder / "config.py")
    assert (config.schedule.epochs, config.data.batch_size, config.augmentation.test_short_side) == (2, 4, 64)
    scale = 2 / official.schedule.epochs
    assert config.schedule.milestones == tuple(max(1, round(one * scale)) for one in official.schedule.milestones)


def test_a_training_keeps_the_memory_that_tensors_free_on_its_device(
    run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []

    @contextmanager
    def keeping(device: torch.device) -> Iterator[None]:
        devices.append(f"in {device.type}")
        yield
        devices.append(f"out of {device.type}")

    monkeypatch.setattr("swin_dense.tasks.training.keeping_freed_memory", keeping)
    swin_dense.train(run.folder / "config.py", data=root, run=tmp_path / "run", epochs=1, device="cpu")
    assert devices == ["in cpu", "out of cpu"]


def test_any_key_of_a_config_is_an_argument(root: Path, tmp_path: Path) -> None:
    """Those of the highest level, too, whose names have no dots."""
    small = {**SMALL, "training.validate_every": 1, "early_stopping": 3}
    trained = swin_dense.train(
        DETECTOR, data=root, run=tmp_path / "run", epochs=1, device="cpu", loggers=["csv"], callbacks=["Timer"], **small
    )
    assert (trained.folder / "metrics.csv").is_file() and not list(trained.folder.glob("events*"))
    with pytest.raises(ConfigError, match='unknown key "epoch"'):
        swin_dense.train(DETECTOR, data=root, run=tmp_path / "other", epoch=1)
    with pytest.raises(ConfigError, match='unknown key "logger"; did you mean "loggers"'):
        swin_dense.tune(DETECTOR, data=root, logger=["csv"])


@pytest.mark.parametrize("form", ["dict", "dataclass"])
def test_a_config_may_be_a_dict_or_a_dataclass(
    form: str, run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder, and without a run folder named: it is runs/TASK."""
    monkeypatch.chdir(tmp_path)
    config = load_config(run.folder / "config.py")
    source: Any = config if form == "dataclass" else {**vars(config)}
    if form == "dict":
        import dataclasses

        source = dataclasses.asdict(config)
    trained = swin_dense.train(source, data=root, epochs=1, device="cpu", weights=run.folder / "weights.safetensors")
    assert trained.folder == tmp_path / "runs/detection" and (trained.folder / "weights.safetensors").is_file()
    assert swin_dense.load(trained, device="cpu").class_names == swin_dense.load(run, device="cpu").class_names
    longer = swin_dense.train(resume=trained, epochs=2, device="cpu")
    assert longer.folder == trained.folder
    with pytest.raises(ConfigError, match="name a config, or a run folder to resume, and not both"):
        swin_dense.train(source, resume=trained)


IN_A_PROCESS = """
import json, sys, time
import torch, torchvision
start = time.process_time()
import swin_dense
seconds = time.process_time() - start
light = sorted(name.split(".")[0] for name in sys.modules)
swin_dense.load(sys.argv[1], device="cpu").predict(torch.zeros(3, 32, 32, dtype=torch.uint8))
print(json.dumps([seconds, light, sorted(name for name in sys.modules if name.split(".")[0] == "swin_dense")]))
"""


def test_the_import_is_light_and_predict_passes_few_files(run: Run) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, str(run.folder)], capture_output=True, text=True, check=True
    )
    seconds, light, ours = json.loads(done.stdout)
    assert seconds < 1 and not {"lightning", "mmcv", "mmdet", "mmseg", "mmengine", "matplotlib", "cv2"} & set(light)
    files = [name for name in ours if name != "swin_dense"]
    assert len(files) < 50, files
