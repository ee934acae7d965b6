"""A training that learns a few images by heart: whether a model can learn the data at all, within minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from swin_dense.config import Config, load_config
from swin_dense.tasks import task_of
from swin_dense.tasks.training import Run
from swin_dense.training.base import metrics

PLAIN = {
    "flip_probability": 0.0,
    "crop_short_sides": None,
    "ratio_range": (1.0, 1.0),
    "cat_max_ratio": 1.0,
    "photometric_distortion": False,
    "rand_augment": None,
    "erase_probability": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "label_smoothing": 0.0,
    "extra": (),
}
"""What takes chance out of the augmentation, of any task."""

EPOCHS, STEPS = 200, 1000
"""Most that is trained, by the unit of the schedule."""

VALIDATIONS = 20
"""How often it is looked whether the images are learnt."""


def overfitting(config: Any, count: int, changes: Sequence[str] = ()) -> Any:
    """The config changed so that it learns its first `count` training images by heart, and stops when it has them.

    It validates on the images that it trains on; nothing is drawn at random but where a clip begins in its video,
    weights do not decay, the learning rate stays what it is after a short warm-up. What a user has typed, KEY=VALUE,
    holds nevertheless, but for the place of the validation images.
    """
    metric, wanted = task_of(config).memorised
    same = {"val": config.data.train, "num_workers": 0, "batch_size": min(config.data.batch_size, count)}
    limits = _known(config.data, limit_images=count, limit_videos=count)
    data = replace(config.data, **same, **limits, **_known(config.data, keep_empty=True, min_side=0))
    augmentation = replace(config.augmentation, **_known(config.augmentation, **PLAIN))
    if hasattr(augmentation, "ratio"):  # of a random part
        augmentation = replace(augmentation, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    if hasattr(augmentation, "short_sides"):
        sides = {"short_sides": (augmentation.test_short_side,), "max_long_side": augmentation.test_max_long_side}
        augmentation = replace(augmentation, **sides)
    schedule = config.schedule
    unhurried = {"warmup_epochs": 5.0, "min_ratio": 1.0, "milestones": ()}
    length: dict[str, Any] = {"epochs": EPOCHS} if schedule.unit == "epochs" else {"steps": STEPS}
    warmup = {"warmup_steps": min(schedule.warmup_steps, 20)} if hasattr(schedule, "warmup_steps") else {}
    stopping = {"type": "EarlyStopping", "stopping_threshold": wanted, "patience": VALIDATIONS}
    backbone, head = config.model.get("backbone", {}), config.model.get("head", {})
    still = {"drop_path_rate": 0.0} if backbone.get("type") == "SwinDense" else {}
    kept = {"head": {**head, "dropout": 0.0}} if "dropout" in head else {}
    changed = replace(
        config,
        model={**config.model, **kept, "backbone": {**backbone, **still}},
        data=data,
        augmentation=augmentation,
        optimizer=replace(config.optimizer, weight_decay=0.0),
        schedule=replace(schedule, **length, **warmup, **_known(schedule, **unhurried)),
        training=replace(
            config.training,
            validate_every=(EPOCHS if schedule.unit == "epochs" else STEPS) // VALIDATIONS,
            ema_decay=None,
            images_per_step=None,
            accumulate=1,
            pictures=min(count, 8),
        ),
        score_metric=metric,
        callbacks=(*config.callbacks, stopping),
    )
    return load_config(changed, [one for one in changes if not one.startswith(("data.val.", "data.val="))])


def verdict(run: Run, config: Config) -> tuple[bool, str]:
    """Whether the images were learnt, and what that says."""
    metric, wanted = task_of(config).memorised
    score = dict(metrics(run.metrics))[metric]
    if score >= wanted:
        return True, (
            f"learnt by heart: {metric} {score:.3g} on its own images; the model can learn such data. It learns wrong "
            f"labels as well: look in {run.folder / 'pictures'} whether those that it has learnt are right"
        )
    side = getattr(config.augmentation, "test_short_side", None)
    larger = f"show larger images if small objects are missed (augmentation.test_short_side={side}), " if side else ""
    return False, (
        f"not learnt by heart: {metric} {score:.3g}, wanted {wanted:g}; look at {run.folder / 'pictures'}, check the "
        f"data with swin-dense check-data, {larger}and try another learning rate"
    )


def _known(settings: object, **values: Any) -> dict[str, Any]:
    """Those of some values that a section of a config has keys for."""
    return {name: value for name, value in values.items() if hasattr(settings, name)}
