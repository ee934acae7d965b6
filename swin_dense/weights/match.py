"""Matches renamed tensors with the keys of a model: each key on either side is taken, explained, or an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from swin_dense.errors import WeightsError
from swin_dense.weights.architecture import other_variant
from swin_dense.weights.formats import Converted, root_of
from swin_dense.weights.report import Note
from swin_dense.weights.resize import resize_bias_table, resize_position_embedding
from swin_dense.weights.roles import BESIDE, BUFFER, OTHER_TASKS, OUTPUT_NORM, SETTING
from swin_dense.weights.selection import IGNORED, check_selection, is_named
from swin_dense.weights.tensors import dtype_name, is_finite, listed


class Incoming(NamedTuple):
    """A checkpoint whose tensors have the names that they would have in the model.

    Attributes:
        format: Name of the format that it came in.
        prefix: What stands before the backbone's names in the model; None if the model has no backbone.
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
        return self.prefix is not None and all(self.first_word(name) in BESIDE for name in self.around)

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

    def raise_if_any(self, incoming: Incoming, model: Mapping[str, Tensor]) -> None:
        kinds = (
            (self.non_finite, "tensors hold NaN or infinity"),
            (self.unlike, "tensors are unlike the model's"),
            (self.unexpected, "keys of the checkpoint have no place in the model"),
            (self.absent, "parameters of the model are not in the checkpoint"),
        )
        lines = [f"{len(names)} {title}: {listed(names)}" for names, title in kinds if names]
        if lines and (variant := _other_variant(incoming, model)) is not None:
            lines.append(f"they look like {variant}, and the model's backbone is another one")
        if self.other_classes:
            modules = dict.fromkeys(name.rpartition(".")[0] for name in self.other_classes)
            entries = ", ".join(f'"{module}"' for module in modules)
            lines.append(f"if it was trained on other classes, start these layers anew: ignore=[{entries}]")
        if lines:
            raise WeightsError("\n  - ".join([f"the weights (format: {incoming.format}) do not fit the model", *lines]))


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
            if is_named(ignore, name, *item.keys):
                matched.skipped.extend(Note(key, IGNORED) for key in item.keys)
            elif name in model and incoming.is_inside(name) == inside:
                met.add(name)
                _take(name, item, model[name], inside, matched, problems)
            elif (reason := _why_skipped(name, inside, incoming, model)) is not None:
                matched.skipped.extend(Note(key, reason) for key in item.keys)
            else:
                problems.unexpected.extend(item.keys)
    for key in incoming.unmatched:
        if is_named(ignore, key):
            matched.skipped.append(Note(key, IGNORED))
        else:
            problems.unexpected.append(key)
    for name in model:
        if name in met:
            continue
        if (reason := _why_missing(name, incoming, allow_missing, ignore)) is not None:
            matched.missing.append(Note(name, reason))
        else:
            problems.absent.append(name)
    problems.raise_if_any(incoming, model)
    return matched


def _take(name: str, item: Converted, current: Tensor, inside: bool, matched: Matched, problems: _Problems) -> None:
    """Enters one tensor that has a place in the model, resized where the window or the image is another."""
    tensor, changes = item.tensor, [item.change] if item.change else []
    try:
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
    if not is_finite(tensor):
        problems.non_finite.extend(item.keys)
        return
    matched.values[name] = fitted
    if fitted.dtype != current.dtype:
        changes.append(f"cast from {dtype_name(fitted)} to {dtype_name(current)}")
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
        if incoming.first_word(name) in BESIDE:
            return OTHER_TASKS[incoming.first_word(name)]
        if name.endswith(SETTING):
            return "a setting, which the config states"
        model_is_backbone = all(incoming.is_inside(key) for key in model)
        return "around the backbone, and the model is a backbone alone" if model_is_backbone else None
    official = name.removeprefix(incoming.prefix)
    if BUFFER.fullmatch(official):
        return "computed anew"
    if OUTPUT_NORM.fullmatch(official):
        return "output norm of a stage that the model does not put out"
    return OTHER_TASKS.get(official.split(".")[0])


def _why_missing(name: str, incoming: Incoming, allow_missing: Sequence[str], ignore: Sequence[str]) -> str | None:
    """The reason for a parameter of the model to keep its initial values; None if there is none."""
    if is_named(ignore, name):
        return IGNORED
    if is_named(allow_missing, name):
        return "named in allow_missing"
    if incoming.prefix is None:
        return None
    if not incoming.is_inside(name):
        return "around the backbone, and the checkpoint is a backbone alone" if incoming.is_backbone() else None
    norm = OUTPUT_NORM.fullmatch(name.removeprefix(incoming.prefix))
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
        check_selection(option, names, valid)


def _other_variant(incoming: Incoming, model: Mapping[str, Tensor]) -> str | None:
    """The published backbone that the checkpoint holds, where the model's is another one."""
    if incoming.prefix is None:
        return None
    theirs = {name.removeprefix(incoming.prefix): item.tensor.shape for name, item in incoming.backbone.items()}
    ours = {name.removeprefix(incoming.prefix): model[name].shape for name in model if incoming.is_inside(name)}
    return other_variant(theirs, ours)


def _describe(tensor: Tensor) -> str:
    return f"{dtype_name(tensor)} {tuple(tensor.shape)}"


def _positions(tensor: Tensor) -> int:
    """Positions of a bias table (positions, heads) or of an embedding (1, C, H, W)."""
    return tensor.shape[0] if tensor.ndim == 2 else tensor.shape[2:].numel()
