"""Whole detectors as files: their report, their scores, and a program that has neither PyTorch nor this package."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import swin_dense
from helpers.commands import REPOSITORY
from helpers.random_values import randomised
from swin_dense.config import load_config
from swin_dense.data.shapes import write_shapes
from swin_dense.errors import ConfigError
from swin_dense.export.detections import DetectionDeviation, detection_deviations, load_detector
from swin_dense.inference.detection import View
from swin_dense.openmmlab.detection import OpenMMLabDetector
from swin_dense.records import Batch, Detections
from swin_dense.weights import save_weights

CLASSES = ("circle", "square", "triangle", "star", "ring", "cross")
ITS_LIBRARIES = ("numpy", "numpy.libs", "onnxruntime", "PIL", "pillow.libs")
"""What the example of the page imports, with the shared libraries beside it."""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), train=1, val=3)


@pytest.fixture(scope="module")
def model(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small Mask R-CNN with random weights that count, and find something in every image."""
    config = load_config("mask-rcnn_swin-nano_shapes", {"data.root": str(shapes), "data.num_workers": 0})
    config.model["backbone"].update(embed_dim=8, depths=(1, 1), num_heads=(1, 1), out_indices=(0, 1))
    config.model["neck"].update(num_outs=2)
    config.model["rpn_head"]["anchor_generator"].update(strides=[4, 8])
    config.model["test_cfg"]["rcnn"].update(score_thr=0.1, max_per_img=25)
    network = randomised(OpenMMLabDetector(config.model, len(CLASSES)).network)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_weights(network, path, metadata={"class_names": json.dumps(CLASSES), "category_ids": "[1, 2, 3, 4, 5, 6]"})
    return swin_dense.load(config, path, device="cpu")


@pytest.fixture(scope="module")
def exported(model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[method-assign]  # a whole class would say no more
    logging.getLogger("onnx_ir").addHandler(handler)
    record = model.export(path, size=(80, 112))
    logging.getLogger("onnx_ir").removeHandler(handler)
    assert not said, "the exporter speaks of its own insides"
    return path, record


def test_the_report_compares_detections_on_validation_images_at_three_sizes(
    exported: tuple[Path, dict[str, Any]], shapes: Path
) -> None:
    _, record = exported
    assert record["ok"] and record["open_axes"] == ["batch", "height", "width"], record["why_fixed"]
    assert [list(row["shape"]) for row in record["parity"]] == [[2, 3, 224, 224], [1, 3, 250, 310], [1, 3, 80, 112]]
    assert all(Path(name).is_relative_to(shapes / "images" / "val") for name in record["images"])
    for row in record["parity"]:
        assert row["expected"] == row["found"] == row["matched"] > 5
        assert row["box_pixels"] < 0.01 and row["score"] < 1e-5 and row["mask"] is not None


def test_the_file_has_standard_operators_alone_and_says_what_it_is(exported: tuple[Path, dict[str, Any]]) -> None:
    import onnx

    file = onnx.load(exported[0])
    assert [(one.domain, one.version) for one in file.opset_import] == [("", 18)]
    assert {"NonMaxSuppression", "RoiAlign", "TopK"} <= {node.op_type for node in file.graph.node}
    assert [one.name for one in file.graph.output] == ["boxes", "scores", "labels", "count", "masks"]
    facts = {one.key: one.value for one in file.metadata_props}
    assert json.loads(facts["class_names"]) == list(CLASSES)
    assert (facts["short_side"], facts["max_long_side"], facts["mask_threshold"]) == ("128", "128", "0.5")


def test_the_file_is_evaluated_in_place_of_the_model(
    model: Any, exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    ours = model.evaluate(onnx=exported[0], predictions=tmp_path / "ours.json")
    theirs = model.evaluate(predictions=tmp_path / "theirs.json")
    found, expected = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("ours", "theirs"))
    assert len(found) == len(expected) == 3 * 25
    for one, other in zip(found, expected, strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.05)
    for kind in ("bbox", "segm"):
        assert ours[kind]["AP"] == pytest.approx(theirs[kind]["AP"], abs=1e-3)


def test_a_file_of_other_classes_or_without_detections_is_not_scored(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="finds circle, square.*: it is of another model"):
        load_detector(exported[0], ("cat", "dog"))
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ConfigError, match="onnxruntime cannot run it"):
        load_detector(tmp_path / "text.onnx", CLASSES)


