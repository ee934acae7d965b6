"""What depends on the size of window, image or model: resized tables, computed buffers, and which variant it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isqrt, prod

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from swin_dense.backbones.attention import log_spaced_offsets, relative_position_bias, relative_position_count
from swin_dense.backbones.variants import VARIANTS
from swin_dense.backbones.windows import MASKED
from swin_dense.errors import WeightsError
from swin_dense.weights.formats_v2 import COORDINATES, WINDOW
from swin_dense.weights.tables import Converted, Name, Table, is_video

EMBEDDING = "patch_embed.proj.weight"

_TABLE = Name("layers.{i}.blocks.{j}.attn.relative_position_bias_table")
_INDEX = Name("layers.{i}.blocks.{j}.attn.relative_position_index")
_MASK = Name("layers.{i}.blocks.{j}.attn_mask")
_TEMPERATURE = Name("layers.{i}.blocks.{j}.attn.logit_scale")
_COORDINATES = Name(COORDINATES)
_NORM = Name("layers.{i}.blocks.{j}.norm1")

_SIDES = (7, 12)
"""Heights of the windows of published models of videos."""

_WINDOWS_OF_FIRST_MAP = 8
"""Windows along a side of the first map, in every published classifier: 224 pixels with windows of 7, 384 with 12."""


def resize_bias_table(table: Tensor, length: int) -> Tensor:
    """A relative position bias table (L, heads), L = (2M - 1)^2, resized to `length` rows as the official code does."""
    if table.shape[0] == length:
        return table
    old, new = _side(table.shape[0]), _side(length)
    return bicubic(table.T.reshape(1, -1, old, old), (new, new)).reshape(-1, length).T.contiguous()


def fit_positions(name: str, tensor: Tensor, current: Tensor) -> Tensor:
    """Resizes what depends on window or image; anything else, and what does not fit otherwise, comes back as it is."""
    if name.endswith("relative_position_bias_table") and tensor.ndim == 2 and tensor.shape[1] == current.shape[1]:
        return resize_bias_table(tensor, current.shape[0])
    if name.endswith("absolute_pos_embed") and tensor.ndim == 4 and tensor.shape[:2] == current.shape[:2]:
        return tensor if tensor.shape == current.shape else bicubic(tensor, (current.shape[2], current.shape[3]))
    return tensor


def fit_channels(name: str, tensor: Tensor, current: Tensor) -> tuple[Tensor, str]:
    """A patch embedding of RGB for images of other channels, as timm makes it, and what was done; likewise.

    A gray image is embedded as the same image in RGB is.
    """
    if not name.endswith(EMBEDDING) or tensor.ndim != current.ndim or tensor.shape[1:2] != (3,):
        return tensor, ""
    channels = current.shape[1]
    if channels == 1:
        return tensor.sum(1, keepdim=True), "3 channels added up for one"
    if channels == 3:
        return tensor, ""
    repeated = tensor[:, [channel % 3 for channel in range(channels)]] * (3 / channels)
    return repeated, f"3 channels repeated in turn for {channels}, times 3/{channels}"


def _side(area: int) -> int:
    side = isqrt(area)
    if side == 0 or side * side != area:
        raise WeightsError(f"cannot resize {area} positions: they do not form a square")
    return side


def bicubic(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes maps (B, C, H, W)."""
    # In half precision the interpolation weights would be rounded as well.
    values = grid if grid.dtype in (torch.float32, torch.float64) else grid.float()
    return interpolate(values, size=size, mode="bicubic", align_corners=False).to(grid.dtype)


def absent_buffers(backbone: Mapping[str, Converted], form: Table) -> dict[str, Tensor]:
    """The buffers that a form holds and a backbone lacks, by official name.

    These are relative position indices and, of version 2, offsets; and the attention masks of shifted windows for the
    image size of the absolute position embedding, or else for the one that all published classifiers have.
    """
    buffers: dict[str, Tensor] = {}
    of_video = is_video({name: item.tensor for name, item in backbone.items()})
    for key, item in backbone.items():
        version_1 = _TABLE.match(key)
        found = version_1 or _TEMPERATURE.match(key)
        if found is None:
            continue
        stage, block = found[0]["i"], found[0]["j"]
        index, mask, coordinates = (name.fill(found[0], "") for name in (_INDEX, _MASK, _COORDINATES))
        wants_index = index not in backbone and form.write(index) is not None
        if of_video:
            if wants_index:
                buffers[index] = relative_position_index(video_window(len(item.tensor), None))
            continue
        window = _window_side(key, item.tensor) if version_1 else WINDOW
        if wants_index:
            buffers[index] = relative_position_index((window, window))
        elif index in backbone:
            window = isqrt(isqrt(backbone[index].tensor.numel()))
        if not version_1 and coordinates not in backbone and form.write(coordinates) is not None:
            offsets = log_spaced_offsets((window, window), window, like=torch.empty(0))
            buffers[coordinates] = offsets.reshape(1, 2 * window - 1, 2 * window - 1, 2).clone()
        side = _first_side(backbone, window) >> stage
        is_shifted = block % 2 == 1 and side > window and side % window == 0
        if is_shifted and mask not in backbone and form.write(mask) is not None:
            buffers[mask] = shifted_window_mask(side, window).to(item.tensor.dtype)
    return buffers


