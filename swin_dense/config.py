"""Reads a config file into frozen dataclasses, so that a wrong key is an error before anything else happens.

A config is an mmengine Python file (with at most one level of `_base_`). Everything but `model` has a fixed schema: the
dataclasses of this file; `model` is a model dict as mmdet writes it.
"""

from __future__ import annotations

import ast
import pprint
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from swin_dense.errors import ConfigError, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class SplitConfig:
    """Where one split of a COCO-format data set lies, relative to `DataConfig.root`.

    Attributes:
        annotations: JSON file, or `archive.zip/member.json`.
        images: Image folder, or a zip file of images.
    """

    annotations: str
    images: str


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how much of it at a time.

    Attributes:
        root: Folder of the data set, relative to the working directory.
        train: The split that is learnt from.
        val: The split that is scored.
        batch_size: Training images per device.
        eval_batch_size: Validation images per device.
        num_workers: Loading processes per device; 0 loads in the main process.
        keep_empty: Whether images without annotations are trained on.
        min_side: Images whose shorter side is below this many pixels are left out of training.
        size_divisor: Padded sides are multiples of this many pixels.
        limit_images: Use only the first images of both splits, for trials; None uses all.
    """

    root: str
    train: SplitConfig
    val: SplitConfig
    batch_size: int
    eval_batch_size: int = 1
    num_workers: int = 2
    keep_empty: bool = False
    min_side: int = 32
    size_divisor: int = 32
    limit_images: int | None = None


@dataclass(frozen=True)
class AugmentationConfig:
    """The official multi-scale policy: resize, or with equal chance resize, crop and resize again; then flip.

    Attributes:
        short_sides: Shorter sides in pixels, one of which is drawn for each image.
        max_long_side: The longer side never exceeds this many pixels.
        crop_short_sides: Shorter sides before the crop; None never crops.
        crop_range: Least and greatest side of the crop in pixels.
        flip_probability: How often an image is mirrored.
        test_short_side: Shorter side for validation and prediction.
        test_max_long_side: Cap of the longer side for validation and prediction.
    """

    short_sides: tuple[int, ...]
    max_long_side: int
    test_short_side: int
    test_max_long_side: int
    crop_short_sides: tuple[int, ...] | None = None
    crop_range: tuple[int, int] = (384, 600)
    flip_probability: float = 0.5


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW.

    Attributes:
        learning_rate: For the total batch of the recipe; not scaled by the number of devices.
        weight_decay: Of every parameter whose name contains none of `no_decay`.
        betas: Momentum coefficients.
        no_decay: Parts of parameter names that are not decayed.
    """

    learning_rate: float
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    no_decay: tuple[str, ...] = ("absolute_pos_embed", "relative_position_bias_table", "norm")


@dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up, then steps down.

    Attributes:
        epochs: Length of the training.
        milestones: Epochs after which the learning rate is multiplied by `gamma`.
        gamma: The factor.
        warmup_steps: Optimizer steps of the warm-up.
        warmup_ratio: First learning rate of the warm-up, as a part of the full one.
    """

    epochs: int
    milestones: tuple[int, ...]
    gamma: float = 0.1
    warmup_steps: int = 500
    warmup_ratio: float = 0.001


@dataclass(frozen=True)
class TrainingConfig:
    """How the training runs.

    Attributes:
        precision: "32", "bf16" or "16" (mixed precision, the weights stay in float32).
        accumulate: Batches whose gradients are added up before an optimizer step.
        clip_gradient_norm: Greatest norm of the gradient; None does not clip.
        ema_decay: Decay of the exponential moving average of the weights; None keeps none.
        seed: Of everything random.
        validate_every: Epochs from one validation to the next.
        checkpoint_every: Optimizer steps from one `last.ckpt` to the next, besides the end of every epoch.
        log_every: Batches from one line of `metrics.csv` to the next.
        pictures: Validation images that are drawn with their predictions.
    """

    precision: str = "32"
    accumulate: int = 1
    clip_gradient_norm: float | None = None
    ema_decay: float | None = None
    seed: int = 0
    validate_every: int = 1
    checkpoint_every: int = 1000
    log_every: int = 50
    pictures: int = 8


@dataclass(frozen=True)
class DetectionConfig:
    """A whole detection config.

    Attributes:
        model: mmdet model dict; its backbone is ours (`type="SwinDense"`) or any that mmdet knows.
        data: What is read.
        augmentation: What is done to images.
        optimizer: AdamW.
        schedule: Of the learning rate.
        training: How the training runs.
        score_metric: What `best.ckpt` is chosen by, for instance "segm_AP".
    """

    model: dict[str, Any]
    data: DataConfig
    augmentation: AugmentationConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    score_metric: str
    training: TrainingConfig = TrainingConfig()


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> DetectionConfig:
    """Reads and checks a config file.

    Args:
        path: The Python file. It is executed: only use config files that you trust.
        overrides: `key=value` texts, the key dotted (`data.batch_size=4`), the value a Python literal or plain text.

    Returns:
        The config.

    Raises:
        ConfigError: The file cannot be read, or a key is unknown, missing or of the wrong type.
    """
    values = _read(Path(path))
    for override in overrides:
        _override(values, override, str(path))
    return typing.cast(DetectionConfig, _parse(DetectionConfig, values, str(path), ""))


def config_text(config: DetectionConfig) -> str:
    """The resolved config as a config file that `load_config` reads back to the same value."""
    return (
        "\n".join(f"{key} = {pprint.pformat(value, sort_dicts=False)}" for key, value in asdict(config).items()) + "\n"
    )


def _read(path: Path) -> dict[str, Any]:
    from mmengine.config import Config

    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    try:
        loaded = Config.fromfile(str(path), lazy_import=False)
    except Exception as error:  # a config is a program: anything can go wrong in it
        raise ConfigError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
    return typing.cast(dict[str, Any], loaded.to_dict())


def _override(values: dict[str, Any], override: str, path: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f'"{override}": write an override as key=value, for instance data.batch_size=4')
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    *parents, last = key.split(".")
    target: Any = values
    for depth, parent in enumerate(parents):
        target = _child(target, parent, create=depth == 0, where=f'{path}: override "{override}"')
    if isinstance(target, list):
        target[_index(last, target, f'{path}: override "{override}"')] = value
    else:
        target[last] = value


def _child(target: Any, key: str, create: bool, where: str) -> Any:
    if isinstance(target, list):
        return target[_index(key, target, where)]
    child = target.setdefault(key, {}) if create else target.get(key)
    if not isinstance(child, (dict, list)):
        raise ConfigError(f'{where}: "{key}" holds no keys; {nearest(key, list(target))}')
    return child


def _index(key: str, target: list[Any], where: str) -> int:
    if not key.isdigit() or int(key) >= len(target):
        raise ConfigError(f'{where}: "{key}" is no position in a list of {len(target)}')
    return int(key)


def _parse(kind: Any, value: Any, path: str, key: str) -> Any:
    """Checks `value` against a type annotation and converts it: dataclasses, tuples, optionals and plain types."""
    if is_dataclass(kind):
        return _parse_dataclass(typing.cast(type, kind), value, path, key)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _parse(next(argument for argument in arguments if argument is not type(None)), value, path, key)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{path}: {key} must be a list, not {value!r}")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ConfigError(f"{path}: {key} must have {len(arguments)} values, not {len(value)}")
        return tuple(_parse(arguments[0], item, path, f"{key}.{i}") for i, item in enumerate(value))
    expected = origin or kind
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if expected is str and key.endswith("precision") and isinstance(value, int):
        return str(value)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise ConfigError(f"{path}: {key} must be {expected.__name__}, not {value!r}")
    return value


def _parse_dataclass(kind: type, value: Any, path: str, key: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: {key} must be a dict of settings, not {value!r}")
    hints = typing.get_type_hints(kind)
    valid = {field.name: field for field in fields(kind)}
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in valid:
            raise ConfigError(f'{path}: unknown key "{prefix}{name}"; {nearest(name, list(valid))}')
    for name, field in valid.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f'{path}: missing key "{prefix}{name}"')
    return kind(**{name: _parse(hints[name], item, path, f"{prefix}{name}") for name, item in value.items()})
