"""Pictures of what a model makes of one image: features, attention, position biases, and Grad-CAM (arXiv 1610.02391).

Of Grad-CAM the element-wise form is taken: each place is weighed by its own gradient. Plain Grad-CAM weighs all places
by the mean gradient of the whole image, which says little about one object of many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from swin_dense.backbones.options import PATCH_SIZE
from swin_dense.backbones.plain import PlainBlock, PlainSwin
from swin_dense.errors import ConfigError, DataError, nearest
from swin_dense.records import Batch, Size
from swin_dense.visualize.clips import draw_heat_over_time, draw_window_attention
from swin_dense.visualize.features import (
    StageFeatures,
    WindowView,
    draw_attention,
    draw_biases,
    draw_components,
    draw_heat_maps,
)

DIVISOR = 32
"""Images are padded to multiples of this many pixels here, as detectors do anyway, so that maps cover all of it."""

LONGEST = 16
"""Most pixels of the longer side per pixel of the shorter one; a longer strip makes no picture."""

Target = Callable[[Tensor, Size], tuple[str, Tensor] | None]
"""What Grad-CAM explains, given images (1, 3, H, W) uint8 and the size of the one inside its padding: a name, and one
number with a gradient; None where there is nothing."""


@dataclass(frozen=True)
class InspectedModel:
    """A model to look into.

    Attributes:
        backbone: Its backbone, in plain form.
        preprocess: Maps images (B, 3, H, W) uint8 RGB to what the backbone takes.
        target: What Grad-CAM explains: `object_target`, `area_target` or `class_target`; None explains the backbone's
            feature vector.
        read: Reads a clip (T, 3, H, W) of a file; None for models of images.
    """

    backbone: PlainSwin
    preprocess: Callable[[Tensor], Tensor]
    target: Target | None = None
    read: Callable[[Path], Tensor] | None = None


def visualize_features(
    model: InspectedModel,
    image: Tensor,
    output: Path,
    *,
    stages: Sequence[int] = (),
    window: tuple[int, ...] | None = None,
    short_side: int = 480,
) -> dict[str, Any]:
    """Draws features, attention, position biases and Grad-CAM of one image (3, H, W) uint8 RGB, or of a clip.

    Of a clip (T, 3, H, W) attention over time and Grad-CAM are drawn, at its own size.

    Returns "files", the pictures that were written, and "gradcam", what the heat maps explain; ready for JSON.

    Args:
        model: The model.
        image: The image.
        output: Folder for `pca.png`, `gradcam.png`, and `attention_stageN.png` and `bias_stageN.png` of each stage; the
            last two where the backbone has attention and a relative position bias.
        stages: From 1; none means all.
        window: Row and column of the window, from 0, in the grid of regular windows, of clips after its place in time;
            None takes the middle one of each stage. The shifted window of the same row and column lies half a window
            below and to the right.
        short_side: The image is resized to this shorter side, in pixels.
    """
    if len(model.backbone.patch_embed.patch_size) == 3:
        return _visualize_clip(model, image, output, stages, window)
    place = None if window is None else (window[0], window[1])
    sides = image.shape[1:]
    if max(sides) > LONGEST * min(sides):
        raise DataError(f"an image of {sides[1]} x {sides[0]} pixels is too long to be drawn; cut a part out of it")
    picture = transforms.resize(image.as_subclass(Tensor), [short_side], antialias=True)
    plain = model.backbone
    numbers = _checked(stages, plain)
    seen = picture.to(next(plain.parameters()).device)
    maps, inputs = _run(plain, model.preprocess(seen[None]), numbers)
    views = {
        number: [
            _attention(block, tokens, title, PATCH_SIZE * 2 ** (number - 1), place) for title, block, tokens in blocks
        ]
        for number, blocks in inputs.items()
    }
    target, heats = grad_cam(model, seen, [plain.blocks(number - 1)[-1] for number in numbers])

    files = [output / "pca.png", output / "gradcam.png"]
    draw_components(picture, [_features(plain, maps, number) for number in numbers], files[0])
    heat_maps = {f"stage {number}": heat for number, heat in zip(numbers, heats, strict=True)}
    draw_heat_maps(picture, heat_maps, f"Element-wise Grad-CAM: {target}", files[1])
    for number in numbers:
        if views[number]:
            files.append(output / f"attention_stage{number}.png")
            draw_attention(picture, views[number], files[-1])
        tables = [(title.rpartition(",")[0], block.attn.bias_table()) for title, block, _ in inputs[number]]
        if biases := [(title, table) for title, table in tables if table is not None]:
            files.append(output / f"bias_stage{number}.png")
            draw_biases(biases, files[-1])
    return {"files": [str(path) for path in files], "gradcam": target}


def _visualize_clip(
    model: InspectedModel, clip: Tensor, output: Path, stages: Sequence[int], window: tuple[int, ...] | None
) -> dict[str, Any]:
    if clip.ndim != 4:
        raise DataError("this model is one of videos; name a video file")
    plain = model.backbone
    numbers = _checked(stages, plain)
    seen = clip.as_subclass(Tensor).to(next(plain.parameters()).device)
    _, inputs = _run(plain, model.preprocess(seen)[None].transpose(1, 2), numbers)
    target, heats = grad_cam(model, seen, [plain.blocks(number - 1)[-1] for number in numbers])
    files = [output / "gradcam.png", *(output / f"attention_stage{number}.png" for number in numbers)]
    rows = [(f"stage {number}", heat) for number, heat in zip(numbers, heats, strict=True)]
    draw_heat_over_time(clip, rows, f"Element-wise Grad-CAM: {target}", files[0])
    frames, *_, side = plain.patch_embed.patch_size
    place = None if window is None else (window[0], window[1], window[2])
    for number, path in zip(numbers, files[1:], strict=True):
        draw_window_attention(clip, inputs[number], (frames, side * 2 ** (number - 1)), path, place)
    return {"files": [str(path) for path in files], "gradcam": target}


def grad_cam(
    model: InspectedModel, image: Tensor, layers: Sequence[nn.Module]
) -> tuple[str, list[NDArray[np.float32]]]:
    """Element-wise Grad-CAM of an image (3, H, W) uint8 RGB: what it explains, and an (H, W) map in 0..1 per layer.

    Of a clip (T, 3, H, W) the maps are (T, H, W). Layers are blocks of the backbone, which put out tokens (1, h, w, C)
    or (1, t, h, w, C).
    """
    height, width = image.shape[-2:]
    images = functional.pad(image[None], (0, -width % DIVISOR, 0, -height % DIVISOR))
    kept: list[Tensor] = []
    with ExitStack() as hooks, torch.enable_grad():
        for layer in layers:
            hooks.callback(layer.register_forward_hook(partial(_keep_output, kept)).remove)
        explained = model.target(images, (height, width)) if model.target else None
        if explained is None:
            kept.clear()
            explained = _length_of_features(model, images)
    name, score = explained
    gradients = torch.autograd.grad(score, kept, materialize_grads=True) if kept else ()
    maps = []
    for tokens, gradient in zip(kept, gradients, strict=True):
        heat = (tokens.detach() * gradient).relu().sum(-1)[:, None]
        size, mode = (*images.shape[1:-3], *images.shape[-2:]), "bilinear" if heat.ndim == 4 else "trilinear"
        heat = functional.interpolate(heat, size, mode=mode, align_corners=False)[0, 0]
        heat = heat - heat.min()
        maps.append((heat / (heat.max() + 1e-7))[..., :height, :width].cpu().numpy())
    return name, maps


def _keep_output(kept: list[Tensor], _layer: nn.Module, _inputs: Any, tokens: Tensor) -> None:
    kept.append(tokens if tokens.requires_grad else tokens.requires_grad_())


def _length_of_features(model: InspectedModel, images: Tensor) -> tuple[str, Tensor]:
    """A backbone alone has no class; this asks which places make the image's feature vector what it is."""
    prepared = model.preprocess(images)
    maps = model.backbone(prepared if prepared.ndim == 4 else prepared.transpose(1, 2))
    prefix = "nothing is detected; " if model.target else ""
    return f"{prefix}length of the mean feature vector of the last stage", maps[-1].flatten(2).mean(2).norm()


