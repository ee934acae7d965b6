"""Loads weights of any known format into a model, and accounts for every tensor on both sides.

A checkpoint and a model are each a backbone and, perhaps, what surrounds it (neck and heads). The names of both go
through the tables of the format; after that they must be the same on both sides.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from swin_dense.backbones.swin import SwinTransformer
from swin_dense.errors import WeightsError
from swin_dense.weights.files import read_checkpoint, unwrap
from swin_dense.weights.formats import Converted, root_of
from swin_dense.weights.match import Incoming, match
from swin_dense.weights.parts import take_apart
from swin_dense.weights.report import LoadReport
from swin_dense.weights.roles import BESIDE
from swin_dense.weights.selection import selection


def load_weights(
    model: nn.Module,
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Tensor],
    format: str = "auto",
    *,
    allow_missing: Iterable[str] = (),
    ignore: Iterable[str] = (),
) -> LoadReport:
    """Loads weights of any known format; the model stays as it was if anything does not fit.

    What the formats themselves explain is left out, with the reason in the report: a classifier's head and last norm,
    output norms that one side lacks, buffers that are computed anew, and what surrounds the backbone where one side is
    a backbone alone. Relative position tables of another window size and absolute position embeddings of another
    image size are resized. Everything else must match by name and shape.

    Args:
        model: A `SwinTransformer`, or a module that contains one, such as a detector. Any other module takes weights
            under its own names; if it has a `backbone`, also those of a backbone alone, such as torchvision's ResNets.
        path_or_state_dict: A checkpoint file, or a state dict, also inside the usual wrappers. Where an average of the
            weights stands beside them, the average is taken.
        format: A name in `swin_dense.weights.FORMATS`, or "auto" to tell it from the key names.
        allow_missing: Parameters of the model that may keep their initial values: their names, or those of modules
            around them.
        ignore: The same, and not to be taken from the checkpoint; for example a head of another class count.

    Returns:
        What became of every tensor.

    Raises:
        WeightsError: The file cannot be read safely, its format is unknown, or the weights do not fit the model.
    """
    may_lack, unwanted = selection("allow_missing", allow_missing), selection("ignore", ignore)
    content: object = path_or_state_dict
    source = "state dict"
    if not isinstance(path_or_state_dict, Mapping):
        content, source = read_checkpoint(Path(path_or_state_dict)), os.fspath(path_or_state_dict)
    try:
        tensors, source = unwrap(content, source)
        prefix, names = _swin_prefix(model), model.state_dict()
        incoming = _under_own_names(tensors, model, format) if prefix is None else _read_as(tensors, prefix, format)
        matched = match(incoming, names, may_lack, unwanted)
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
        skipped=tuple(matched.skipped),
        missing=tuple(matched.missing),
    )


def _swin_prefix(model: nn.Module) -> str | None:
    """What stands before the names of the one Swin backbone in a model; None if it has none."""
    names = [name for name, module in model.named_modules() if isinstance(module, SwinTransformer)]
    if len(names) > 1:
        raise WeightsError(f"the model has several Swin backbones ({', '.join(names)}); load into each by itself")
    return None if not names else f"{names[0]}." if names[0] else ""


def _read_as(tensors: Mapping[str, Tensor], prefix: str, format_name: str) -> Incoming:
    """Gives the tensors of a checkpoint the names that they have in a model with a Swin backbone."""
    try:
        parts = take_apart(tensors, format_name)
    except WeightsError as error:
        raise WeightsError(f"{error}\n  - the model's backbone is a Swin, which takes no other weights") from error
    return Incoming(
        format=parts.layout.format.name,
        prefix=prefix,
        backbone={prefix + name: item for name, item in parts.backbone.items()},
        around={root_of(prefix) + name: item for name, item in parts.around.items()},
        unmatched=parts.unmatched,
    )


def _under_own_names(tensors: Mapping[str, Tensor], model: nn.Module, format_name: str) -> Incoming:
    """Leaves the names of a checkpoint as they are, but for the prefix that those of a backbone alone lack."""
    if format_name != "auto":
        raise WeightsError(f"format '{format_name}' is for a Swin backbone, and the model has none")
    own = {key: Converted(tensor, (key,)) for key, tensor in tensors.items()}
    prefix = next((f"{name}." for name, _ in model.named_modules() if name.split(".")[-1] == "backbone"), None)
    if prefix is None:
        return Incoming("same names", None, {}, own, ())
    if not any(name.startswith(prefix) for name in own):
        own = {name if name.split(".")[0] in BESIDE else prefix + name: item for name, item in own.items()}
    backbone = {name: item for name, item in own.items() if name.startswith(prefix)}
    return Incoming("same names", prefix, backbone, {name: own[name] for name in own.keys() - backbone.keys()}, ())
