"""Converts weights from any known format to any other; every tensor is written, explained, or an error."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from swin_dense.errors import WeightsError
from swin_dense.weights.files import read_checkpoint, read_metadata, save_checkpoint, save_weights, unwrap
from swin_dense.weights.formats_v2 import format_named
from swin_dense.weights.layout import Parts, take_apart
from swin_dense.weights.names import (
    BESIDE,
    BUFFER,
    IGNORED,
    OTHER_TASKS,
    OUTPUT_NORM,
    check_selection,
    is_finite,
    is_named,
    listed,
    selection,
    without_wrappers,
)
from swin_dense.weights.report import ConversionReport, Note
from swin_dense.weights.sizes import absent_buffers
from swin_dense.weights.tables import Converted, Format

_TORCH_SUFFIXES = (".pth", ".pt", ".bin")
"""Written with `torch.save`."""

_COMPUTED = "computed from the size of window and image"


def convert_weights(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: str,
    *,
    format: str = "auto",
    ignore: Iterable[str] = (),
    ema: bool = False,
) -> ConversionReport:
    """Converts a checkpoint file.

    A classifier, a backbone or a whole detector or segmenter is read. What the formats themselves explain is left out,
    with the reason in the report: a classifier's head and last norm, output norms, and computed buffers, where the
    other format lacks them. Converting back gives the same names, values and types, bit for bit, but for what was left
    out.

    Args:
        source: A checkpoint file of any known format.
        target: The file to write, whole or not at all: safetensors for `.safetensors`, `torch.save` for `.pth`, `.pt`
            and `.bin`.
        to: A name in `swin_dense.weights.FORMATS`.
        format: The format of the source, or "auto" to detect it by the key names.
        ignore: Tensors of the source to leave out: their names, or those of modules around them.
        ema: Take the averages that mmcv's EMA hook keeps among the weights as `ema_backbone_...`.

    Returns:
        What became of every tensor.

    Raises:
        WeightsError: A file cannot be read safely or written, a format is unknown, or the target format has no place
            for a tensor.

    Example:
        >>> import tempfile
        >>> from swin_dense.backbones import SwinTransformer
        >>> from swin_dense.weights import convert_weights, save_weights
        >>> model = SwinTransformer(embed_dim=8, depths=(1, 1), num_heads=(1, 2), out_indices=(0, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(model, f"{folder}/mine.safetensors")
        ...     report = convert_weights(f"{folder}/mine.safetensors", f"{folder}/theirs.pth", "openmmlab")
        >>> report.format, report.to, len(report.kept), report.converted[0].reason, report.skipped
        ('swin-dense', 'openmmlab', 34, 'patch-merging channels reordered', ())
    """
    source_path, target_path = Path(source), Path(target)
    wanted = format_named(to)
    if target_path.suffix not in (".safetensors", *_TORCH_SUFFIXES):
        raise WeightsError(f"{target}: name the file .safetensors, or {', '.join(_TORCH_SUFFIXES)} for torch.save")
    content, where = read_checkpoint(source_path), str(source_path)
    try:
        tensors, where = unwrap(content, where)
        converted, report = convert_state_dict(tensors, to, format=format, ignore=ignore, ema=ema)
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}") from error
    if target_path.suffix == ".safetensors":
        # Transformers refuses files that do not say whose tensors they hold.
        save_weights(converted, target_path, metadata={**read_metadata(source_path), "format": "pt"})
    else:
        is_of_video = any(name.endswith("patch_embed.proj.weight") and one.ndim == 5 for name, one in converted.items())
        save_checkpoint(converted, target_path, wrapper=wanted.video_wrapper if is_of_video else wanted.wrapper)
    return replace(report, source=where)


def convert_state_dict(
    tensors: Mapping[str, Tensor], to: str, *, format: str = "auto", ignore: Iterable[str] = (), ema: bool = False
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Converts a state dict as `convert_weights` converts a file, and reports what became of every tensor.

    What stood before all names, such as `module.`, is left out; what surrounds a backbone stands beside `backbone.`,
    and a backbone alone has no prefix.
    """
    format_named(to)
    unwanted = selection("ignore", ignore)
    check_selection("ignore", unwanted, tensors)
    taken = {key: tensor for key, tensor in tensors.items() if not is_named(unwanted, key)}
    named = without_wrappers(taken, ema=ema)
    if broken := [named.keys[name] for name, tensor in named.tensors.items() if not is_finite(tensor)]:
        raise WeightsError(f"{len(broken)} tensors hold NaN or infinity: {listed(broken)}")
    parts = take_apart(named.tensors, format, named.keys)
    wanted = format_named(to, parts.layout.format.version)
    backbone, around = _with_heads_inside(parts)
    form = wanted.form_for(_tensors(backbone))
    body = {name: item for name, item in backbone.items() if form.write(name) is not None}
    heads = {
        name: item
        for name, item in around.items()
        if name not in parts.foreign and wanted.around.write(name) is not None
    }
    reasons = {name: _reason_inside(name) for name in backbone if name not in body}
    explained = _explain(backbone, reasons, parts.unmatched, wanted)
    beside = {name: name.split(".")[0] for name in around if name not in heads}
    reasons = {name: OTHER_TASKS[word] if word in BESIDE else None for name, word in beside.items()}
    explained += _explain(around, reasons, (), wanted)
    added = absent_buffers(body, form)
    own = _with_history(form.from_official({**_tensors(body), **added}), body)
    others = _with_history(wanted.around.from_official(_tensors(heads)), heads)
    written = {("backbone." if heads else "") + name: item for name, item in own.items()} | others
    is_new = {name: item.keys[0] in added for name, item in written.items()}
    report = ConversionReport(
        source="state dict",
        format=parts.layout.format.name,
        to=to,
        kept=tuple(name for name, item in written.items() if not item.change and not is_new[name]),
        converted=tuple(Note(name, item.change) for name, item in written.items() if item.change and not is_new[name]),
        added=tuple(Note(name, _COMPUTED) for name in written if is_new[name]),
        skipped=(*(Note(key, IGNORED) for key in tensors if key not in taken), *named.skipped, *explained),
    )
    return _tensors(written), report


def _with_history(written: Mapping[str, Converted], sources: Mapping[str, Converted]) -> dict[str, Converted]:
    """Puts what was done to read a tensor before what was done to write it."""
    done = {name: sources[item.keys[0]].change if item.keys[0] in sources else "" for name, item in written.items()}
    return {
        name: replace(item, change=", ".join(filter(None, (done[name], item.change)))) for name, item in written.items()
    }


def _tensors(converted: Mapping[str, Converted]) -> dict[str, Tensor]:
    return {name: item.tensor for name, item in converted.items()}


def _with_heads_inside(parts: Parts) -> tuple[dict[str, Converted], dict[str, Converted]]:
    """Backbone and surroundings, where a classifier's head that stood beside the backbone belongs to the former."""
    backbone, around = dict(parts.backbone), dict(parts.around)
    for name in parts.around:
        if name.split(".")[0] in BESIDE and (reading := parts.layout.format.read(name)) is not None:
            if reading.official not in backbone:
                backbone[reading.official] = around.pop(name)
    return backbone, around


def _reason_inside(name: str) -> str | None:
    """Why a format may lack a tensor of the backbone; None if there is no reason."""
    if BUFFER.fullmatch(name):
        return _COMPUTED
    if OUTPUT_NORM.fullmatch(name):
        return "output norm of a stage"
    return OTHER_TASKS.get(name.split(".")[0])


def _explain(
    items: Mapping[str, Converted], reasons: Mapping[str, str | None], unmatched: Sequence[str], wanted: Format
) -> list[Note]:
    """The reasons for leaving tensors out of the new file; an error for those that have none."""
    homeless = [*unmatched, *(key for name, reason in reasons.items() if reason is None for key in items[name].keys)]
    if homeless:
        raise WeightsError(
            f"the {wanted.name} format has no place for {len(homeless)} tensors: {listed(homeless)}; name them, or "
            "modules around them, in ignore to leave them out"
        )
    return [
        Note(key, f"{reason}; {wanted.name} has no place for it")
        for name, reason in reasons.items()
        for key in items[name].keys
    ]
