"""Optimizer, schedule and runner of a config as our sections `optimizer`, `schedule` and `training`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

SUBSTITUTES = {"detection": (1e-4, 0.05), "segmentation": (6e-5, 0.01)}
"""Learning rate and weight decay of the recipes for Swin, for another optimizer than AdamW."""

NO_DECAY = ("absolute_pos_embed", "relative_position_bias_table", "norm")

COCO_IMAGES = 117266
"""Images of COCO's train2017 with annotations: what makes epochs of the iterations of a detector."""

SCORES = {
    "coco/bbox_mAP": "bbox_AP",
    "coco/segm_mAP": "segm_AP",
    "coco/bbox_mAP_50": "bbox_AP50",
    "coco/segm_mAP_50": "segm_AP50",
    "mIoU": "mIoU",
    "mAcc": "mAcc",
    "aAcc": "aAcc",
}
"""What the best checkpoint is chosen by, there and here."""


def training_settings(
    values: Mapping[str, Any], task: str, name: str, repeats: int, left_out: list[str]
) -> dict[str, Any]:
    """The sections; `name` is that of the file, `repeats` how often an epoch there goes through the data."""
    wrapper = values.get("optim_wrapper") or {}
    training: dict[str, Any] = {"precision": "32"}
    if str(wrapper.get("type")) == "AmpOptimWrapper":
        training["precision"] = "bf16" if wrapper.get("dtype") == "bfloat16" else "auto"
    clip = wrapper.get("clip_grad")
    if clip:
        training["clip_gradient_norm"] = float(clip.get("max_norm") or 0) or None
        if clip.get("norm_type", 2) != 2 or "max_norm" not in clip:
            left_out.append(f"optim_wrapper.clip_grad: {dict(clip)}; only the 2-norm is clipped")
    images = _images_per_step(values, name, left_out)
    accumulated = int(wrapper.get("accumulative_counts", 1))
    training |= {"accumulate": accumulated} if images is None else {"images_per_step": images * accumulated}
    if (seed := (values.get("randomness") or {}).get("seed")) is not None:
        training["seed"] = int(seed)
    interval = ((values.get("default_hooks") or {}).get("logger") or {}).get("interval")
    training |= {} if interval is None else {"log_every": int(interval)}
    _hooks(values, training, left_out)
    best = ((values.get("default_hooks") or {}).get("checkpoint") or {}).get("save_best")
    usual = "bbox_AP" if task == "detection" else "mIoU"
    if isinstance(best, str) and best not in SCORES and best != "auto":
        left_out.append(f"default_hooks.checkpoint.save_best: {best}; the best checkpoint is chosen by {usual}")
    schedule, training["validate_every"] = _schedule(values, task, images or 16, repeats, left_out)
    return {
        "optimizer": _optimizer(wrapper, task, left_out),
        "schedule": schedule,
        "training": training,
        "score_metric": SCORES.get(str(best), usual),
    }


def _images_per_step(values: Mapping[str, Any], name: str, left_out: list[str]) -> int | None:
    """The batch that the learning rate is for: as stated, or by the name of the file ("8xb2": 8 devices, 2 images)."""
    base = (values.get("auto_scale_lr") or {}).get("base_batch_size")
    if base:
        return int(base)
    if named := re.search(r"(?:^|[-_])(\d+)xb(\d+)(?=[-_.]|$)", name):
        return int(named[1]) * int(named[2])
    left_out.append("the number of devices is nowhere stated: set training.images_per_step to the whole batch")
    return None


def _optimizer(wrapper: Mapping[str, Any], task: str, left_out: list[str]) -> dict[str, Any]:
    given = dict(wrapper.get("optimizer") or {})
    kind = given.pop("type", "none")
    if kind != "AdamW":
        rate, decay = SUBSTITUTES[task]
        said = ", ".join(f"{key} {value}" for key, value in given.items())
        left_out.append(
            f"optim_wrapper.optimizer: {kind} ({said}) and its rules for parameters; AdamW stands in with the learning "
            f"rate {rate} and weight decay {decay} of the recipes for Swin"
        )
        return {"learning_rate": rate, "weight_decay": decay, "no_decay": NO_DECAY}
    rules = dict(wrapper.get("paramwise_cfg") or {})
    keys = rules.pop("custom_keys", {})
    undecayed = [_our_name(key) for key, rule in keys.items() if rule.get("decay_mult", 1) == 0]
    factors = sorted({float(rule["lr_mult"]) for rule in keys.values() if rule.get("lr_mult", 1) != 1})
    if factors:
        names = [key for key, rule in keys.items() if rule.get("lr_mult", 1) != 1]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        left_out.append(
            f"optim_wrapper.paramwise_cfg: learning rates times {', '.join(map(str, factors))} of {names[0]}{more}; "
            "optimizer.layer_decay is what ours has of the kind"
        )
    if rules.pop("norm_decay_mult", 1) == 0 and "norm" not in undecayed:
        undecayed.append("norm")
        left_out.append("optim_wrapper.paramwise_cfg.norm_decay_mult: norms are not decayed that have it in their name")
    rules.pop("bypass_duplicate", None)
    left_out += [f"optim_wrapper.paramwise_cfg.{key}: {value}" for key, value in rules.items()]
    if "constructor" in wrapper:
        left_out.append(f"optim_wrapper.constructor: {wrapper['constructor']}; learning rates are the same everywhere")
    settings = {
        "learning_rate": given.pop("lr", 1e-3),
        "weight_decay": given.pop("weight_decay", 1e-2),
        "betas": given.pop("betas", (0.9, 0.999)),
        "no_decay": tuple(dict.fromkeys(undecayed)),
    }
    usual = {"eps": 1e-8, "amsgrad": False}
    left_out += [f"optim_wrapper.optimizer.{key}: {one}" for key, one in given.items() if usual.get(key, ...) != one]
    return settings