def test_the_example_of_the_page_finds_it_without_torch(
    model: Any, exported: tuple[Path, dict[str, Any]], shapes: Path, tmp_path: Path
) -> None:
    """Run in an environment that has three libraries and nothing else."""
    (example,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "deployment.md").read_text(), re.DOTALL)
    picture = sorted((shapes / "images" / "val").iterdir())[0]
    (tmp_path / "example.py").write_text(example)
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / Path(sys.executable).relative_to(sys.prefix)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, *words], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120
        )

    packages = Path(run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    installed = Path(np.__file__).parent.parent
    for name in ITS_LIBRARIES:
        if (installed / name).is_dir():
            (packages / name).symlink_to(installed / name)
    for absent in ("torch", "swin_dense"):
        assert f"No module named '{absent}'" in run("-c", f"import {absent}").stderr
    done = run("example.py", exported[0], picture)
    assert done.returncode == 0, done.stderr
    found = model.predict(picture)
    lines = done.stdout.splitlines()
    assert len(lines) == len(found) > 3
    for line, name, score, box, mask in zip(
        lines, found.names, found.scores.tolist(), found.boxes.tolist(), found.masks, strict=True
    ):
        label, said, sides, pixels = re.fullmatch(r"(\w+) ([\d.]+) (\[.*\]) (\d+) pixels", line).groups()
        assert label == name
        assert float(said) == pytest.approx(score, abs=1e-3)
        assert json.loads(sides) == pytest.approx(box, abs=0.1)
        assert int(pixels) == pytest.approx(int(mask.sum()), abs=2)


def test_pillow_resizes_images_as_predict_does() -> None:
    """To a grey level, by what the example of the page does."""
    size, seen = (70, 50), (91, 33)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    how = (seen[::-1], Image.Transform.EXTENT, (0, 0, *image.size), Image.Resampling.BILINEAR)
    shown = np.stack([one.convert("F").transform(*how) for one in image.split()]).round()
    right = View(0, 0, size, seen).show(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    assert np.abs(shown - right.numpy()).max() <= 1


class Fixed:
    """A detector that has found something already."""

    has_masks = False

    def __init__(self, found: Detections) -> None:
        self.found = found

    def predict(self, batch: Batch) -> list[Detections]:
        return [self.found] * len(batch)


FOUND = Detections(torch.tensor([[10.0, 10, 50, 50], [60, 10, 90, 40]]), torch.tensor([0.9, 0.8]), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("found", "matched", "within"),
    [
        (FOUND, 2, True),
        (replace(FOUND, boxes=FOUND.boxes + torch.tensor([0.0, 0, 2, 0])), 2, False),
        (replace(FOUND, boxes=FOUND.boxes + torch.tensor([0.0, 0, 1e-4, 0])), 2, True),
        (replace(FOUND, scores=FOUND.scores - 0.1), 2, False),
        (replace(FOUND, labels=FOUND.labels.flip(0)), 0, False),
        (Detections(FOUND.boxes[:1], FOUND.scores[:1], FOUND.labels[:1]), 1, False),
    ],
)
def test_a_file_that_finds_something_else_is_beyond_the_tolerance(
    found: Detections, matched: int, within: bool
) -> None:
    inverted = [replace(one, boxes=one.boxes[:, [2, 1, 0, 3]]) for one in (FOUND, found)]
    for right, ours in ((FOUND, found), inverted):  # as a detector without suppression may have them
        rows = detection_deviations(Fixed(right), Fixed(ours), [torch.zeros(2, 3, 100, 100)])
        assert isinstance(rows[0], DetectionDeviation)
        assert rows[0].expected == 4 and rows[0].is_within(1e-2) is within
        if right is FOUND:
            assert rows[0].matched == 2 * matched
