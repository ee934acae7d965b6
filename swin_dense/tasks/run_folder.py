"""What lies in a run folder beside the checkpoints: the config, where it came from, and weights ready for use."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from swin_dense.config import Config, config_text
from swin_dense.errors import ConfigError, OutputError, TrainingError, WeightsError, option
from swin_dense.files import atomic_write, written
from swin_dense.weights import save_weights
from swin_dense.weights.files import read_checkpoint as read_tensors
from swin_dense.weights.files import same_classes, unwrap

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # so that it can be asked for

NETWORK = "model.network."
"""Prefix of the network's parameters in a training checkpoint."""

RECORDED = ("swin-dense", "torch", "torchvision", "lightning", "numpy", "hotcoco", "faster-coco-eval", "pycocotools")
"""Packages whose versions a run folder records."""

REMAINS = ("config.py", "run.json", "metrics.csv", "curves.png", "pictures", "hparams.yaml")
"""What a run leaves that ended before its first checkpoint."""

FIXED = ("task", "score_metric", "model.", "optimizer.no_decay", "optimizer.layer_decay")
"""Settings that a checkpoint decides, by the beginning of their keys."""

FREE = {"train_cfg", "test_cfg", "loss_weight", "drop_path_rate", "activation_checkpointing", "with_cp"}
"""Settings of a model that change no parameter and nothing that one means, by a word of their keys."""


def is_first_process() -> bool:
    """Whether this is the one process, of however many train together, that writes files and talks."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


@contextmanager
def held(folder: Path, by: str, name: str) -> Iterator[None]:
    """Makes a folder, if there is none, and refuses one that another process on this machine fills just now.

    Args:
        folder: Where to.
        by: What fills it: "training".
        name: Of the option that names another folder.

    Raises:
        OutputError: Another one fills it.
    """
    if fcntl is None or not is_first_process():
        yield
        return
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems do not lock folders
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(
                    f"{folder} is being filled by another {by}: wait for its end, or name another folder: "
                    f"{option(name, 'FOLDER')}"
                ) from error
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_UN)  # processes that were forked meanwhile have it open, too
        os.close(opened)


def open_run(run: Path, config: Config) -> None:
    """Writes down what is run, on the first process; what is left of a run that never saved anything is removed."""
    if not is_first_process():
        return
    if (run / "last.ckpt").is_file() or (run / "best.ckpt").is_file():
        raise TrainingError(
            f"{run} holds an earlier run: continue it with {option('resume', run)}, or name another folder: "
            f"{option('run', 'FOLDER')}"
        )
    remains = sorted(run.iterdir()) if run.exists() else []
    for path in remains:
        if path.name not in REMAINS and not path.name.startswith(("events.out.tfevents", ".")):
            raise TrainingError(
                f"{run} holds {path.name}, which is no part of a run: name another folder ({option('run', 'FOLDER')}), "
                "or move it away"
            )
    for path in remains:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run.mkdir(parents=True, exist_ok=True)
    _write_config(run, config)
    facts = {
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in RECORDED}},
        "seed": config.training.seed,
        "command": sys.argv,
        "objects": [
            repr(one) for one in (*config.loggers, *config.callbacks, *config.trainer.values()) if _holds_objects(one)
        ],
        "resumed": [],
    }
    write_json(run / "run.json", facts)


def record_resume(run: Path, config: Config, changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Makes what a run is resumed with its record: its config, and a line of its history; on the first process."""
    if not is_first_process():
        return
    facts = read_facts(run)
    before = facts.get("resumed")
    history = {key: [repr(one) if _holds_objects(one) else one for one in pair] for key, pair in changes.items()}
    facts["resumed"] = [*(before if isinstance(before, list) else ()), {"command": sys.argv, "changes": history}]
    write_json(run / "run.json", facts)
    if changes:
        _write_config(run, config)


def read_facts(run: Path) -> dict[str, Any]:
    """What `run.json` says; nothing where it is missing or damaged."""
    with suppress(OSError, ValueError, RecursionError):
        facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
        return facts if isinstance(facts, dict) else {}
    return {}


def _write_config(run: Path, config: Config) -> None:
    """Writes the config; objects in it, such as callbacks, are not written down, only named in run.json."""
    named: dict[str, Any] = {
        key: tuple(one for one in getattr(config, key) if not _holds_objects(one)) for key in ("loggers", "callbacks")
    }
    named["trainer"] = {name: one for name, one in config.trainer.items() if not _holds_objects(one)}
    with atomic_write(run / "config.py") as unfinished:
        unfinished.write_text(config_text(replace(config, **named)), encoding="utf-8")


