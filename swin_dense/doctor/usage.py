"""What users do with a model on a device, against the same on the CPU: predict, take features, export them, score."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import swin_dense
from swin_dense.data.scenes import draw_scene
from swin_dense.data.shapes import write_shapes
from swin_dense.doctor.device import Measured, Measurement, difference
from swin_dense.export import export_features
from swin_dense.metrics import CocoMetric, MeanIoU
from swin_dense.models import Model
from swin_dense.models.parts import load_inspected
from swin_dense.records import Detections
from swin_dense.visualize.inspection import grad_cam

TOLERANCE = 1e-3
"""Of float32 features, as part of their largest value."""

UNMATCHED = 0.02
"""Share of the detections, or of the pixels, that may differ, since two scores may change places by a rounding."""

SIDE = 128

DETECTORS = ("mask-rcnn_swin-nano_shapes", "mask-reppoints-v2_swin-nano_shapes")
SEGMENTER = "upernet_swin-nano_shapes"


def usage_checks(device: torch.device, folder: Path) -> Iterator[tuple[str, Measurement]]:
    """Everything that `swin_dense.load` gives a user; `folder` takes images and stores."""
    for number, name in enumerate(DETECTORS):
        yield f"predict: {name}", partial(_measure_detections, name, device, folder, 2 if number else 5)
    yield f"predict: {SEGMENTER}", partial(_measure_segmentation, device, folder)
    for name in ("swin_nano", DETECTORS[0], SEGMENTER):
        yield f"features: {name}", partial(_measure_features, name, device)
        yield f"export: {name}", partial(_measure_export, name, device, folder)
    for name in ("swin_nano", DETECTORS[0], SEGMENTER):
        yield f"Grad-CAM: {name}", partial(_measure_grad_cam, name, device)
    yield "metrics: MeanIoU", partial(_measure_mean_iou, device)
    yield "metrics: CocoMetric", partial(_measure_coco, device, folder)


def _loaded(name: str, device: torch.device) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of random weights
        return swin_dense.load(name, device=str(device))


@cache
def _model(name: str) -> Model:
    """A model on the CPU whose scores are far apart, as those of random weights are not."""
    model = _loaded(name, torch.device("cpu"))
    torch.manual_seed(0)
    for part in model.module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d) and part.weight.requires_grad:
            nn.init.kaiming_uniform_(part.weight, a=1)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return model


def _on(name: str, device: torch.device) -> Model:
    model = _loaded(name, device)
    model.module.load_state_dict(_model(name).module.state_dict())
    return model


def _pictures() -> list[Any]:
    return [draw_scene(np.random.default_rng(number), SIDE)[0] for number in range(3)]


def _all_forms(folder: Path, device: torch.device) -> list[Any]:
    """The pictures as an array, a tensor, a tensor on the device, a PIL image and a file."""
    first, second, third = _pictures()
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(third).save(folder / "third.png")
    tensor = torch.from_numpy(second).permute(2, 0, 1)
    return [first, tensor, tensor.to(device), Image.fromarray(first), folder / "third.png"]


def _measure_detections(name: str, device: torch.device, folder: Path, count: int) -> Measured:
    expected = _model(name).predict(_all_forms(folder, torch.device("cpu"))[:count], threshold=0.0)
    found = _on(name, device).predict(_all_forms(folder, device)[:count], threshold=0.0, batch_size=2)
    lost = total = 0
    for one, other in zip(found, expected, strict=True):
        total += max(len(one), len(other))
        lost += max(len(one), len(other)) - _matches(one, other)
        one.draw()
    if not total:
        raise ArithmeticError("nothing was detected on either")
    return Measured(lost / total, UNMATCHED, f"{total - lost} of {total} detections are the same")


def _matches(found: Any, expected: Any) -> int:
    """How many detections have one of the same label, score, box and mask on the other side."""
    same = (found.scores[:, None] - expected.scores).abs() < TOLERANCE
    same &= found.labels[:, None] == expected.labels
    same &= (found.boxes[:, None] - expected.boxes).abs().amax(dim=2) < 0.01 * SIDE
    if found.masks is not None:
        ours, theirs = found.masks.flatten(1).float(), expected.masks.flatten(1).float()
        apart = ours.sum(dim=1)[:, None] + theirs.sum(dim=1) - 2 * ours @ theirs.T
        same &= apart < UNMATCHED * SIDE**2
    return int(torch.minimum(same.any(dim=1).sum(), same.any(dim=0).sum()))


def _measure_segmentation(device: torch.device, folder: Path) -> Measured:
    expected = _model(SEGMENTER).predict(_all_forms(folder, torch.device("cpu")), probabilities=True)
    found = _on(SEGMENTER, device).predict(_all_forms(folder, device), probabilities=True)
    shares = []
    for one, other in zip(found, expected, strict=True):
        shares.append(float((one.label_map != other.label_map).float().mean()))
        one.draw()
    apart = difference([one.probabilities for one in found], [one.probabilities for one in expected])
    return Measured(max([*shares, apart]), UNMATCHED, f"{max(shares):.2%} of the pixels, probabilities {apart:.2g}")


def _measure_features(name: str, device: torch.device) -> Measured:
    images = [torch.from_numpy(one).permute(2, 0, 1)[:, :117, :99] for one in _pictures()]
    expected, found = (model.features(images, batch_size=2) for model in (_model(name), _on(name, device)))
    pairs = zip(found, expected, strict=True)
    measured = max(difference(list(one.values()), list(other.values())) for one, other in pairs)
    return Measured(measured, TOLERANCE, ", ".join(expected[0]))


def _measure_export(name: str, device: torch.device, folder: Path) -> Measured:
    """Maps, their means and the features of boxes."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(_pictures()):
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    boxes = folder / "boxes.json"
    boxes.write_text('{"0.png": [[3, 5, 60, 90]], "2.png": [[0, 0, 127, 64], [30, 30, 40, 41]]}', encoding="utf-8")
    stores: list[Any] = []
    for model, place in ((_model(name), "cpu"), (_on(name, device), str(device))):
        output = folder / f"features of {name} on {len(stores)}"
        stores.append(
            export_features(model.feature_model(), pictures, output, device=place, pool=True, boxes=boxes, batch_size=2)
        )
    measured = max(
        difference([stores[1][i][key] for key in stores[0].names], [stores[0][i][key] for key in stores[0].names])
        for i in range(len(stores[0]))
    )
    return Measured(measured, TOLERANCE, ", ".join(stores[0].names))


