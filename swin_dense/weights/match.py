"""Matches renamed tensors with the keys of a model: each key on either side is taken, explained, or an error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from swin_dense.errors import WeightsError
from swin_dense.weights.formats import Converted, root_of
from swin_dense.weights.report import Note
from swin_dense.weights.resize import resize_bias_table, resize_position_embedding, tokens_to_map

_OUTPUT_NORM = re.compile(r"(norm\d+)\.(weight|bias)")
_BUFFER = re.compile(r"layers\.\d+\.blocks\.\d+\.(attn\.relative_position_index|attn_mask)")

_IGNORED = "named in ignore"

_OTHER_TASKS = {
    "head": "head of a classifier",
    "classifier": "head of a classifier",
    "norm": "last norm of a classifier",
    "decoder": "decoder of masked pre-training",
    "mask_token": "mask token of masked pre-training",
}
"""What other tasks put on a backbone, by the first word of its name."""

_BESIDE = ("head", "classifier", "decoder")
"""Those that may also stand beside the backbone."""


class Incoming(NamedTuple):
    """A checkpoint whose tensors have the names that they would have in the model.

    Attributes:
        format: Name of the format that it came in.
        prefix: What stands before the backbone's names in the model; None if the model has no Swin backbone.
        backbone: Tensors of the backbone.
        around: Tensors of what surrounds the backbone.
        unmatched: The checkpoint's keys in the place of the backbone that the format's table does not have.
    """

    format: str
    prefix: str | None
    backbone: Mapping[str, Converted]
    around: Mapping[str, Converted]
    unmatched: Sequence[str]

    def is_inside(self, name: str) -> bool:
        """Whether a name of the model belongs to the backbone."""
        return self.prefix is not None and name.startswith(self.prefix)

    def is_backbone(self) -> bool:
        """Whether nothing surrounds the backbone but the head of a task that is not dense."""
        return self.prefix is not None and all(self.first_word(name) in _BESIDE for name in self.around)

    def first_word(self, name: str) -> str:
        """The first word of a name around the backbone, such as `neck` or `head`."""
        return name.removeprefix(root_of(self.prefix or "")).split(".")[0]


@dataclass
class Matched:
    """The new values by name in the model, and the entries of a `LoadReport`."""

    values: dict[str, Tensor] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    converted: list[Note] = field(default_factory=list)
    interpolated: list[Note] = field(default_factory=list)
    skipped: list[Note] = field(default_factory=list)
    missing: list[Note] = field(default_factory=list)


@dataclass
class _Problems:
    """What does not fit, by kind."""

    non_finite: list[str] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    other_classes: list[str] = field(default_factory=list)

    def raise_if_any(self, format_name: str) -> None:
        kinds = (
            (self.non_finite, "tensors hold NaN or infinity"),
            (self.unlike, "tensors are unlike the model's"),
            (self.unexpected, "keys of the checkpoint have no place in the model"),
            (self.absent, "parameters of the model are not in the checkpoint"),
        )
        lines = [f"{len(names)} {title}: {_listed(names)}" for names, title in kinds if names]
        if self.other_classes:
            modules = dict.fromkeys(name.rpartition(".")[0] for name in self.other_classes)
            entries = ", ".join(f'"{module}"' for module in modules)
            lines.append(f"if it was trained on other classes, start these layers anew: ignore=[{entries}]")
        if lines:
            raise WeightsError("\n  - ".join([f"the weights (format: {format_name}) do not fit the model", *lines]))


def match(
    incoming: Incoming, model: Mapping[str, Tensor], allow_missing: Sequence[str], ignore: Sequence[str]
) -> Matched:
    """Decides about every key on both sides.

    Args:
        incoming: The checkpoint, with the model's names.
        model: The state dict of the model.
        allow_missing: Names in the model, of parameters or of modules around them, that the checkpoint may lack.
        ignore: Names in the model or in the checkpoint that are not to be loaded.

    Returns:
        The values to load and the account of all keys.

    Raises:
        WeightsError: Something does not fit; lists everything that does not.
    """
    _check_names(incoming, model, allow_missing, ignore)
    matched, problems = Matched(), _Problems()
    met = set()
    for part, inside in ((incoming.backbone, True), (incoming.around, False)):
        for name, item in part.items():
            if _is_named(ignore, name, *item.keys):
                matched.skipped.extend(Note(key, _IGNORED) for key in item.keys)
            elif name in model and incoming.is_inside(name) == inside:
                met.add(name)
                _take(name, item, model[name], inside, matched, problems)
            elif (reason := _why_skipped(name, inside, incoming, model)) is not None:
                matched.skipped.extend(Note(key, reason) for key in item.keys)
            else:
                problems.unexpected.extend(item.keys)
    for key in incoming.unmatched:
        if _is_named(ignore, key):
            matched.skipped.append(Note(key, _IGNORED))
        else:
            problems.unexpected.append(key)
    for name in model:
        if name in met:
            continue
        if (reason := _why_missing(name, incoming, allow_missing, ignore)) is not None:
            matched.missing.append(Note(name, reason))
        else:
            problems.absent.append(name)
    problems.raise_if_any(incoming.format)
    return matched


def _take(name: str, item: Converted, current: Tensor, inside: bool, matched: Matched, problems: _Problems) -> None:
    """Enters one tensor that has a place in the model, resized where the window or the image is another."""
    tensor, changes = item.tensor, [item.change] if item.change else []
    if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
        problems.non_finite.extend(item.keys)
        return
    try:
        if inside and name.endswith("absolute_pos_embed") and tensor.ndim == 3:
            tensor = tokens_to_map(tensor, current.shape[2:])
            changes.append("tokens laid out as a map")
        fitted = _resize(name, tensor, current) if inside else tensor
    except WeightsError as error:
        problems.unlike.append(f"{name}: {error}")
        return
    if fitted.shape != current.shape or fitted.is_floating_point() != current.is_floating_point():
        problems.unlike.append(
            f"{name} is {_describe(item.tensor)} in the checkpoint, {_describe(current)} in the model"
        )
        if not inside and fitted.shape[:1] != current.shape[:1] and fitted.shape[1:] == current.shape[1:]:
            problems.other_classes.append(name)
        return
    matched.values[name] = fitted
    if fitted.dtype != current.dtype:
        changes.append(f"cast from {_dtype(fitted)} to {_dtype(current)}")
    if fitted is not tensor:
        changes.append(f"resized (bicubic) from {_positions(tensor)} to {_positions(fitted)} positions")
        matched.interpolated.append(Note(name, ", ".join(changes)))
    elif changes:
        matched.converted.append(Note(name, ", ".join(changes)))
    else:
        matched.loaded.append(name)


def _resize(name: str, tensor: Tensor, current: Tensor) -> Tensor:
    """Resizes what depends on window or image; anything else, and what does not fit otherwise, comes back as it is."""
    if name.endswith("relative_position_bias_table") and tensor.ndim == 2 and tensor.shape[1] == current.shape[1]:
        return resize_bias_table(tensor, current.shape[0])
    if name.endswith("absolute_pos_embed") and tensor.ndim == 4 and tensor.shape[:2] == current.shape[:2]:
        return resize_position_embedding(tensor, current.shape[2:])
    return tensor


def _why_skipped(name: str, inside: bool, incoming: Incoming, model: Mapping[str, Tensor]) -> str | None:
    """The reason to leave out a tensor that has no place in the model; None if there is none."""
    if incoming.prefix is None:
        return None
    if not inside:
        if incoming.first_word(name) in _BESIDE:
            return _OTHER_TASKS[incoming.first_word(name)]
        model_is_backbone = all(incoming.is_inside(key) for key in model)
        return "around the backbone, and the model is a backbone alone" if model_is_backbone else None
    official = name.removeprefix(incoming.prefix)
    if _BUFFER.fullmatch(official):
        return "computed anew"
    if _OUTPUT_NORM.fullmatch(official):
        return "output norm of a stage that the model does not put out"
    return _OTHER_TASKS.get(official.split(".")[0])


def _why_missing(name: str, incoming: Incoming, allow_missing: Sequence[str], ignore: Sequence[str]) -> str | None:
    """The reason for a parameter of the model to keep its initial values; None if there is none."""
    if _is_named(ignore, name):
        return _IGNORED
    if _is_named(allow_missing, name):
        return "named in allow_missing"
    if incoming.prefix is None:
        return None
    if not incoming.is_inside(name):
        return "around the backbone, and the checkpoint is a backbone alone" if incoming.is_backbone() else None
    norm = _OUTPUT_NORM.fullmatch(name.removeprefix(incoming.prefix))
    if norm is None or any(f"{incoming.prefix}{norm[1]}.{leaf}" in incoming.backbone for leaf in ("weight", "bias")):
        return None
    return "output norm that the checkpoint lacks"


def _check_names(
    incoming: Incoming, model: Mapping[str, Tensor], allow_missing: Sequence[str], ignore: Sequence[str]
) -> None:
    """A name that nothing has is a mistake in the call."""
    keys = [*model, *incoming.unmatched]
    for part in (incoming.backbone, incoming.around):
        keys += [key for name, item in part.items() for key in (name, *item.keys)]
    for option, names, valid in (("allow_missing", allow_missing, list(model)), ("ignore", ignore, keys)):
        for name in names:
            if not _is_named([name], *valid):
                raise WeightsError(f'{option} names "{name}", but no parameter and no module around one is called so')


def _is_named(names: Sequence[str], *keys: str) -> bool:
    """Whether one of the keys, or a module around it, is named."""
    return any(key == name or key.startswith(f"{name}.") for name in names for key in keys)


def _listed(names: Sequence[str], shown: int = 4) -> str:
    return "; ".join(names[:shown]) + (f"; and {len(names) - shown} more" if len(names) > shown else "")


def _describe(tensor: Tensor) -> str:
    return f"{_dtype(tensor)} {tuple(tensor.shape)}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _positions(tensor: Tensor) -> int:
    """Positions of a bias table (positions, heads) or of an embedding (1, C, H, W)."""
    return tensor.shape[0] if tensor.ndim == 2 else tensor.shape[2:].numel()
