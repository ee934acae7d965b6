"""Torchvision's v2 transforms, and any others of a user, as a list of settings or objects that act on samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from swin_dense.data.transforms import Transform, keep_visible
from swin_dense.errors import ConfigError, nearest
from swin_dense.records import Sample

V2 = "torchvision.transforms.v2"


class UserTransforms:
    """Applies a user's transforms in turn, and makes sure that a sample is still one afterwards.

    Image, boxes, masks and label map are transformed together. Instances of which nothing is left to see are left out
    as `crop` does, with label and crowd flag; what a transform adds to the image has no class in the label map.

    Example:
        >>> import torch
        >>> from torchvision import tv_tensors
        >>> from swin_dense.data.user_transforms import UserTransforms
        >>> from swin_dense.records import Sample
        >>> brighter = UserTransforms([{"type": "ColorJitter", "brightness": (2, 2)}])
        >>> grey = tv_tensors.Image(torch.full((3, 4, 4), 60, dtype=torch.uint8))
        >>> int(brighter(Sample(grey, 1, "grey.png", (4, 4))).image.max())
        120
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any] | Callable[..., Any]], key: str = "transforms") -> None:
        """Builds the transforms.

        Args:
            transforms: Each a callable from sample to sample, such as any of torchvision's v2 transforms, or its
                settings: `type`, a name of torchvision.transforms.v2 or the full name of a class, and its arguments.
            key: What to call the list in messages.
        """
        self.key = key
        self.transforms = [_build(one, f"{key}[{place}]") for place, one in enumerate(transforms)]

    def __call__(self, sample: Sample) -> Sample:
        """Transforms one sample; a result that cannot be learnt from is an error that names the transform."""
        for place, transform in enumerate(self.transforms):
            # One up and one down: what is filled with 0 then has no class (-1).
            if sample.label_map is not None:
                sample = replace(sample, label_map=tv_tensors.Mask(sample.label_map + 1))
            sample = transform(sample)
            fault = _fault(sample)
            if fault:
                name = type(transform).__name__
                raise ConfigError(f"{self.key}[{place}] ({name}) leaves {fault}; leave it out or change its settings")
            if sample.label_map is not None:
                sample = replace(sample, label_map=tv_tensors.Mask(sample.label_map - 1))
        return sample if sample.instances is None else replace(sample, instances=keep_visible(sample.instances))


def with_user_transforms(steps: Sequence[Transform], extra: Sequence[Any]) -> Transform:
    """Transforms of training samples, and behind them those of a config's `augmentation.extra`."""
    transform: Transform = v2.Compose([*steps, UserTransforms(extra, "augmentation.extra")])
    return transform


class SanitizeInstances(v2.SanitizeBoundingBoxes):  # type: ignore[misc]  # torchvision has no types
    """Torchvision's, for samples: labels and crowd flags go with their boxes, and the label map is no mask of them."""

    def __init__(self, min_size: float = 1.0, min_area: float = 1.0) -> None:
        super().__init__(min_size, min_area, labels_getter=_labels_and_flags)

    def forward(self, *inputs: Any) -> Any:
        """Leaves out instances whose boxes are too small."""
        (sample,) = inputs
        return replace(sample, instances=sample.instances and super().forward(sample.instances))


def _labels_and_flags(instances: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return instances.labels, instances.crowd


def _build(settings: Any, where: str) -> Transform:
    """A transform from its settings, whose arguments may hold others; an object as it is."""
    if isinstance(settings, Mapping):
        arguments = {name: _build_nested(value, where) for name, value in settings.items() if name != "type"}
        factory = _class_of(settings.get("type"), where)
        try:
            settings = factory(**arguments)
        except Exception as error:  # what a class says about its arguments is for the user
            raise ConfigError(f"{where}: {getattr(factory, '__name__', factory)}: {error}") from error
    if not callable(settings):
        raise ConfigError(f"{where} is {settings!r:.80}; write dict(type=..., ...) or give a transform")
    built: Transform = _for_samples(settings)
    return built


def _build_nested(value: Any, where: str) -> Any:
    if isinstance(value, Mapping) and "type" in value:
        return _build(value, where)
    if isinstance(value, (list, tuple)) and any(isinstance(one, Mapping) and "type" in one for one in value):
        return [_build_nested(one, where) for one in value]
    return value


def _class_of(name: Any, where: str) -> Callable[..., Any]:
    if callable(name):
        return name  # type: ignore[no-any-return]  # `callable` tells no more
    if not isinstance(name, str):
        raise ConfigError(f"{where}: needs a type, such as type={V2}.ColorJitter")
    module, _, last = name.rpartition(".")
    try:
        found = getattr(import_module(module or V2), last, None)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{where}: {name!r} cannot be imported ({error})") from error
    if not callable(found):
        names = [one for one in vars(import_module(module or V2)) if one[:1].isupper()]
        raise ConfigError(f"{where}: {module or V2} has no {last!r}; {nearest(last, names)}")
    return found  # type: ignore[no-any-return]  # likewise


def _for_samples(transform: Any) -> Any:
    """Puts `SanitizeInstances` in the place of torchvision's own, also inside its containers."""
    if type(transform) is v2.SanitizeBoundingBoxes:
        return SanitizeInstances(transform.min_size, transform.min_area)
    if isinstance(transform, (v2.Compose, v2.RandomApply, v2.RandomChoice, v2.RandomOrder)):
        transforms = [_for_samples(one) for one in transform.transforms]
        transform.transforms = (
            torch.nn.ModuleList(transforms) if isinstance(transform.transforms, torch.nn.ModuleList) else transforms
        )
    return transform


def _fault(sample: Any) -> str | None:
    """What keeps the result of a transform from being a sample."""
    if not isinstance(sample, Sample):
        return f"a {type(sample).__name__} instead of a sample"
    image, instances, label_map = sample.image, sample.instances, sample.label_map
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
        return f"an image of {image.dtype} {tuple(image.shape)}, not uint8 (3, H, W), which the model normalises"
    if label_map is not None and tuple(label_map.shape) != sample.size:
        return f"a label map of {tuple(label_map.shape)} for an image of {sample.size}"
    if instances is None:
        return None
    boxes, masks = instances.boxes, instances.masks
    if not isinstance(boxes, tv_tensors.BoundingBoxes) or boxes.format != tv_tensors.BoundingBoxFormat.XYXY:
        return "boxes that are not in the format XYXY"
    lengths = {len(boxes), len(instances.labels), len(instances.crowd), *([len(masks)] if masks is not None else [])}
    if len(lengths) > 1:
        return f"{len(boxes)} boxes, {len(instances.labels)} labels and {len(instances.crowd)} crowd flags"
    if tuple(boxes.canvas_size) != sample.size or (masks is not None and tuple(masks.shape[-2:]) != sample.size):
        return f"boxes or masks of another size than the image, {sample.size}"
    return None