def _measure_grad_cam(name: str, device: torch.device) -> Measured:
    """Heat maps of the last stage, in 0..1."""
    image = torch.from_numpy(_pictures()[0]).permute(2, 0, 1)
    heats = []
    for place in (torch.device("cpu"), device):
        model = load_inspected(name, random_weights=True, device=str(place))
        target, (heat,) = grad_cam(model, image.to(place), [model.backbone.blocks(3)[-1]])
        heats.append(torch.from_numpy(heat))
    return Measured(difference(heats[1:], heats[:1]), 0.05, target)


def _measure_coco(device: torch.device, folder: Path) -> Measured:
    """Detections on the device, the true boxes moved a little, have the scores that they have on the CPU."""
    write_shapes(folder / "shapes", train=1, val=4, size=SIDE)
    annotations = folder / "shapes" / "annotations" / "instances_val.json"
    boxes: dict[int, list[list[float]]] = {number: [] for number in range(1, 5)}
    for one in json.loads(annotations.read_text(encoding="utf-8"))["annotations"]:
        x, y, width, height = one["bbox"]
        boxes[one["image_id"]].append([x + 2, y, x + width, y + height, one["category_id"] - 1])
    scores = []
    for place in (torch.device("cpu"), device):
        metric = CocoMetric(annotations, iou_types=("bbox",))
        for image_id, rows in boxes.items():
            table = torch.tensor(rows, dtype=torch.float32, device=place).reshape(-1, 5)
            ones = torch.ones(len(table), device=place)
            metric.update([image_id], [Detections(table[:, :4], ones, table[:, 4].long())])
        scores.append(metric.compute()["bbox"]["AP"])
    return Measured(abs(scores[1] - scores[0]), 0.0, f"AP {scores[0]:.3f}")


def _measure_mean_iou(device: torch.device) -> Measured:
    """Label maps on the device give the scores that they give on the CPU."""
    torch.manual_seed(0)
    truth, predicted = torch.randint(-1, 5, (2, 300, 200)), torch.randint(0, 5, (2, 300, 200), dtype=torch.int32)
    scores: list[float] = []
    for place in ("cpu", device):
        metric = MeanIoU([f"class {number}" for number in range(5)], image_ids=[1, 2])
        metric.update([1, 2], list(predicted.to(place)), list(truth.to(place)))
        scores.append(metric.compute()["mIoU"])
    return Measured(abs(scores[1] - scores[0]), 0.0)