def object_target(detector: Any, class_names: Sequence[str], class_name: str | None) -> Target:
    """The score of the surest object, or the surest one of a class; `detector.predict(Batch)` gives the best first."""

    def target(images: Tensor, size: Size) -> tuple[str, Tensor] | None:
        batch = Batch(images, sizes=(size,), original_sizes=(size,), image_ids=(0,), file_names=("image",))
        (found,) = detector.predict(batch)
        label = _label(found.labels[:1].tolist(), set(found.labels.tolist()), class_names, class_name)
        if label is None:
            return None
        return f"score of the surest {class_names[label]}", found.scores[found.labels == label][0]

    return target


def area_target(segmenter: Any, class_names: Sequence[str], class_name: str | None) -> Target:
    """The logits of the class with the largest area, or of a named one; `segmenter.logits(images)` is (B, K, h, w)."""

    def target(images: Tensor, _size: Size) -> tuple[str, Tensor]:
        logits = segmenter.logits(images)
        areas = logits.argmax(1).flatten().bincount()
        label = _label([int(areas.argmax())], set(areas.nonzero().flatten().tolist()), class_names, class_name)
        assert label is not None
        return f"logits where it sees {class_names[label]}", logits[:, label][logits.argmax(1) == label].sum()

    return target


def class_target(classifier: Any, class_names: Sequence[str], class_name: str | None) -> Target:
    """The logit of the surest class, or of a named one; `classifier.logits(images)` is (B, K)."""

    def target(images: Tensor, _size: Size) -> tuple[str, Tensor]:
        logits = classifier.logits(images)
        label = _label([int(logits.argmax())], set(range(logits.shape[1])), class_names, class_name)
        assert label is not None
        return f"logit of {class_names[label]}", logits[0, label]

    return target