def relative_position_index(window: Sequence[int]) -> Tensor:
    """Row of the bias table for each pair of tokens of a window with so many tokens per dimension, (N, N)."""
    rows = torch.arange(relative_position_count(window))[:, None]
    return relative_position_bias(rows, window)[0].clone()


def shifted_window_mask(side: int, window: int) -> Tensor:
    """Attention mask (windows, N, N) of shifted windows on a map of side x side tokens: -100 between other regions."""
    positions = torch.arange(side)
    part = (positions >= side - window).long() + (positions >= side - window // 2)
    count = side // window
    regions = (3 * part[:, None] + part[None, :]).reshape(count, window, count, window)
    regions = regions.transpose(1, 2).reshape(count * count, window * window)
    return torch.where(regions[:, :, None] == regions[:, None, :], 0.0, MASKED)


def video_window(rows: int, tokens: int | None, like: Sequence[int] = ()) -> tuple[int, int, int]:
    """The window (T, M, M) of a table with so many rows, and of so many tokens where that is known.

    Several windows may have as many offsets: one of the height of `like` comes first, then those of published models.
    """
    found = [
        ((rows // (2 * side - 1) ** 2 + 1) // 2, side, side)
        for side in range(1, isqrt(rows) + 1)
        if rows % (2 * side - 1) ** 2 == 0 and rows // (2 * side - 1) ** 2 % 2 == 1
    ]
    found = [window for window in found if tokens in (None, prod(window))]
    if not found:
        raise WeightsError(f"{rows} rows are not the bias table of a window of videos")
    likely = (*like[-1:], *_SIDES)
    return min(found, key=lambda window: (likely.index(window[1]) if window[1] in likely else len(likely), -window[1]))


def _window_side(name: str, table: Tensor) -> int:
    offsets = isqrt(table.shape[0]) if table.ndim == 2 else 0
    if offsets % 2 == 0 or offsets * offsets != table.shape[0]:
        raise WeightsError(f"{name} {tuple(table.shape)} is not the bias table of a square window")
    return (offsets + 1) // 2


def _first_side(backbone: Mapping[str, Converted], window: int) -> int:
    embedding = backbone.get("absolute_pos_embed")
    if embedding is None or embedding.tensor.ndim != 4:
        return _WINDOWS_OF_FIRST_MAP * window
    return embedding.tensor.shape[-1]


def other_variant(theirs: Mapping[str, torch.Size], ours: Mapping[str, torch.Size]) -> str | None:
    """The variant that a checkpoint has the shapes of; None if unclear, or if the model has its width and depths."""
    found, own = _sizes(theirs), _sizes(ours)
    if found[:3] == own[:3]:
        return None
    names = [
        name
        for name, variant in VARIANTS.items()
        if found[:3] == (variant.version, variant.embed_dim, variant.depths)
        and found[3] in (0, relative_position_count(variant.window))
    ]
    return names[0] if len(names) == 1 else None


def _sizes(shapes: Mapping[str, torch.Size]) -> tuple[int, int, tuple[int, ...], int]:
    """Version, channels of the first stage, blocks per stage, and rows of a relative position bias table, if any."""
    blocks = Counter(
        found[0]["i"] for key in shapes if (found := _NORM.match(key)) is not None and found[1] == ".weight"
    )
    embedding, table = (
        shapes.get(name) or (0,) for name in (EMBEDDING, "layers.0.blocks.0.attn.relative_position_bias_table")
    )
    version = 2 if not table[0] and any(_TEMPERATURE.match(key) is not None for key in shapes) else 1
    return version, embedding[0], tuple(blocks[i] for i in sorted(blocks)), table[0]
