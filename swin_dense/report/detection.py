"""What a report shows of detections: scores, curves, kinds of errors, calibration, sizes, and images.

Hotcoco matches objects and counts errors; its scores are COCO's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from swin_dense.metrics.scoring import COCO_METRICS, known_mean
from swin_dense.report import charts
from swin_dense.report.confusion import NOTHING, SHOWN_PAIRS, confused_pairs, confusion_chart, worst_and_best
from swin_dense.report.matching import DetectionEvidence, Evaluated, detections_of, instances_of
from swin_dense.report.page import Block, Gallery, Section, Table, Tiles, number, percent, shown
from swin_dense.visualize.detections import draw_comparison

KINDS = {"bbox": "boxes", "segm": "masks"}

TIDE = {
    "Cls": ("class", "in the right place, of another class"),
    "Loc": ("place", "of the right class, overlapping too little (IoU 0.1 to 0.5)"),
    "Both": ("class and place", "overlapping too little, and of another class"),
    "Dupe": ("duplicate", "a second detection of an object"),
    "Bkg": ("background", "where nothing is annotated (IoU below 0.1)"),
    "Miss": ("missed", "an object that none of the other detections accounts for"),
}
"""Kinds of errors of TIDE (Bolya et al., 2020, section 2.2): what they are called here, and what they are."""

SIZES = (0, 16, 32, 64, 96, 128, 256, 512, np.inf)
RATIOS = (0, 1 / 4, 1 / 2, 1 / 1.25, 1.25, 2, 4, np.inf)
"""Edges between groups of objects: square roots of areas in pixels, and width / height."""


def headline(evidence: DetectionEvidence) -> dict[str, float]:
    """The scores that a comparison of runs shows, in percent; NaN where there is nothing to find."""
    return {
        f"{KINDS[kind]} {name}": 100 * one.scores[name] if one.scores[name] >= 0 else float("nan")
        for kind, one in evidence.evaluated.items()
        for name in COCO_METRICS[:6]
    }


def detection_sections(evidence: DetectionEvidence) -> list[Section]:
    """All that is shown of the detections; errors, confusion and images are those of masks where there are any."""
    main = evidence.evaluated[evidence.kinds[-1]]
    return [
        _scores(evidence),
        _classes(evidence),
        _curves(evidence, main),
        _errors(evidence, main),
        _sizes(main),
        *_images(evidence, main),
    ]


def _scores(evidence: DetectionEvidence) -> Section:
    tiles = [
        (f"{name} of {KINDS[kind]}", percent(one.scores[name]).text, meaning)
        for kind, one in evidence.evaluated.items()
        for name, meaning in (("AP", "mean over IoU 0.5 to 0.95"), ("AP50", "at IoU 0.5"))
    ]
    main = evidence.evaluated[evidence.kinds[-1]]
    tiles.append(("best threshold", f"{main.threshold:.2f}", "confidence with the best F1 at IoU 0.5"))
    tiles.append(("calibration error", percent(main.calibration["ece"]).text, "of confidence, %; expected (ECE)"))
    rows = [
        [KINDS[kind], *(percent(one.scores[name]) for name in COCO_METRICS)] for kind, one in evidence.evaluated.items()
    ]
    return Section(
        "Scores",
        [Tiles(tiles), Table(["", *COCO_METRICS], rows, "COCO average precision (AP) and recall (AR), %")],
        f"{len(evidence.image_ids):,} images, {len(main.truth):,} annotated objects, {len(main.found):,} detections.",
    )


def _classes(evidence: DetectionEvidence) -> Section:
    used = dict(enumerate(evidence.names, start=1))  # category ids ascend, as the engines' numbers do
    main = evidence.evaluated[evidence.kinds[-1]]
    objects: dict[int, int] = defaultdict(int)
    for row in main.truth:
        objects[row["category_id"]] += not row["iscrowd"]
    headings = ["class", "objects"]
    columns: list[Mapping[int, float]] = []
    for kind, one in evidence.evaluated.items():
        by_area = {"AP": (slice(None), 0), "AP50": (0, 0), "AP75": (5, 0)}
        by_area |= (
            {} if kind != evidence.kinds[-1] else {f"AP{size}": (slice(None), at) for at, size in enumerate("sml", 1)}
        )
        precision, recall = one.engine.eval["precision"], one.engine.eval["recall"]
        for name, (thresholds, area) in by_area.items():
            headings.append(f"{name} {KINDS[kind]}")
            columns.append({place: known_mean(precision[thresholds, :, place - 1, area, -1]) for place in used})
        headings.append(f"AR {KINDS[kind]}")
        columns.append({place: known_mean(recall[:, place - 1, 0, -1]) for place in used})
    rows = [
        [name, number(objects[place], 0), *(percent(column[place]) for column in columns)]
        for place, name in used.items()
    ]
    return Section("Classes", [Table(headings, rows)], "Percent. A dash: no such object among the images.")


def _curves(evidence: DetectionEvidence, main: Evaluated) -> Section:
    recall = np.linspace(0, 1, 101)
    blocks: list[Block] = []
    for kind, one in evidence.evaluated.items():
        precision = one.engine.eval["precision"][:, :, :, 0, -1]
        known = precision[:, :, (precision > -1).any(axis=(0, 1))]
        curves = {f"IoU {0.5 + 0.05 * at:.2f}": (recall, known[at].mean(axis=1)) for at in (0, 5, 8) if known.size}
        if known.size:
            curves["mean, 0.50 to 0.95"] = (recall, known.mean(axis=(0, 2)))
        blocks.append(
            charts.lines(
                f"precision and recall of {KINDS[kind]}",
                "recall",
                "precision",
                curves,
                ylim=(0, 1.02),
                xlim=(0, 1),
                note="Mean over the classes; the area below a curve is its AP.",
            )
        )
    sweep = main.sweep
    curves = {name: (sweep["score"], sweep[name]) for name in ("f1", "precision", "recall")}
    blocks.append(
        charts.lines(
            "F1, precision and recall by threshold",
            "least confidence",
            "over all classes, at IoU 0.5",
            curves,
            xlim=(0, 1),
            ylim=(0, 1.02),
            note=f"F1 is best ({sweep['f1'].max(initial=0):.3f}) at {main.threshold:.2f}: a threshold for predict.",
        )
    )
    calibration = main.calibration
    blocks.append(
        charts.reliability(
            calibration["bins"],
            f"Right is a detection that matches an object at IoU 0.5. Expected calibration error (ECE) "
            f"{100 * calibration['ece']:.1f} %, largest error of a bin {100 * calibration['mce']:.1f} %.",
        )
    )
    return Section("Curves", blocks)


def _errors(evidence: DetectionEvidence, main: Evaluated) -> Section:
    blocks: list[Block] = []
    rows = []
    gains: dict[str, list[float]] = {}
    for kind, one in evidence.evaluated.items():
        tide = one.engine.tide_errors(pos_thr=0.5, bg_thr=0.1)
        gains[KINDS[kind]] = [100 * max(tide["delta_ap"][key], 0) for key in TIDE]
        for key, (name, meaning) in TIDE.items():
            rows.append([KINDS[kind], name, meaning, number(tide["counts"][key], 0), percent(tide["delta_ap"][key], 2)])
    names = [name for name, _ in TIDE.values()]
    blocks.append(
        charts.bars(
            "AP50 lost to each kind of error",
            "points of AP50",
            gains,
            names,
            note="What AP50 would gain if all errors of a kind were put right, and nothing else (TIDE).",
        )
    )
    matrix = main.engine.confusion_matrix(iou_thr=0.5, min_score=main.threshold)["matrix"].astype(np.int64)
    labels = [*evidence.names, NOTHING]
    note = (
        f"Detections of at least {main.threshold:.2f} at IoU 0.5. Right column: missed. Bottom row: detections of what "
        "is not annotated, as shares of these."
    )
    blocks.append(confusion_chart(matrix, labels, note=note))
    blocks.append(Table(["of", "error", "a detection, or an object, that is", "count", "gain of AP50"], rows, "TIDE"))
    blocks.append(confused_pairs(matrix, labels))
    return Section("Errors", blocks)


def _sizes(main: Evaluated) -> Section:
    matched = main.diagnostics["gt_match"]
    score = {row["id"]: row["score"] for row in main.found}
    objects = [row for row in main.truth if not row["iscrowd"]]
    is_found = np.array([score.get(matched.get(row["id"]), -1.0) >= main.threshold for row in objects], dtype=float)
    sides = np.sqrt([row["area"] for row in objects])
    boxes = np.array([row["bbox"] for row in objects], dtype=float).reshape(-1, 4)
    kept = [row for row in main.found if row["score"] >= main.threshold]
    found_boxes = np.array([row["bbox"] for row in kept], dtype=float).reshape(-1, 4)
    found_sides = np.sqrt([row["area"] for row in kept])
    ratio, found_ratio = (one[:, 2] / np.maximum(one[:, 3], 1e-6) for one in (boxes, found_boxes))
    blocks: list[Block] = []
    for title, edges, values, found in (
        ("size (square root of the area)", SIZES, sides, found_sides),
        ("width / height", RATIOS, ratio, found_ratio),
    ):
        names = [_range(*pair) for pair in pairwise(edges)]
        group = np.digitize(values, edges[1:-1])
        counts = np.bincount(group, minlength=len(names))
        recall = [float(is_found[group == at].mean()) * 100 if counts[at] else np.nan for at in range(len(names))]
        there = [at for at in range(len(names)) if counts[at]]
        blocks.append(
            charts.bars(
                f"objects found, by {title}",
                "recall, %",
                {"": [recall[at] for at in there]},
                [f"{names[at]}  ({counts[at]:,})" for at in there],
                note="In brackets: how many there are.",
            )
        )
        low = min([*values, *found, 1.0], default=1.0)
        high = max([*values, *found, 2.0], default=2.0)
        bins = np.geomspace(max(low, 1e-2), high, 24)
        blocks.append(
            charts.histogram(
                f"{title}: annotated and predicted",
                title if "size" not in title else "pixels",
                "share",
                {"annotated": values, "predicted": found},
                bins,
                xscale="log",
            )
        )
    return Section("Sizes", blocks, f"Detections of at least {main.threshold:.2f}, at IoU 0.5.")


def _range(low: float, high: float) -> str:
    if low == 0:
        return f"below {high:g}"
    return f"{low:g} and more" if np.isinf(high) else f"{low:g} to {high:g}"


def _images(evidence: DetectionEvidence, main: Evaluated) -> list[Section]:
    """Best and worst images, and annotations that the detections contradict."""
    ids = sorted(evidence.image_ids)
    wanted: dict[int, int] = defaultdict(int)
    for row in main.truth:
        wanted[row["image_id"]] += not row["iscrowd"]
    right: dict[int, int] = defaultdict(int)
    wrong: dict[int, int] = defaultdict(int)
    for row in main.found:
        if row["score"] >= main.threshold:
            status = main.diagnostics["dt_status"].get(row["id"])
            right[row["image_id"]] += status == "tp"
            wrong[row["image_id"]] += status == "fp"
    ranked = []
    for place, image_id in enumerate(ids, start=1):
        missed = wanted[place] - right[place]
        total = 2 * right[place] + wrong[place] + missed
        if total:
            ranked.append((2 * right[place] / total, -(wrong[place] + missed), image_id, place))
    ranked.sort()
    rows = enumerate(evidence.truth.image_ids.tolist())
    names = {image_id: evidence.truth.file_names.text(row) for row, image_id in rows}
    sections = []
    if evidence.read is not None and ranked:
        blocks = []
        for title, group in worst_and_best(ranked):
            pictures = []
            for f1, _, image_id, place in group:
                caption = (
                    f"{names[image_id]}: F1 {f1:.2f}, {right[place]} of {wanted[place]} found, {wrong[place]} wrong"
                )
                pictures.append(shown(_comparison(evidence, image_id, names[image_id], main.threshold), caption))
            if pictures:
                blocks.append(Gallery(pictures, title))
        note = f"Ground truth on the left, detections of at least {main.threshold:.2f} on the right; ranked by F1."
        sections.append(Section("Images", blocks, note))
    doubtful = [
        [
            names[ids[one["image_id"] - 1]],
            one["dt_category"],
            one.get("gt_category") or "nothing",
            percent(one["dt_score"]),
        ]
        for one in main.diagnostics["label_errors"][:SHOWN_PAIRS]
    ]
    if doubtful:
        note = "Detections of high confidence that the annotations contradict: look whether these are right."
        headings = ["image", "predicted", "annotated", "confidence, %"]
        sections.append(Section("Doubtful annotations", [Table(headings, doubtful)], note))
    return sections


def _comparison(evidence: DetectionEvidence, image_id: int, name: str, threshold: float) -> Any:
    assert evidence.read is not None
    truth = evidence.truth
    row = truth.image_ids.tolist().index(image_id)
    height, width = truth.image_sizes[row].tolist()
    instances = instances_of(truth, row, masks=evidence.masks is not None)
    found = detections_of(evidence.results.get(image_id), (height, width))
    return draw_comparison(evidence.read(name), instances, found, evidence.names, score_threshold=round(threshold, 2))
