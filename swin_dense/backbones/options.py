"""Options of a backbone: what short forms mean, and which values are refused, by name and with what they may be."""

from __future__ import annotations

from collections.abc import Sequence

from swin_dense.errors import ConfigError

PATCH_SIZE = 4
"""Side of a patch in pixels, in every published Swin of images."""


def window_and_patch(
    window_size: int | Sequence[int], patch_size: int | Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sides of windows and patches, (rows, columns) or (frames, rows, columns), as many for both."""
    given = {"window_size": window_size, "patch_size": patch_size}
    dimensions = max(2 if isinstance(sides, int) else len(sides) for sides in given.values())
    all_sides = []
    for name, sides in given.items():
        of_each = (sides,) * dimensions if isinstance(sides, int) else tuple(sides)
        if min(of_each, default=0) < 1:
            raise ConfigError(f"{name}={sides}: must be at least 1")
        if len(of_each) != dimensions or dimensions not in (2, 3):
            raise ConfigError(
                f"window_size={window_size}, patch_size={patch_size}: (rows, columns) or, for videos, (frames, rows, "
                "columns) are needed, in both"
            )
        all_sides.append(of_each)
    if all_sides[1][-2] != all_sides[1][-1]:
        raise ConfigError(f"patch_size={patch_size}: patches must be as high as they are wide")
    return all_sides[0], all_sides[1]


def check_mixing(
    mixing: str, version: int, design: str, *, is_video: bool, has_embedding: bool, all_terms: bool, any_term: bool
) -> None:
    """Raises a ConfigError where the way of mixing tokens, the version and the terms of the scores contradict.

    The terms are the relative position bias and the scaled dot product.
    """
    if not any_term:
        raise ConfigError("appearance_term=False: the scores of attention need relative_position_bias=True then")
    if mixing not in ("attention", "mlp"):
        raise ConfigError(f'mixing="{mixing}": must be "attention" or "mlp"')
    if mixing == "mlp" and not all_terms:
        raise ConfigError('mixing="mlp" has no attention to take relative_position_bias or appearance_term out of')
    if design != "joint" and mixing == "mlp":
        raise ConfigError(f'spatiotemporal_attention="{design}": mixing="mlp" has no attention')
    if is_video and has_embedding:
        raise ConfigError("absolute_position_embedding: images have one, and these windows are those of videos")
    if version == 2 and (is_video or mixing == "mlp" or not all_terms):
        raise ConfigError("version=2: needs attention in windows of images, and all terms of its scores")


def spatial_and_temporal(design: str, window: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """The windows of a design of attention over space and time; the second, over time alone, None if it is joint."""
    if design == "joint":
        return window, None
    if design not in ("split", "factorized"):
        raise ConfigError(f'spatiotemporal_attention="{design}": must be "joint", "split" or "factorized"')
    if len(window) != 3:
        raise ConfigError(f'spatiotemporal_attention="{design}": needs windows of videos, (frames, rows, columns)')
    return (1, *window[1:]), (window[0], 1, 1)


def shifted_dimensions(shift_windows: bool | Sequence[bool], window: Sequence[int]) -> tuple[bool, ...]:
    """Whether windows are shifted along each of their dimensions."""
    shifts = (shift_windows,) * len(window) if isinstance(shift_windows, bool) else tuple(shift_windows)
    if len(shifts) != len(window):
        raise ConfigError(f"shift_windows={shift_windows}: windows of {tuple(window)} need one for each dimension")
    return shifts


def pretrained_windows(version: int, sizes: Sequence[int] | None, stages: int, window: int, side: int) -> list[int]:
    """`pretrained_window_sizes`, by default those in a first map of `side` tokens a side, or a ConfigError."""
    if version not in (1, 2):
        raise ConfigError(f"version={version}: must be 1 or 2")
    if sizes is None:
        return [max(min(window, side >> index), 1) for index in range(stages)]
    if version == 1:
        raise ConfigError("pretrained_window_sizes: version 1 has a table of position biases; leave it out")
    if len(sizes) != stages or min(sizes) < 1:
        raise ConfigError(f"pretrained_window_sizes={tuple(sizes)}: {stages} sides are needed, of at least 1")
    return list(sizes)


def check_sizes(
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    drop_path_rate: float,
    out_indices: Sequence[int],
    frozen_stages: int,
) -> None:
    """Raises a ConfigError that names the first wrong option and what it may be."""
    stages = len(depths)
    if stages == 0 or min(depths) < 1:
        raise ConfigError(f"depths={tuple(depths)}: every stage needs at least one block")
    if len(num_heads) != stages:
        raise ConfigError(f"num_heads={tuple(num_heads)}: one number per stage is needed, and depths has {stages}")
    channels = [embed_dim * 2**index for index in range(stages)]
    if any(heads < 1 or width % heads for width, heads in zip(channels, num_heads, strict=True)):
        raise ConfigError(f"num_heads={tuple(num_heads)}: must divide the channels of the stages, {channels}")
    if not 0.0 <= drop_path_rate < 1.0:
        raise ConfigError(f"drop_path_rate={drop_path_rate}: must be at least 0 and below 1")
    if not out_indices or sorted(set(out_indices)) != list(out_indices) or not set(out_indices) <= set(range(stages)):
        raise ConfigError(f"out_indices={tuple(out_indices)}: must be ascending stage numbers from 0 to {stages - 1}")
    if not -1 <= frozen_stages <= stages:
        raise ConfigError(f"frozen_stages={frozen_stages}: must be from -1 (nothing) to {stages} (all stages)")
