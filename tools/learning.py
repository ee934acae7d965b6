"""Trains small detectors for the same number of steps on the embedded shapes, and shows what each has learnt.

Every config starts from random weights, sees the same scenes in the same order, and is scored before and after. A
system that has its result in the output folder is not trained again, so that a stopped run goes on with the next one.

    python tools/learning.py configs/demo/*_shapes.py --epochs 3 --output runs/learning
    python tools/learning.py configs/demo/mask-rcnn_swin-nano_shapes.py --rows shift-none,position-relative
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from itertools import product
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from swin_dense.cli.report import print_report
from swin_dense.config import list_recipes, load_config
from swin_dense.config.detection import DetectionConfig
from swin_dense.data.shapes import write_shapes
from swin_dense.models import build
from swin_dense.stats import count_parameters
from swin_dense.tasks import data_module, task_of
from swin_dense.tasks.run_folder import read_checkpoint, write_json
from swin_dense.tasks.training import DEMO_SCENES, train
from swin_dense.training.trainer import evaluation_trainer

TABLE_4 = {
    "shift-none": ["model.backbone.shift_windows=False"],
    "position-none": ["model.backbone.relative_position_bias=False"],
    "position-absolute": [
        "model.backbone.relative_position_bias=False",
        "model.backbone.absolute_position_embedding=True",
    ],
    "position-absolute-relative": ["model.backbone.absolute_position_embedding=True"],
    "position-relative-no-appearance": ["model.backbone.appearance_term=False"],
    "position-relative": [],
}
"""What the rows of the Swin paper's Table 4 change in a config; the last is the whole model, with shifted windows."""


def measured(config: DetectionConfig, run: Path) -> dict[str, Any]:
    """Scores a detector with random weights, trains it, and scores it again."""
    data = data_module(config)
    data.setup("validate")
    task = task_of(config)
    untrained = task.training_module(config, data, build(config, len(data.class_names)))
    evaluation_trainer().validate(untrained, datamodule=data, verbose=False)
    shutil.rmtree(run, ignore_errors=True)
    begin = time.perf_counter()
    trained = train(config, run)
    return {
        "params": count_parameters(untrained.network),
        "steps": read_checkpoint(run / "last.ckpt")["global_step"],
        "images": len(data.val_image_ids),
        "seconds": time.perf_counter() - begin,
        "before": average_precision(untrained.scores),
        "after": average_precision(trained.metrics),
    }


def average_precision(scores: Any) -> dict[str, float]:
    """AP by kind: "bbox", and "segm" where there are masks."""
    return {kind: metrics["AP"] for kind, metrics in scores.items()}


def table_of(results: dict[str, dict[str, Any]]) -> Table:
    """One row per system."""
    table = Table(title="AP before and after training on the shapes", title_justify="left", box=SIMPLE_HEAD, padding=0)
    for heading in ("system", "params", "steps", "seconds", "bbox AP", "segm AP"):
        table.add_column(heading, justify="left" if heading == "system" else "right", no_wrap=True)
    for system, one in results.items():
        changes = [
            f"{one['before'][kind]:.3f} \u2192 {one['after'][kind]:.3f}" if kind in one["after"] else ""
            for kind in ("bbox", "segm")
        ]
        table.add_row(system, f"{one['params'] / 1e6:.2f}M", str(one["steps"]), f"{one['seconds']:.0f}", *changes)
    return table


def main() -> None:
    """Trains what has no result yet, and prints all results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", type=Path, help="demo configs; by default all detectors' for the shapes")
    parser.add_argument("--epochs", type=int, default=3, help="length of each training; its steps are in the table")
    parser.add_argument("--data", type=Path, default=Path("data/shapes"), help="where the shapes are, or are written")
    parser.add_argument("--output", type=Path, default=Path("runs/learning"), help="folder of results and run folders")
    parser.add_argument("--rows", metavar="A,B", help=f"rows of Table 4 for each config: {', '.join(TABLE_4)}, or all")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides for every config")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = [""] if options.rows is None else [*TABLE_4] if options.rows == "all" else options.rows.split(",")
    if unknown := set(rows) - {"", *TABLE_4}:
        parser.error(f"--rows: there is no {', '.join(sorted(unknown))}")

    write_shapes(options.data, **DEMO_SCENES)
    same = [
        f"data.root={str(options.data)!r}",
        f"schedule.epochs={options.epochs}",
        f"schedule.milestones=[{max(1, options.epochs * 2 // 3)}]",
        f"training.validate_every={options.epochs}",
        *options.set,
    ]
    results: dict[str, dict[str, Any]] = {}
    paths = options.configs or [
        one for name, one in list_recipes().items() if name.startswith("demo/") and name.endswith("_shapes")
    ]
    for path, row in product(paths, rows):
        if load_config(path).task != "detection":
            continue
        config = load_config(path, [*same, *TABLE_4.get(row, [])])
        system = path.stem.removesuffix("_shapes") + (f" {row}" if row else "")
        assert isinstance(config, DetectionConfig)
        run = options.output / system.replace(" ", "_")
        result = run.with_suffix(".json")
        budget = {"epochs": options.epochs, "batch_size": config.data.batch_size, "overrides": options.set}
        if result.is_file() and (kept := json.loads(result.read_text(encoding="utf-8")))["budget"] == budget:
            results[system] = kept
            continue
        results[system] = {"budget": budget, **measured(config, run)}
        write_json(result, results[system])
    if len({one["steps"] for one in results.values()}) > 1:
        raise SystemExit("the systems were trained for different numbers of steps; give them one batch size")
    print_report(results, table_of(results), as_json=options.json)


if __name__ == "__main__":
    main()
