"""Reads checkpoints without running what they hold, and writes weights whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import re
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from swin_dense.errors import WeightsError
from swin_dense.files import atomic_write, is_there

# Where training frameworks put the weights inside a checkpoint; an average of the weights is what was evaluated.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module", "teacher", "student")

SPELLINGS = {"bed ": "bed", "television receiver": "television"}
"""Names in mmseg's list of ADE20K's classes, and what ADE20K's own list calls them first."""

_OTHER_KINDS = {
    b"\x1f\x8b": "compressed with gzip",
    b"\xfd7zXZ": "compressed with xz",
    b"\x89HDF": "an HDF5 file, perhaps of Keras",
    b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file",
}
"""What other files start with."""

# The one place where unpickling is spoken of: as advice to the owner of a file that we refuse, for a machine to lose.
_ADVICE = (
    "reading it could run code, so it is refused. If you trust its origin, open it once in an isolated environment (a "
    "container without network and secrets), write the tensors alone, and load that file: "
)
_ISOLATED = (
    f"{_ADVICE}python -c \"import torch; c = torch.load('IN', map_location='cpu', weights_only=False); "
    "c = c.get('state_dict', c.get('model', c)) if isinstance(c, dict) else c; "
    "torch.save(c.state_dict() if isinstance(c, torch.nn.Module) else c, 'OUT')\""
)
_ISOLATED_ARRAYS = (
    f"{_ADVICE}python -c \"import pickle, numpy, torch; c = pickle.load(open('IN', 'rb'), encoding='latin1'); "
    "c = c.get('model', c.get('blobs', c)); torch.save({k: torch.from_numpy(v.copy()) for k, v in c.items() "
    "if isinstance(v, numpy.ndarray)}, 'OUT')\""
)


def read_checkpoint(path: Path) -> object:
    """What a file of safetensors or `torch.save` holds: tensors on the CPU, memory-mapped if possible, in containers.

    Nothing that it holds is run; what holds other things than tensors and plain values is refused.
    """
    kind = _sniff(path)
    if kind != "safetensors" and path.suffix == ".safetensors":
        # torch.load goes by this suffix alone.
        raise WeightsError(f"{path} is a file of torch.save, not of safetensors; rename it to {path.stem}.pth")
    try:
        if kind == "safetensors":
            return load_file(path)
        # Files of torch before 1.6 are no zip archives and cannot be memory-mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip")
    except pickle.UnpicklingError as error:
        raise WeightsError(_describe_unpickling(path, error)) from error
    except Exception as error:  # damaged bytes make these readers raise anything, such as struct.error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is truncated or damaged; copy or download it again ({reason})") from error


def folder_named(path: Path) -> WeightsError:
    """The error of a folder where a checkpoint is wanted; names the likeliest one in it."""
    for suffix in ("safetensors", "pth", "pt", "ckpt", "bin"):
        if found := sorted(path.glob(f"*.{suffix}")):
            return WeightsError(f"{path} is a folder; name the checkpoint file in it: {found[0]}")
    return WeightsError(f"{path} is a folder; name the checkpoint file in it")


def missing_file(path: Path) -> WeightsError:
    """The error of a file that is not there; says how to fetch it, where its name is that of a published one."""
    if is_there(path) and path.is_dir():
        return folder_named(path)
    from swin_dense.weights.releases import RELEASES

    names = [release.name for release in RELEASES.values() if path.name in (release.name, release.file_name)]
    if not names:
        return WeightsError(f"there is no file {path}")
    return WeightsError(
        f"there is no file {path}; it is the name of a published checkpoint: fetch it with swin-dense weights fetch "
        f"{names[0]}, which prints the file's path"
    )


