"""A page about runs: what was learnt and how, how good it is, and where it fails."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from swin_dense.config import Config, settings_of
from swin_dense.files import check_output_file
from swin_dense.report.page import Section, write_page
from swin_dense.report.training import (
    RunRecord,
    comparison_sections,
    curve_sections,
    flat_settings,
    metrics_of,
    record_sections,
)
from swin_dense.tasks import data_module, task_of
from swin_dense.tasks.evaluation import evaluate_module
from swin_dense.tasks.run_folder import read_facts

TIMED = 10
"""Images that the speed is measured on, one at a time."""


def write_report(models: Sequence[Any], folders: Sequence[Path], output: Path, *, device: str | None = None) -> None:
    """Predicts on the validation images of each run and writes one page about all of them.

    Args:
        models: What `swin_dense.load` gives of each run.
        folders: The run folders.
        output: The page.
        device: Type of the device to predict on, as in `torch.device`; None takes the best there is.
    """
    check_output_file(output)
    names = _names(folders)
    records, sections = [], []
    for model, folder, name in zip(models, folders, names, strict=True):
        scores, found = _evaluated(model, device)
        record = RunRecord(
            name,
            metrics_of(folder),
            flat_settings(settings_of(model.config)),
            read_facts(folder),
            _speed(model),
            scores,
        )
        records.append(record)
        prefix = "" if len(models) == 1 else f"{name}: "
        sections += [Section(f"{prefix}{one.title}", one.blocks, one.note) for one in found]
    title = ", ".join(names) if len(names) <= 3 else f"{len(names)} runs"
    tasks = dict.fromkeys(model.config.task for model in models)
    facts = [*tasks, f"{len(models[0].class_names)} classes"]
    summary = comparison_sections(records) if len(models) > 1 else sections[:1]
    details = sections if len(models) > 1 else sections[1:]
    everything = [*summary, *curve_sections(records), *details, *record_sections(records)]
    write_page(output, title, facts, everything)


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, or their paths where two have one name."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _evaluated(model: Any, device: str | None) -> tuple[dict[str, float], list[Section]]:
    """The headline scores of a model on its validation images, and the sections about them."""
    config: Config = model.config
    task = task_of(config)
    with TemporaryDirectory() as folder:
        predictions = task.predictions_path(config, Path(folder))
        evaluate_module(
            task,
            config,
            model.module,
            model.class_names,
            predictions=predictions,
            devices=1,
            device=device or model.device.type,
        )
        return task.report(config, predictions)


def _speed(model: Any) -> dict[str, str]:
    """Measured on the first validation images, one at a time, after one that does not count."""
    task = task_of(model.config)
    config = task.for_evaluation(model.config)
    data = data_module(config)
    data.eval_batch_size, data.num_workers = 1, 0
    data.setup("validate")
    inference = task.training_module(config, data, model.module).inference
    module = model.module.to(model.device).eval()
    on_gpu = model.device.type == "cuda"
    seconds = []
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(model.device)
    for batch in islice(data.val_dataloader(), TIMED + 1):
        batch = batch.to(model.device)
        begin = time.perf_counter()
        inference.predict(module, batch)
        if on_gpu:
            torch.cuda.synchronize(model.device)
        seconds.append(time.perf_counter() - begin)
    timed = sorted(seconds[1:] or seconds)
    speed = {
        "device": torch.cuda.get_device_name(model.device) if on_gpu else model.device.type,
        f"seconds per {task.items[:-1]}": f"{timed[len(timed) // 2]:.3f} (median of {len(timed)}, one at a time)",
        "parameters": f"{sum(one.numel() for one in module.network.parameters()) / 1e6:.2f} M",
        "threads": str(torch.get_num_threads()),
    }
    if on_gpu:
        speed["memory"] = f"{torch.cuda.max_memory_allocated(model.device) / 2**30:.2f} GiB at most, of the device"
    return speed