def _our_name(key: str) -> str:
    """A part of a parameter's name as our backbone has it."""
    return re.sub(r"\bstages\.", "layers.", key).replace(".attn.w_msa.", ".attn.")


def _schedule(
    values: Mapping[str, Any], task: str, images: int, repeats: int, left_out: list[str]
) -> tuple[dict[str, Any], int | None]:
    loop = values.get("train_cfg") or {}
    if loop.get("dynamic_intervals"):
        left_out.append("train_cfg.dynamic_intervals: validations are as far apart at the end as before")
    planned = values.get("param_scheduler") or []
    plans = [planned] if isinstance(planned, Mapping) else list(planned)
    warmup = {"warmup_steps": 0, "warmup_ratio": 1.0}
    decays = []
    for plan in plans:
        if (
            plan.get("type") in ("LinearLR", "ConstantLR")
            and plan.get("begin", 0) == 0
            and not plan.get("by_epoch", True)
        ):
            warmup = {"warmup_steps": int(plan["end"]), "warmup_ratio": float(plan.get("start_factor", 1 / 3))}
            if plan["type"] == "ConstantLR":
                warmup["warmup_ratio"] = float(plan.get("factor", 1 / 3))
                left_out.append("param_scheduler: a warm-up that stays where it starts; ours rises in a line")
        else:
            decays.append(plan)
    make = _steps_down if task == "detection" else _decay_to_zero
    schedule, interval = make(loop, decays, images, repeats, left_out)
    return {**schedule, **warmup}, interval


def _steps_down(
    loop: Mapping[str, Any], decays: Sequence[Mapping[str, Any]], images: int, repeats: int, left_out: list[str]
) -> tuple[dict[str, Any], int | None]:
    """Epochs and milestones; iterations of a step become epochs of COCO."""
    iterations = loop.get("max_iters")
    scale = float(repeats) if iterations is None else images / COCO_IMAGES
    epochs = max(round((loop.get("max_epochs") or iterations or 12) * scale), 1)
    if iterations is not None:
        left_out.append(f"train_cfg.max_iters: {iterations} of {images} images are {epochs} epochs of COCO")
    if len(decays) == 1 and decays[0].get("type") == "MultiStepLR":
        milestones = tuple(max(round(one * scale), 1) for one in decays[0]["milestones"])
        gamma = float(decays[0].get("gamma", 0.1))
    else:
        names = ", ".join(str(one.get("type")) for one in decays) or "a learning rate that stays"
        milestones, gamma = (max(epochs * 2 // 3, 1), max(epochs * 11 // 12, 1)), 0.1
        left_out.append(f"param_scheduler: {names}; a factor of 0.1 after {milestones[0]} and {milestones[1]} epochs")
    interval = max(round(loop.get("val_interval", 1) * scale), 1)
    return {"epochs": epochs, "milestones": milestones, "gamma": gamma}, interval


def _decay_to_zero(
    loop: Mapping[str, Any], decays: Sequence[Mapping[str, Any]], images: int, repeats: int, left_out: list[str]
) -> tuple[dict[str, Any], int | None]:
    """Steps and the power of the decay."""
    steps = loop.get("max_iters")
    if steps is None:
        steps = 160000
        left_out.append(f"train_cfg.max_epochs: {loop.get('max_epochs')}; segmentation counts steps, {steps} here")
    decay: Mapping[str, Any] = decays[0] if len(decays) == 1 else {}
    if decay.get("type") != "PolyLR":
        names = ", ".join(str(one.get("type")) for one in decays) or "a learning rate that stays"
        left_out.append(f"param_scheduler: {names}; a straight line to zero")
        return {"steps": steps, "power": 1.0}, loop.get("val_interval")
    if decay.get("eta_min", 0):
        left_out.append(f"param_scheduler.eta_min: {decay['eta_min']}; ours decays to zero")
    if decay.get("begin", 0):
        left_out.append(
            f"param_scheduler.begin: {decay['begin']}; the decay counts from step 0, as in the official code: at its "
            f"begin the learning rate is {(1 - decay['begin'] / steps) ** decay.get('power', 1):.4f} of theirs"
        )
    return {"steps": steps, "power": float(decay.get("power", 1.0))}, loop.get("val_interval")


def _hooks(values: Mapping[str, Any], training: dict[str, Any], left_out: list[str]) -> None:
    for hook in values.get("custom_hooks") or ():
        if hook.get("type") == "EMAHook" and hook.get("ema_type", "ExponentialMovingAverage") == (
            "ExponentialMovingAverage"
        ):
            training["ema_decay"] = 1 - float(hook.get("momentum", 2e-4))
        elif hook.get("type") not in ("CheckInvalidLossHook", "NumClassCheckHook"):  # what ours always checks
            left_out.append(f"custom_hooks: {hook.get('type')}")
