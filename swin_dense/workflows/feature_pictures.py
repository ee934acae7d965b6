"""Draw what a model makes of one image."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from swin_dense.backbones.plain import PlainBlock, PlainSwin
from swin_dense.backbones.swin import PATCH_SIZE
from swin_dense.config import Config
from swin_dense.errors import ConfigError
from swin_dense.images.finder import ImageFiles
from swin_dense.visualize.attention import PositionBias, WindowAttention, draw_attention, draw_biases
from swin_dense.visualize.features import HeatMap, StageFeatures, draw_components, draw_heat_maps
from swin_dense.workflows.saliency import saliency_of

Grid = tuple[int, int]


def visualize_features(
    model: Config | str,
    image: Path,
    output: Path,
    *,
    weights: Path | None,
    stages: Sequence[int] = (),
    window: Grid | None = None,
    class_name: str | None = None,
    short_side: int = 480,
) -> dict[str, Any]:
    """Draws features, attention, position biases and Grad-CAM of one image.

    Args:
        model: A config, or the name of a backbone variant.
        image: The image.
        output: Folder for `pca.png`, `gradcam.png`, and `attention_stageN.png` and `bias_stageN.png` of each stage.
        weights: Of the variant, or of the config's whole model; None draws random weights.
        stages: From 1; none means all.
        window: Row and column of the window, from 0, in the grid of regular windows; None takes the middle one of each
            stage. The shifted window of the same row and column lies half a window below and to the right.
        class_name: The class that Grad-CAM explains; None takes the one that the model is surest of.
        short_side: The image is resized to this shorter side, in pixels.

    Returns:
        "files", the pictures that were written, and "gradcam", what the heat maps explain; ready for JSON.

    Raises:
        SwinDenseError: The model, the weights, the image or an option is wrong.
    """
    picture = transforms.resize(ImageFiles([image])[0].image.as_subclass(Tensor), [short_side], antialias=True)
    saliency = saliency_of(model, weights, class_name)
    plain = saliency.backbone
    numbers = _checked(stages, plain)
    maps, inputs = _run(plain, saliency.preprocess(picture[None]), numbers)
    views = {
        number: [
            _attention(block, tokens, title, PATCH_SIZE * 2 ** (number - 1), window) for title, block, tokens in blocks
        ]
        for number, blocks in inputs.items()
    }
    explained = saliency.explain(picture, [plain.blocks(number - 1)[-1] for number in numbers])

    files = [output / "pca.png", output / "gradcam.png"]
    draw_components(picture, [_features(plain, maps, number) for number in numbers], files[0])
    heat = [HeatMap(f"stage {number}", values) for number, values in zip(numbers, explained.maps, strict=True)]
    draw_heat_maps(picture, heat, f"Element-wise Grad-CAM: {explained.target}", files[1])
    for number in numbers:
        files += [output / f"attention_stage{number}.png", output / f"bias_stage{number}.png"]
        draw_attention(picture, views[number], files[-2])
        tables = [(title, block.attn.relative_position_bias_table) for title, block, _ in inputs[number]]
        draw_biases([PositionBias(title.rpartition(",")[0], table) for title, table in tables], files[-1])
    return {"files": [str(path) for path in files], "gradcam": explained.target}


def _checked(stages: Sequence[int], plain: PlainSwin) -> list[int]:
    """The stages to draw, from 1; those whose map the backbone hands out can be drawn."""
    valid = [index + 1 for index in plain.out_indices]
    for stage in stages:
        if stage not in valid:
            raise ConfigError(f"--stage {stage}: the backbone hands out stages {', '.join(map(str, valid))}")
    return sorted(set(stages)) or valid


def _run(
    plain: PlainSwin, images: Tensor, stages: Sequence[int]
) -> tuple[tuple[Tensor, ...], dict[int, list[tuple[str, PlainBlock, Tensor]]]]:
    """The maps of one image, and for each stage its last two blocks, one regular and one shifted, with their inputs."""
    inputs: dict[int, list[tuple[str, PlainBlock, Tensor]]] = {stage: [] for stage in stages}
    with ExitStack() as hooks, torch.no_grad():
        for stage in stages:
            blocks = list(enumerate(plain.blocks(stage - 1), start=1))
            for number, block in blocks[-2:]:
                kind = "shifted" if block.shift else "regular"
                title = f"stage {stage}, block {number}, {kind} window"
                keep = partial(_keep, inputs[stage], title)
                hooks.callback(block.register_forward_pre_hook(keep).remove)
        return plain(images), inputs


def _keep(kept: list[Any], title: str, block: nn.Module, inputs: tuple[Tensor]) -> None:
    kept.append((title, block, inputs[0]))


def _features(plain: PlainSwin, maps: Sequence[Tensor], stage: int) -> StageFeatures:
    place = plain.out_indices.index(stage - 1)
    return StageFeatures(f"stage {stage}", plain.feature_specs[place].stride, maps[place][0])


def _attention(block: PlainBlock, tokens: Tensor, title: str, stride: int, window: Grid | None) -> WindowAttention:
    """Attention of a block in one window of the first image of tokens (1, H, W, C)."""
    with torch.no_grad():
        windows, mask = block.windows(tokens)
        grid = windows.shape[1:3]
        row, column = window or (grid[0] // 2, grid[1] // 2)
        if window is None and block.shift:
            row, column = min(row, max(grid[0] - 2, 0)), min(column, max(grid[1] - 2, 0))
        if row >= grid[0] or column >= grid[1]:
            raise ConfigError(
                f"--window {row},{column}: {title}: there are {grid[0]} rows of {grid[1]}, from 0; see --stage"
            )
        weights, _ = block.attention_weights(windows[0, row, column], None if mask is None else mask[row, column])
    rows, columns = (
        (place * block.window + block.shift + torch.arange(block.window)) % (count * block.window)
        for place, count in zip((row, column), grid, strict=True)
    )
    height, width = tokens.shape[1:3]
    return WindowAttention(f"{title} ({row}, {column})", stride, (height, width), rows, columns, weights)
