"""Weights of images for a model of videos, and bias tables of videos for other windows (Video Swin, section 3.3).

A patch embedding is repeated over the frames of a patch and divided by their number, so that a video of one repeated
image is embedded as the image is. A bias table is repeated over the offsets in time: tokens attend to one another as in
the image, whichever frame they are of. (For patches of two frames the paper says it so: duplicate, multiply by 0.5.)

Shapes: a table has as many rows as a window of (frames, rows, columns) has offsets, (2T - 1)(2H - 1)(2W - 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor
from torch.nn.functional import interpolate

from swin_dense.backbones.attention import relative_position_count
from swin_dense.weights.names import TEMPORAL
from swin_dense.weights.sizes import EMBEDDING, bicubic, resize_bias_table, video_window
from swin_dense.weights.tables import Converted, is_video

TABLE = "attn.relative_position_bias_table"
INDEX = "attn.relative_position_index"


def fitted_to_video(
    backbone: Mapping[str, Converted],
    patch: Sequence[int],
    window: Sequence[int],
    temporal_window: Sequence[int] | None = None,
) -> dict[str, Converted]:
    """Tensors by official name for a model of videos with these patches and windows, (frames, rows, columns).

    The windows of attention over time alone are `temporal_window`.
    """
    from_images = not is_video({name: item.tensor for name, item in backbone.items()})
    fitted = {}
    for name, item in backbone.items():
        tensor, change, ours, resized = item.tensor, "", window, False
        if temporal_window is not None and TEMPORAL in name:
            ours = temporal_window
        if from_images and name == EMBEDDING and tensor.ndim == 4:
            tensor = tensor[:, :, None].expand(-1, -1, patch[0], -1, -1) / patch[0]
            change = f"inflated: repeated over {patch[0]} frames and divided by {patch[0]}"
        elif name.endswith(TABLE) and tensor.ndim == 2 and from_images:
            tensor, change = _inflated_table(tensor, window)
            resized = len(item.tensor) != relative_position_count(window[1:])
        elif name.endswith(TABLE) and tensor.ndim == 2 and len(tensor) != relative_position_count(ours):
            index = backbone.get(name.removesuffix(TABLE) + INDEX)
            theirs = video_window(len(tensor), None if index is None else len(index.tensor), ours)
            tensor, change = _resized_table(tensor, theirs, ours), f"resized from windows of {_text(theirs)}"
            resized = True
        changes = ", ".join(filter(None, (item.change, change)))
        fitted[name] = replace(item, tensor=tensor, change=changes, resized=resized)
    return fitted


def _inflated_table(table: Tensor, window: Sequence[int]) -> tuple[Tensor, str]:
    frames, *sides = window
    plane = resize_bias_table(table, relative_position_count(sides))
    change = f"inflated: repeated over {2 * frames - 1} offsets in time"
    if plane is not table:
        change = f"resized (bicubic) from {len(table)} to {len(plane)} positions, {change}"
    return plane.repeat(2 * frames - 1, 1), change


def _resized_table(table: Tensor, theirs: Sequence[int], ours: Sequence[int]) -> Tensor:
    """A table (offsets, heads) of other windows: bicubic in space, linear in time."""
    (time, *old), (frames, *new) = ([2 * side - 1 for side in window] for window in (theirs, ours))
    heads = table.shape[1]
    planes = bicubic(table.view(time, *old, heads).permute(0, 3, 1, 2), (new[0], new[1]))
    lines = planes.flatten(1).T[None].float()  # (1, heads * H * W, offsets in time)
    resized = interpolate(lines, size=frames, mode="linear", align_corners=False)[0].T.to(table.dtype)
    return resized.reshape(frames, heads, *new).permute(0, 2, 3, 1).reshape(-1, heads)


def _text(window: Sequence[int]) -> str:
    return "x".join(map(str, window))