def _label(surest: list[int], found: set[int], class_names: Sequence[str], class_name: str | None) -> int | None:
    if class_name is None:
        return surest[0] if surest else None
    if class_name not in class_names:
        raise ConfigError(f'there is no class "{class_name}"; {nearest(class_name, class_names)}')
    label = list(class_names).index(class_name)
    if label not in found:
        names = ", ".join(class_names[one] for one in sorted(found)) or "nothing"
        raise DataError(f"the model finds no {class_name} in the image, but {names}")
    return label


def _checked(stages: Sequence[int], plain: PlainSwin) -> list[int]:
    """The stages to draw, from 1; those whose map the backbone returns can be drawn."""
    valid = [index + 1 for index in plain.out_indices]
    for stage in stages:
        if stage not in valid:
            raise ConfigError(f"stage {stage}: the backbone returns stages {', '.join(map(str, valid))}")
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
                if not isinstance(block, PlainBlock):  # Swin-MLP has no attention
                    continue
                keep = partial(_keep_input, inputs[stage], f"stage {stage}, block {number}")
                hooks.callback(block.register_forward_pre_hook(keep).remove)
        return plain(images), inputs


def _keep_input(kept: list[Any], title: str, block: PlainBlock, inputs: tuple[Tensor]) -> None:
    _, shift = block.window_and_shift(inputs[0].shape[1:-1])  # there is none on maps that fit into one window
    kept.append((f"{title}, {'shifted' if any(shift) else 'regular'} window", block, inputs[0]))


def _features(plain: PlainSwin, maps: Sequence[Tensor], stage: int) -> StageFeatures:
    place = plain.out_indices.index(stage - 1)
    return StageFeatures(f"stage {stage}", plain.feature_specs[place].stride, maps[place][0].cpu())


def _attention(
    block: PlainBlock, tokens: Tensor, title: str, stride: int, window: tuple[int, int] | None
) -> WindowView:
    """Attention of a block in one window of the first image of tokens (1, H, W, C)."""
    with torch.no_grad():
        windows, mask = block.windows(tokens)
        height, width = tokens.shape[1:3]
        sides, shift = block.window_and_shift((height, width))
        grid = windows.shape[1:3]
        row, column = window or (grid[0] // 2, grid[1] // 2)
        if window is None and any(shift):
            row, column = min(row, max(grid[0] - 2, 0)), min(column, max(grid[1] - 2, 0))
        if row >= grid[0] or column >= grid[1]:
            raise ConfigError(
                f"window {row},{column}: {title}: there are {grid[0]} rows of {grid[1]}, from 0; name another"
            )
        mask = None if mask is None else mask[row, column]
        weights, _ = block.attention_weights(windows[0, row, column], mask, sides)
    rows, columns = (
        (place * side + step + torch.arange(side)) % (count * side)
        for place, count, side, step in zip((row, column), grid, sides, shift, strict=True)
    )
    return WindowView(f"{title} ({row}, {column})", stride, (height, width), rows, columns, weights)
