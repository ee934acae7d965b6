"""From images to the tensors that are stored.

Only images of exactly one size are computed together. To pad a smaller image would change its features: the zeros of
the padding become tokens that take part in attention.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from swin_dense.backbones import FeatureSpec
from swin_dense.errors import ConfigError, DataError
from swin_dense.export.boxes import CELLS, pool_map, pool_pyramid
from swin_dense.export.images import LoadedImage
from swin_dense.records import Size

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""What features may be stored as; they are computed in float32."""


class Feature(NamedTuple):
    """One tensor to be stored.

    Attributes:
        name: "stage1", "stage1.pool", "stage1.roi", "roi" (of the pyramid) or "boxes".
        values: On the CPU.
        stride: Pixels of the resized image per cell, for each axis of the grid; empty where there is no grid.
    """

    name: str
    values: Tensor
    stride: tuple[int, ...]


class Extractor:
    """A model of `as_feature_model`, and the choice of what is kept of its maps."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: str, *, maps: bool, pool: bool) -> None:
        """Moves the model to the device and sets it to evaluation mode; `dtype` is a key of `DTYPES`."""
        if dtype not in DTYPES:
            raise ConfigError(f'dtype: unknown "{dtype}"; valid: {", ".join(DTYPES)}')
        moved: Any = model.to(device).eval()
        self.model = moved
        self.specs: tuple[FeatureSpec, ...] = tuple(moved.feature_specs)
        self.size_divisor: int = moved.size_divisor
        self.device, self.dtype = device, DTYPES[dtype]
        self.maps, self.pool = maps, pool

    def padding(self, size: Size) -> Size:
        """Rows below and columns right of an image of some height and width that the model adds."""
        height, width = size
        return -height % self.size_divisor, -width % self.size_divisor

    def bytes_of(self, image: LoadedImage) -> int:
        """Bytes that the features of an image will take, known before they are computed; 0 for an error."""
        if image.pixels is None:
            return 0
        boxes = 0 if image.boxes is None else len(image.boxes)
        values, pyramid = 0, 0
        for spec in self.specs:
            values += self.maps * spec.channels * math.prod(self._grid(spec, image.pixels)) + self.pool * spec.channels
            if spec.name in self.model.pyramid:
                pyramid = spec.channels
            else:
                values += boxes * spec.channels * CELLS**2
        return (values + boxes * pyramid * CELLS**2) * self.dtype.itemsize + boxes * 16

    def __call__(self, images: Sequence[LoadedImage]) -> list[list[Feature]]:
        """Computes what is kept of images of one size, none of them an error."""
        batch = torch.stack([image.pixels for image in images if image.pixels is not None])
        with torch.inference_mode():
            outputs = self.model(batch.to(self.device))
            for spec, output in zip(self.specs, outputs, strict=True):
                promised = (len(images), spec.channels, *self._grid(spec, batch[0]))
                if tuple(output.shape) != promised:
                    raise ConfigError(f"{spec.name} has shape {tuple(output.shape)}; feature_specs promises {promised}")
            return [
                [self._rounded(feature, image) for feature in self._features(image, [output[i] for output in outputs])]
                for i, image in enumerate(images)
            ]

    def _grid(self, spec: FeatureSpec, pixels: Tensor) -> Size:
        """Cells of a map, those of the padding too."""
        (height, width), (below, right) = pixels.shape[-2:], self.padding((pixels.shape[-2], pixels.shape[-1]))
        return -(-(height + below) // spec.stride), -(-(width + right) // spec.stride)

    def _features(self, image: LoadedImage, maps: Sequence[Tensor]) -> Iterator[Feature]:
        assert image.pixels is not None and image.original_size is not None
        height, width = image.pixels.shape[-2:]
        for spec, values in zip(self.specs, maps, strict=True):
            if self.maps:
                yield Feature(spec.name, values, (spec.stride, spec.stride))
            if self.pool:
                inside = values[:, : -(-height // spec.stride), : -(-width // spec.stride)]
                yield Feature(f"{spec.name}.pool", inside.mean(dim=(1, 2), dtype=torch.float32), ())
        if image.boxes is None:
            return
        scale = [width / image.original_size[1], height / image.original_size[0]] * 2
        boxes = (image.boxes * image.boxes.new_tensor(scale)).to(self.device)
        levels = []
        for spec, values in zip(self.specs, maps, strict=True):
            if spec.name in self.model.pyramid:
                levels.append((values, spec.stride))
            else:
                yield Feature(f"{spec.name}.roi", pool_map(values, boxes, spec.stride), ())
        if levels:
            yield Feature("roi", pool_pyramid(levels, boxes), ())
        yield Feature("boxes", image.boxes, ())

    def _rounded(self, feature: Feature, image: LoadedImage) -> Feature:
        if feature.name == "boxes":
            return feature
        rounded = feature.values.to(self.dtype)
        if not bool(rounded.isfinite().all()):
            if not bool(feature.values.isfinite().all()):
                raise DataError(
                    f"{image.path}: {feature.name} holds NaN or infinity; the weights or the model are broken"
                )
            raise DataError(f"{image.path}: {feature.name} is too large for float16; store bfloat16 or float32")
        # A copy of its own: safetensors refuses tensors that share the memory of a batch.
        return feature._replace(values=rounded.cpu().clone(memory_format=torch.contiguous_format))
