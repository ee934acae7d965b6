"""What the names of tensors say: wrappers around a model, copies of it, what a tensor is for, whom a caller means."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from swin_dense.errors import WeightsError
from swin_dense.weights.report import Note

BUFFER = re.compile(r"layers\.\d+\.blocks\.\d+\.(attn\.relative_(position_index|coords_table)|attn_mask)")
OUTPUT_NORM = re.compile(r"(norm\d+)\.(weight|bias)")

TEMPORAL = ".temporal."
"""In the names of what attends over time alone, in models of videos whose attention is split or factorized."""

SETTING = "bbox_head.mask_head.head.sizes_of_interest"
"""A buffer of Mask RepPoints V2 that holds what its config says."""

OTHER_TASKS = {
    "head": "head of a classifier",
    "classifier": "head of a classifier",
    "fc": "head of a classifier",
    "norm": "last norm of a classifier",
    "decoder": "decoder of masked pre-training",
    "mask_token": "mask token of masked pre-training",
}
"""What other tasks put on a backbone, by the first word of its name."""

BESIDE = ("head", "classifier", "fc", "decoder")
"""Those that may also stand beside the backbone."""

IGNORED = "named in ignore"
"""Why a tensor is not taken that the caller does not want."""

# What torch.compile, FSDP and activation checkpointing put before the names of the module that they wrap.
_INSIDE = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# What trainers and DistributedDataParallel put before all names.
_WRAPPERS = {"module", "model", "network", "net"}
# Self-supervised training holds the model several times; the first of these is the one that its authors evaluate.
_COPIES = (
    *("teacher", "student", "encoder_q", "base_encoder", "online_encoder", "encoder"),
    *("encoder_k", "momentum_encoder", "target_encoder"),
)
_PRETRAINING = re.compile(r"(?:queue|center|predictor|projector|prototypes)\w*")


class Named(NamedTuple):
    """A checkpoint without the wrappers around its model."""

    tensors: dict[str, Tensor]  # by name without wrappers
    keys: dict[str, str]  # the key in the checkpoint of each name
    skipped: tuple[Note, ...]  # keys of other copies of the model


def without_wrappers(tensors: Mapping[str, Tensor], *, ema: bool = False, known: Collection[str] = ()) -> Named:
    """Strips what stands before the names of a model (`module.`, `model.network.`, `_orig_mod.`, `teacher.`, ...).

    With `ema`, the averages that mmcv's EMA hook keeps as `ema_...` beside the weights are taken instead of these. No
    prefix is stripped once the checkpoint has one of the `known` names of the model.
    """
    skipped: list[Note] = []
    keys = _settle_averages({key: key for key in tensors}, ema, skipped)
    keys = _renamed({name: without_inner_wrappers(name) for name in keys}, keys)
    while not any(name in known for name in keys) and (word := _outermost(keys)):
        for name in [name for name in keys if not name.startswith(f"{word}.")]:
            other = name.partition(".")[0]
            reason = f"another copy of the model; {word} is taken" if other in _COPIES else "of pre-training alone"
            skipped.append(Note(keys.pop(name), reason))
        keys = _renamed({name: name.removeprefix(f"{word}.") for name in keys}, keys)
    return Named({name: tensors[key] for name, key in keys.items()}, keys, tuple(skipped))


def own_names(names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """The prefix that wrappers put before a model's names, and its names without any, with the full name of each."""
    full = {name: name for name in names}
    full = _renamed({name: without_inner_wrappers(name) for name in full}, full)
    prefix = ""
    while (word := _outermost(full)) in _WRAPPERS:
        prefix += f"{word}."
        full = _renamed({name: name.removeprefix(f"{word}.") for name in full}, full)
    return prefix, full


def without_inner_wrappers(name: str) -> str:
    """A name without `_orig_mod.` and the like, wherever they stand in it."""
    return _INSIDE.sub("", name)


def _renamed(new_names: Mapping[str, str], keys: Mapping[str, str]) -> dict[str, str]:
    result: dict[str, str] = {}
    for name, new in new_names.items():
        if new in result:
            raise WeightsError(f"{result[new]} and {keys[name]} both stand for {new}")
        result[new] = keys[name]
    return result


def _outermost(names: Iterable[str]) -> str:
    """The word before all names that is no part of the model's own; empty if there is none."""
    words = {name.partition(".")[0] if "." in name else "" for name in names}
    if len(words) == 1 and words <= _WRAPPERS:
        return words.pop()
    copies = [word for word in _COPIES if word in words]
    bare = {name for name in names if "." not in name}
    others = {*(words - {*copies, ""}), *bare}
    return copies[0] if copies and all(_PRETRAINING.fullmatch(word) for word in others) else ""


def _settle_averages(keys: Mapping[str, str], ema: bool, skipped: list[Note]) -> dict[str, str]:
    """Leaves one of each weight and its average, which mmcv's EMA hook calls `ema_` and the name with underscores."""
    roots = {name[: name.rfind(".") + 1] for name in keys if name.rpartition(".")[2].startswith("ema_")}
    pairs: dict[str, list[str]] = {}
    for name in keys if roots else ():
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", name))):
            twin = f"{name[:start]}ema_{name[start:].replace('.', '_')}"
            if name[:start] in roots and twin in keys:
                pairs.setdefault(twin, []).append(name)
    if ema and not pairs:
        raise WeightsError("there are no averages (ema_...) beside the weights; leave ema out")
    settled = dict(keys)
    for twin, names in pairs.items():
        average = settled.pop(twin)
        if not ema:
            skipped.append(
                Note(average, "average of mmcv's EMA hook; the option ema takes these instead of the weights")
            )
            continue
        if len(names) > 1:
            raise WeightsError(f"{average} may be the average of {' or '.join(names)}")
        skipped.append(Note(settled[names[0]], "its average is taken"))
        settled[names[0]] = average
    return settled


def foreign_modules(keys: Iterable[str], names: Iterable[str]) -> list[str]:
    """The modules, such as a mask head, that a model with these names lacks, where all keys lie in such; else none."""
    present = {name[:end] for name in names for end, letter in enumerate(name) if letter == "."}
    found: dict[str, None] = {}
    for key in keys:
        above = (key[:end] for end, letter in enumerate(key) if letter == ".")
        if (module := next((one for one in above if one not in present), None)) is None:
            return []
        found[module] = None
    return list(found)


def selection(option: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names that an argument called `option` was given."""
    if isinstance(names, str):
        raise WeightsError(f'{option} takes several names; write ("{names}",)')
    return tuple(names)


def check_selection(option: str, names: Iterable[str], keys: Collection[str]) -> None:
    """Refuses names that are neither a tensor nor a module around one."""
    for name in names:
        if not is_named([name], *keys):
            raise WeightsError(f'{option} names "{name}", but there is no parameter or module of this name')


def is_named(names: Iterable[str], *keys: str) -> bool:
    """Whether one of the keys, or a module around it, is named."""
    return any(key == name or key.startswith(f"{name}.") for name in names for key in keys)


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    return not tensor.is_floating_point() or bool(tensor.float().isfinite().all())


def listed(names: Sequence[str], shown: int = 4) -> str:
    """The first names, shortened, and how many more there are."""
    return "; ".join(map(shortened, names[:shown])) + (f"; and {len(names) - shown} more" if len(names) > shown else "")


def shortened(text: str, length: int = 200) -> str:
    """The text, or its beginning where it is longer than any name of a real model."""
    return text if len(text) <= length else f"{text[:length]}... ({len(text):,} characters)"