def _holds_objects(value: object) -> bool:
    """Whether a config file cannot hold a value."""
    if isinstance(value, (list, tuple)):
        return any(map(_holds_objects, value))
    return not isinstance(value, (str, dict, int, float, type(None)))


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """The content of a `last.ckpt`, tensors left on disk until they are used."""
    if not checkpoint.is_file():
        raise TrainingError(f"{checkpoint} does not exist: there is nothing to resume in {checkpoint.parent}")
    try:
        content: Any = read_tensors(checkpoint)
        epochs = content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        steps, names = content["global_step"], content.get("swin_dense", {}).get("class_names", ())
        if not all(type(count) is int and count >= 0 for count in (epochs, steps)):
            raise ValueError("its numbers of steps and epochs are none")
        if not (isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)):
            raise ValueError("its class names are no texts")
        return {**content, "steps": steps, "epochs": epochs}
    except Exception as error:
        raise TrainingError(f"{checkpoint} is no training checkpoint that can be resumed: {error}") from error


def changed_settings(was: Any, now: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """The settings that differ between two configs (or dicts), by dotted key, old and new."""
    if isinstance(was, dict) and isinstance(now, dict):
        prefix = f"{key}." if key else ""
        found: dict[str, tuple[Any, Any]] = {}
        for name in dict.fromkeys([*was, *now]):
            found |= changed_settings(was.get(name), now.get(name), f"{prefix}{name}")
        return found
    plain = [list(one) if isinstance(one, tuple) else one for one in (was, now)]
    return {} if plain[0] == plain[1] else {key: (was, now)}


def check_resumable(run: Path, config: Config, changes: Mapping[str, tuple[Any, Any]], done: Mapping[str, Any]) -> None:
    """Refuses settings that the checkpoint of a run, of `read_checkpoint`, cannot go on with."""
    refused = [
        f"{key} was {was!r}, is {now!r}"
        for key, (was, now) in changes.items()
        if key.startswith(FIXED)
        and not FREE & set(key.split("."))
        or key == "training.ema_decay"
        and None in (was, now)
    ]
    if refused:
        raise ConfigError(
            f"{run} cannot go on with {'; '.join(refused)}: its checkpoint holds the parameters, the optimizer and the "
            f"best score of the old ones. Leave them as they were, or start a new run with "
            f"{option('weights', run / 'weights.safetensors')}"
        )
    unit, length = config.schedule.unit, config.schedule.length
    if done[unit] > length:
        raise ConfigError(f"schedule.{unit}={length}: {run} has been trained for {done[unit]} {unit} already")


def check_same_classes(run: Path, done: Mapping[str, Any], class_names: Sequence[str], renamed: bool) -> None:
    """Refuses data of other classes than a checkpoint was trained on, unless the user says that they are `renamed`."""
    theirs = done.get("swin_dense", {}).get("class_names")
    if theirs is None or same_classes(theirs, class_names) or (renamed and len(theirs) == len(class_names)):
        return
    pairs = itertools.zip_longest(map(repr, theirs), map(repr, class_names), fillvalue="nothing")
    number, (trained, found) = next((i, pair) for i, pair in enumerate(pairs, start=1) if pair[0] != pair[1])
    ways_out = []
    if len(theirs) == len(class_names):
        ways_out = [f"pass {option('new_classes', False)} if only the names differ"]
    start = f"{option('weights', run / 'weights.safetensors')} and {option('new_classes')}"
    ways_out.append(f"start a new run with {start}")
    raise TrainingError(
        f"{run} was trained on {len(theirs)} classes, the data has {len(class_names)}: class {number} was {trained}, "
        f"is {found} now; {', or '.join(ways_out)}"
    )


def write_weights(run: Path, labels: Mapping[str, Any]) -> None:
    """Writes the best weights (of `best.ckpt`) without optimizer state, with `labels` beside them as JSON texts."""
    metadata = {
        "swin_dense_version": version("swin-dense"),
        **{name: json.dumps(value) for name, value in labels.items()},
    }
    save_weights(best_network(run), run / "weights.safetensors", metadata=metadata)


def best_network(run: Path) -> dict[str, Tensor]:
    """The network's weights in `best.ckpt`, left on disk until they are used."""
    path = run / "best.ckpt"
    try:
        content: Any = read_tensors(path)
        found, source = unwrap({"state_dict": content["state_dict"]}, str(path))
        network = {name.removeprefix(NETWORK): value for name, value in found.items() if name.startswith(NETWORK)}
        if not network:
            raise WeightsError(f"{source} holds no {NETWORK}...")
    except (WeightsError, TypeError, KeyError) as error:
        raise TrainingError(
            f"{path} does not hold the best weights ({error}): restore it, or remove it, and the next validation of a "
            "resumed training counts as the best"
        ) from error
    return network


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file; a reader sees the old file or the whole new one."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(json.dumps(value), encoding="utf-8")