def unwrap(content: object, source: str) -> tuple[dict[str, Tensor], str]:
    """Opens the usual wrappers around a state dict of tensors; gives it and the source with the wrappers' names."""
    while isinstance(content, Mapping):
        wrapper = next((name for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if wrapper is None:
            break
        content, source = content[wrapper], f"{source}[{wrapper}]"
    if not isinstance(content, Mapping):
        raise WeightsError(f"holds a {type(content).__name__} instead of a state dict")
    others = []
    for key, value in content.items():
        peculiarity = _peculiarity(value) if isinstance(value, Tensor) else ""
        if peculiarity or not isinstance(key, str) or not isinstance(value, Tensor):
            others.append(f"{str(key)[:200]} ({peculiarity}{type(value).__name__})")
    if others:
        shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        raise WeightsError(
            f"no state dict of tensors at the top or under {', '.join(_WRAPPERS)}; {len(others)} entries are something "
            f"else: {shown}"
        )
    return dict(content), source


def _peculiarity(tensor: Tensor) -> str:
    """What keeps a tensor from being an ordinary one with a value of its own in every place; empty if nothing."""
    if tensor.layout is not torch.strided:
        return "sparse "
    if tensor.is_meta:
        return "empty "
    if tensor.is_quantized:
        return "quantised "
    # A few bytes on disk could stand for any amount of memory.
    return "expanded " if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes() else ""


def read_metadata(path: Path) -> dict[str, str]:
    """What `save_weights` was given as metadata; nothing for other formats than safetensors, and damaged files."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def read_class_names(path: Path) -> tuple[str, ...] | None:
    """Names of the classes 0..K-1 that the weights in a file were trained on; None where it does not say.

    Ours hold the names as metadata, those of mmdet and mmseg under "meta".
    """
    content = read_checkpoint(path)
    names: Any = None
    if "class_names" in (metadata := read_metadata(path)):
        names = _parsed(metadata["class_names"])
    elif isinstance(content, Mapping) and isinstance(meta := content.get("meta"), Mapping):
        described = meta.get("dataset_meta", meta)
        described = described if isinstance(described, Mapping) else {}
        names = described.get("classes", described.get("CLASSES"))
    if names is None:
        return None
    _check_names(path, names)
    return tuple(names)


def same_classes(theirs: Sequence[str], ours: Sequence[str]) -> bool:
    """Whether weights and data name the same classes in the same order, but for the known `SPELLINGS`."""
    return len(theirs) == len(ours) and all(
        their == our or SPELLINGS.get(their) == our for their, our in zip(theirs, ours, strict=True)
    )


def read_labels(path: Path) -> dict[str, Any]:
    """What the numbers mean that a model predicts, as a training writes it beside the weights.

    Those that the file holds of "class_names" (K names), "category_ids" (K integers) and "palette" (K colours 0..255).
    """
    metadata = read_metadata(path)
    known = ("class_names", "category_ids", "palette")
    labels: dict[str, Any] = {name: _parsed(metadata[name]) for name in known if name in metadata}
    if "class_names" in labels:
        _check_names(path, labels["class_names"])
        ids, palette, count = labels.get("category_ids"), labels.get("palette"), len(labels["class_names"])
        if ids is not None and not (_is_list(ids, count) and all(type(one) is int for one in ids)):
            raise WeightsError(f"{path}: its category_ids are not a list of {count} integers: {ids!r:.100}")
        if palette is not None and not (_is_list(palette, count) and all(_is_colour(one) for one in palette)):
            raise WeightsError(f"{path}: its palette is not a list of {count} colours: {palette!r:.100}")
    return labels


def _check_names(path: Path, names: Any) -> None:
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise WeightsError(f"{path}: its class names are not a list of texts: {names!r:.100}")


def _is_list(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count


def _is_colour(value: Any) -> bool:
    return _is_list(value, 3) and all(type(one) is int and 0 <= one <= 255 for one in value)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def save_weights(
    model_or_state_dict: nn.Module | Mapping[str, Tensor],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes weights as safetensors: another process sees the old file or the whole new one, never a part.

    Args:
        model_or_state_dict: A module, whose state dict is taken, or a state dict.
        path: The file; its folder is made if it does not exist.
        metadata: Texts to keep in the file's header, for instance version and class names.

    Raises:
        OutputError: The file cannot be written.
    """
    state_dict = model_or_state_dict.state_dict() if isinstance(model_or_state_dict, nn.Module) else model_or_state_dict
    with atomic_write(Path(path)) as unfinished:
        save_file(_separate(state_dict), unfinished, metadata=dict(metadata or {}))


def save_checkpoint(state_dict: Mapping[str, Tensor], path: Path, *, wrapper: str = "") -> None:
    """Writes weights with `torch.save`, for libraries that read nothing else; under `wrapper`, or else at the top."""
    tensors = _separate(state_dict)
    with atomic_write(path) as unfinished, unfinished.open("wb") as file:  # torch hides what the system says of a path
        torch.save({wrapper: tensors} if wrapper else tensors, file)


def _separate(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each with memory of its own: safetensors refuses shared memory."""
    separate, seen = {}, set()
    for key, value in state_dict.items():
        tensor = value.detach().cpu().contiguous()
        memory = tensor.untyped_storage()
        is_part = memory.nbytes() > tensor.nbytes  # torch.save would write the whole
        separate[key] = tensor.clone() if is_part or memory.data_ptr() in seen else tensor
        seen.add(memory.data_ptr())
    return separate


def _sniff(path: Path) -> str:
    """Infers "safetensors", "zip" or "pickle" from the first bytes, and refuses what is none of them."""
    if path.is_dir():
        raise folder_named(path)
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path} is a pipe or a device; write the checkpoint to a file first")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError as error:
        raise missing_file(path) from error
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    if not start:
        raise WeightsError(f"{path} is empty; copy or download it again")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size:
        return "safetensors"  # first of all: the length of its header may look like the beginning of anything
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise WeightsError(
            f"{path} is a web page, perhaps an error or log-in page, instead of weights; download it again"
        )
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer instead of weights; run `git lfs pull` where it came from")
    if start.startswith(b"PK\x03\x04"):
        return _sniff_zip(path)
    if _is_array_pickle(path):
        raise WeightsError(
            f"{path} is a pickle of NumPy arrays, as in the model zoos of Detectron2 and Caffe2; {_ISOLATED_ARRAYS}"
        )
    if start.startswith(b"\x80"):
        return "pickle"
    if start[8:9] == b"{":  # truncated, or damaged in its first bytes
        return "safetensors"
    for magic, kind in _OTHER_KINDS.items():
        if start.startswith(magic):
            raise WeightsError(f"{path} is {kind}, not a checkpoint of torch.save or safetensors")
    if tarfile.is_tarfile(path):
        raise WeightsError(
            f"{path} is a tar archive; unpack it and name the checkpoint in it. If it is itself a checkpoint, of "
            f"torch before 0.1.10, {_ISOLATED}"
        )
    raise WeightsError(f"{path} is not a checkpoint of torch.save or safetensors; it starts with {start[:16]!r}")


def _sniff_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # a damaged directory makes zipfile raise anything, such as UnicodeDecodeError
        raise WeightsError(f"{path} is truncated or damaged; copy or download it again ({error})") from error
    if "constants.pkl" in names:
        raise WeightsError(f"{path} is a TorchScript program, not weights; save the state dict of its module instead")
    if "data.pkl" not in names:
        raise WeightsError(f"{path} is a zip archive without weights in it; unpack it and name the checkpoint file")
    if unpacked > path.stat().st_size:
        raise WeightsError(f"{path} is compressed, which torch.save does not do; unpacked it has {unpacked:,} bytes")
    return "zip"


def _describe_unpickling(path: Path, error: pickle.UnpicklingError) -> str:
    found = re.search(r"nsupported (?:global: GLOBAL|GLOBAL|class) (\S+)", str(error))
    if found is None:
        return f"{path} is damaged, or was not written by torch.save"
    return f"{path} holds {found[1]} beside tensors; {_ISOLATED}"


def _is_array_pickle(path: Path) -> bool:
    """Whether the first instructions of a pickle, which are read and not run, name NumPy; torch's begin otherwise."""
    with path.open("rb") as file:
        start = file.read(1 << 20)
    with suppress(Exception):  # where it is no pickle, or goes on after the first MiB
        for _, argument, _ in pickletools.genops(start):
            if isinstance(argument, str) and argument.startswith("numpy."):
                return True
    return False
