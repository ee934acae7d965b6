"""Loads weights of any known format into a model, and accounts for every tensor on both sides.

A checkpoint and a model are each a backbone and, perhaps, what surrounds it (neck and heads). The names of both go
through the tables of the format; after that they must be the same on both sides: each key is taken, explained, or an
error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from swin_dense.backbones.swin import SwinTransformer
from swin_dense.errors import WeightsError, option
from swin_dense.weights.files import read_checkpoint, unwrap
from swin_dense.weights.layout import root_of, take_apart
from swin_dense.weights.names import (
    BESIDE,
    BUFFER,
    IGNORED,
    OTHER_TASKS,
    OUTPUT_NORM,
    SETTING,
    TEMPORAL,
    check_selection,
    foreign_modules,
    is_finite,
    is_named,
    listed,
    own_names,
    selection,
    without_inner_wrappers,
    without_wrappers,
)
from swin_dense.weights.report import LoadReport, Note
from swin_dense.weights.sizes import fit_channels, fit_positions, other_variant
from swin_dense.weights.tables import Converted

_BACKBONE = re.compile(r"((?:.*?\.)?backbone\.).*")


def load_weights(
    model: nn.Module,
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Tensor],
    format: str = "auto",
    *,
    allow_missing: Iterable[str] = (),
    ignore: Iterable[str] = (),
    ema: bool = False,
) -> LoadReport:
    """Loads weights of any known format; the model stays as it was if anything does not fit.

    What the formats themselves explain is left out, with the reason in the report: a classifier's head and last norm,
    output norms that one side lacks, buffers that are recomputed, and what surrounds the backbone where one side is
    a backbone alone. Relative position tables of another window size and absolute position embeddings of another
    image size are resized, and patch embeddings of RGB made to fit images of other channels. Everything else must match
    by name and shape. What trainers and compilers put before the names (`module.`, `model.network.`, `_orig_mod.`, ...)
    does not matter; of the copies that self-supervised training holds (`teacher.` and `student.`, `encoder_q.` and
    `encoder_k.`, ...) one is taken.

    Args:
        model: A `SwinTransformer` or `SwinClassifier`, or a module that contains one, such as a detector. Any other
            module takes weights under its own names; if it has a `backbone`, also those of a backbone alone, such as
            torchvision's ResNets.
        path_or_state_dict: A checkpoint file, or a state dict, also inside the usual wrappers. Where an average of the
            weights stands beside them under `state_dict_ema` or `model_ema`, the average is taken.
        format: A name in `swin_dense.weights.FORMATS`, or "auto" to detect it by the key names.
        allow_missing: Parameters of the model that may keep their initial values: their names, or those of modules
            around them.
        ignore: The same, and not to be taken from the checkpoint; for example a head of another class count.
        ema: Take the averages that mmcv's EMA hook keeps among the weights as `ema_backbone_...`; they are skipped
            otherwise.

    Returns:
        What became of every tensor.

    Raises:
        WeightsError: The file cannot be read safely, its format is unknown, or the weights do not fit the model.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from swin_dense.backbones import SwinTransformer
        >>> from swin_dense.weights import load_weights, save_weights
        >>> sizes = dict(embed_dim=8, depths=(1, 1), num_heads=(1, 2), out_indices=(0, 1))
        >>> trained, model = SwinTransformer(**sizes), SwinTransformer(**sizes)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(trained, f"{folder}/weights.safetensors")
        ...     report = load_weights(model, f"{folder}/weights.safetensors")
        >>> report.format, len(report.loaded) == len(model.state_dict()), report.skipped
        ('swin-dense', True, ())
        >>> torch.equal(model.patch_embed.proj.weight, trained.patch_embed.proj.weight)
        True
    """
    may_lack, unwanted = selection("allow_missing", allow_missing), selection("ignore", ignore)
    content: object = path_or_state_dict
    source = "state dict"
    if not isinstance(path_or_state_dict, Mapping):
        content, source = read_checkpoint(Path(path_or_state_dict)), os.fspath(path_or_state_dict)
    try:
        tensors, source = unwrap(content, source)
        prefix, names = _swin_prefix(model), model.state_dict()
        if prefix is None:
            incoming = _under_own_names(tensors, names, format, ema)
        else:
            incoming = _inflated(_read_as(tensors, prefix, names, format, ema), model)
        matched = _match(incoming, names, may_lack, unwanted)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error
    # Every key is there: those that keep their initial values are handed back as they are.
    model.load_state_dict({**names, **matched.values}, strict=True)
    return LoadReport(
        source=source,
        format=incoming.format,
        loaded=tuple(matched.loaded),
        converted=tuple(matched.converted),
        interpolated=tuple(matched.interpolated),
        skipped=(*incoming.skipped, *_with_windows(matched.skipped, incoming, model)),
        missing=tuple(matched.missing),
    )


class _Incoming(NamedTuple):
    """A checkpoint whose tensors have the names that they would have in the model."""

    format: str  # name of the format that it came in
    prefix: str | None  # before the backbone's names in the model; None if the model has no backbone
    backbone: Mapping[str, Converted]
    around: Mapping[str, Converted]
    unmatched: Sequence[str]  # the checkpoint's keys in the place of the backbone that its format does not have
    skipped: tuple[Note, ...]  # the checkpoint's keys that belong to another copy of the model

    def is_inside(self, name: str) -> bool:
        """Whether a name of the model belongs to the backbone."""
        return self.prefix is not None and name.startswith(self.prefix)

    def is_backbone(self) -> bool:
        """Whether nothing surrounds the backbone but the head of a task that is not dense."""
        return self.prefix is not None and all(self.first_word(name) in BESIDE for name in self.around)

    def first_word(self, name: str) -> str:
        """The first word of a name around the backbone, such as `neck` or `head`."""
        return name.removeprefix(root_of(self.prefix or "")).split(".")[0]


def _swin_prefix(model: nn.Module) -> str | None:
    """What stands before the names of the one Swin backbone in a model; None if it has none."""
    names = [name for name, module in model.named_modules() if isinstance(module, SwinTransformer)]
    if len(names) > 1:
        raise WeightsError(f"the model has several Swin backbones ({', '.join(names)}); load into each by itself")
    return None if not names else f"{names[0]}." if names[0] else ""


def _read_as(
    tensors: Mapping[str, Tensor], prefix: str, model: Iterable[str], format_name: str, ema: bool
) -> _Incoming:
    """Gives the tensors of a checkpoint the names that they have in a model with a Swin backbone."""
    named = without_wrappers(tensors, ema=ema)
    try:
        parts = take_apart(named.tensors, format_name, named.keys)
    except WeightsError as error:
        raise WeightsError(f"{error}\n  - the model's backbone is a Swin, which takes no other weights") from error
    wrappers, full = own_names(model)
    bare_prefix = without_inner_wrappers(prefix).removeprefix(wrappers)
    bare_root = root_of(bare_prefix)
    return _Incoming(
        format=parts.layout.format.name,
        prefix=prefix,
        backbone={full.get(bare_prefix + name, prefix + name): item for name, item in parts.backbone.items()},
        around={full.get(bare_root + name, root_of(prefix) + name): item for name, item in parts.around.items()},
        unmatched=parts.unmatched,
        skipped=named.skipped,
    )


def _inflated(incoming: _Incoming, model: nn.Module) -> _Incoming:
    """Fits weights of images, or of other windows, to a model of videos; what are no videos stays as it is."""
    assert incoming.prefix is not None
    backbone: Any = model.get_submodule(incoming.prefix.removesuffix("."))
    if len(backbone.window) == 2:
        return incoming
    from swin_dense.weights.inflation import fitted_to_video  # which models of images need not read

    bare = {name.removeprefix(incoming.prefix): item for name, item in incoming.backbone.items()}
    fitted = fitted_to_video(bare, backbone.patch, backbone.window, backbone.temporal_window)
    return incoming._replace(backbone={incoming.prefix + name: item for name, item in fitted.items()})


def _with_windows(skipped: Sequence[Note], incoming: _Incoming, model: nn.Module) -> list[Note]:
    """Says which position biases of version 2, which have no size, are computed for other windows than they were."""
    if incoming.prefix is None:
        return list(skipped)
    backbone: Any = model.get_submodule(incoming.prefix.removesuffix("."))
    reasons: dict[str, str] = {}
    for name in incoming.backbone:
        index = incoming.backbone.get(name.replace(".logit_scale", ".relative_position_index"))
        if name.endswith(".logit_scale") and index and index.tensor.shape[-1] != prod(backbone.window):
            change = f"windows of {index.tensor.shape[-1]} tokens have {prod(backbone.window)} in the model"
            reasons |= dict.fromkeys(index.keys, f"recomputed: {change}")
    return [Note(note.name, reasons.get(note.name, note.reason)) for note in skipped]


def _under_own_names(tensors: Mapping[str, Tensor], model: Iterable[str], format_name: str, ema: bool) -> _Incoming:
    """Leaves the names of a checkpoint as they are, but for wrappers and for the prefix that backbones alone lack."""
    if format_name != "auto":
        raise WeightsError(f"format '{format_name}' is for a Swin backbone, and the model has none")
    _, full = own_names(model)
    named = without_wrappers(tensors, ema=ema, known=full)
    places = {name: name for name in named.tensors}  # by name in the checkpoint, in the model without wrappers
    found = next((name for name in full if _BACKBONE.match(name)), None)
    if found is not None:
        bare_prefix, prefix = (_BACKBONE.sub(r"\1", name) for name in (found, full[found]))
        if not any(name.startswith(bare_prefix) for name in places):  # the checkpoint is a backbone alone
            places = {name: name if name.split(".")[0] in BESIDE else bare_prefix + name for name in places}
        inside = {name for name, place in places.items() if place.startswith(bare_prefix)}
    elif any(name.startswith("backbone.") for name in places):  # the model is a backbone alone
        prefix = ""
        inside = {name for name in places if name.startswith("backbone.")}
        places |= {name: name.removeprefix("backbone.") for name in inside}
    else:
        prefix, inside = None, set()
    items = {name: Converted(tensor, (named.keys[name],)) for name, tensor in named.tensors.items()}
    return _Incoming(
        format="same names",
        prefix=prefix,
        backbone={full.get(places[name], places[name]): item for name, item in items.items() if name in inside},
        around={full.get(places[name], places[name]): item for name, item in items.items() if name not in inside},
        unmatched=(),
        skipped=named.skipped,
    )


@dataclass
class _Matched:
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

    def raise_if_any(self, incoming: _Incoming, model: Mapping[str, Tensor]) -> None:
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
            lines.append(
                f"if it was trained on other classes, re-initialise these layers: {option('ignore', list(modules))}"
            )
        if len(lines) == 1 and (foreign := foreign_modules(self.unexpected, model)) and len(str(foreign)) < 300:
            lines.append(f"to leave out what this model does not have: {option('ignore', foreign)}")
        if lines:
            raise WeightsError("\n  - ".join([f"the weights (format: {incoming.format}) do not fit the model", *lines]))


def _match(
    incoming: _Incoming, model: Mapping[str, Tensor], allow_missing: Sequence[str], ignore: Sequence[str]
) -> _Matched:
    """Decides about every key on both sides; the error lists everything that does not fit."""
    keys = [*model, *incoming.unmatched, *(note.name for note in incoming.skipped)]
    for part in (incoming.backbone, incoming.around):
        keys += [key for name, item in part.items() for key in (name, *item.keys)]
    check_selection("allow_missing", allow_missing, model)
    check_selection("ignore", ignore, keys)
    matched, problems = _Matched(), _Problems()
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


def _take(name: str, item: Converted, current: Tensor, inside: bool, matched: _Matched, problems: _Problems) -> None:
    """Enters one tensor that has a place in the model, resized where the window or the image is another."""
    tensor, change = fit_channels(name, item.tensor, current) if inside else (item.tensor, "")
    changes = [one for one in (item.change, change) if one]
    try:
        fitted = fit_positions(name, tensor, current) if inside else tensor
    except WeightsError as error:
        problems.unlike.append(f"{name}: {error}")
        return
    if fitted.shape != current.shape or fitted.is_floating_point() != current.is_floating_point():
        problems.unlike.append(
            f"{name} is {_describe(item.tensor)} in the checkpoint, {_describe(current)} in the model"
        )
        by_class = not inside or name.split(".")[-2:-1] == ["head"]
        if by_class and fitted.shape[:1] != current.shape[:1] and fitted.shape[1:] == current.shape[1:]:
            problems.other_classes.append(name)
        return
    if not is_finite(tensor):
        problems.non_finite.extend(item.keys)
        return
    matched.values[name] = fitted
    if fitted.dtype != current.dtype:
        changes.append(f"cast from {_dtype_name(fitted)} to {_dtype_name(current)}")
    if fitted is not tensor:
        changes.append(f"resized (bicubic) from {_positions(tensor)} to {_positions(fitted)} positions")
    if item.resized or fitted is not tensor:
        matched.interpolated.append(Note(name, ", ".join(changes)))
    elif changes:
        matched.converted.append(Note(name, ", ".join(changes)))
    else:
        matched.loaded.append(name)


def _why_skipped(name: str, inside: bool, incoming: _Incoming, model: Mapping[str, Tensor]) -> str | None:
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
        return "recomputed"
    if OUTPUT_NORM.fullmatch(official):
        return "output norm of a stage that the model does not put out"
    return OTHER_TASKS.get(official.split(".")[0])


def _why_missing(name: str, incoming: _Incoming, allow_missing: Sequence[str], ignore: Sequence[str]) -> str | None:
    """The reason for a parameter of the model to keep its initial values; None if there is none."""
    if is_named(ignore, name):
        return IGNORED
    if is_named(allow_missing, name):
        return "named in allow_missing"
    if incoming.prefix is None:
        return None
    if not incoming.is_inside(name):
        return "around the backbone, and the checkpoint is a backbone alone" if incoming.is_backbone() else None
    if TEMPORAL in name and not any(TEMPORAL in key for key in incoming.backbone):
        return "attention over time alone, which the checkpoint lacks"
    norm = OUTPUT_NORM.fullmatch(name.removeprefix(incoming.prefix))
    if norm is None or any(f"{incoming.prefix}{norm[1]}.{leaf}" in incoming.backbone for leaf in ("weight", "bias")):
        return None
    return "output norm that the checkpoint lacks"


def _other_variant(incoming: _Incoming, model: Mapping[str, Tensor]) -> str | None:
    """The published backbone that the checkpoint holds, where the model's is another one."""
    if incoming.prefix is None:
        return None
    theirs = {name.removeprefix(incoming.prefix): item.tensor.shape for name, item in incoming.backbone.items()}
    ours = {name.removeprefix(incoming.prefix): model[name].shape for name in model if incoming.is_inside(name)}
    return other_variant(theirs, ours)


def _describe(tensor: Tensor) -> str:
    return f"{_dtype_name(tensor)} {tuple(tensor.shape)}"


def _positions(tensor: Tensor) -> int:
    """Positions of a bias table (positions, heads) or of an embedding (1, C, H, W)."""
    return tensor.shape[0] if tensor.ndim == 2 else tensor.shape[2:].numel()


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
