"""The classifier's recipe: mixed labels, smoothing, decay and schedule are those of the official code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from swin_dense.backbones import create_classifier
from swin_dense.errors import ConfigError
from swin_dense.inference.classification import ImageClassifier
from swin_dense.records import Batch
from swin_dense.training.base import ADAMW
from swin_dense.training.modules import ClassifierModule, Mixing
from swin_dense.training.optim import adamw, cosine_factor


def images_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(8.0)[:, None, None, None].expand(8, 3, 32, 32).contiguous(), torch.arange(8) % 5


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.8), Mixing(cutmix=1.0)], ids=["mixup", "cutmix"])
def test_labels_are_mixed_as_the_images_are(mixing: Mixing) -> None:
    """Image i is everywhere i, so that its mean says how much of which image is in it."""
    torch.manual_seed(0)
    images, labels = images_and_labels()
    for _ in range(5):
        mixed, targets = mixing(images, labels, 5)
        assert torch.allclose(targets.sum(1), torch.ones(8))
        other = images.roll(1, 0).mean((1, 2, 3))
        own = images.mean((1, 2, 3))
        share = (mixed.mean((1, 2, 3)) - other) / (own - other)
        expected = share[:, None] * torch.eye(5)[labels] + (1 - share)[:, None] * torch.eye(5)[labels.roll(1)]
        assert torch.allclose(targets, expected, atol=1e-5)


def test_cutmix_and_mixup_take_turns_and_some_batches_stay() -> None:
    torch.manual_seed(0)
    images, labels = images_and_labels()
    mixing = Mixing(mixup=0.8, cutmix=1.0, probability=0.8, switch_probability=0.5)
    kinds = {"same": 0, "cutmix": 0, "mixup": 0}
    for _ in range(200):
        mixed = mixing(images, labels, 5)[0]
        whole = bool((mixed.flatten(1) == mixed.flatten(1)[:, :1]).all())
        kinds["same" if torch.equal(mixed, images) else "mixup" if whole else "cutmix"] += 1
    assert 20 < kinds["same"] < 65 and kinds["cutmix"] > 50 and kinds["mixup"] > 50


def test_a_part_of_some_images_is_erased_and_the_batch_itself_is_left_alone() -> None:
    images, labels = images_and_labels()
    before = images.clone()
    torch.manual_seed(0)
    erased, targets = Mixing(erase_probability=0.5)(images, labels, 5)
    changed = (erased != images).flatten(1).float().mean(1)
    assert torch.equal(images, before) and torch.equal(targets.argmax(1), labels)
    assert 0 < (changed > 0).sum() < 8 and (changed < 0.5).all()


def test_wrong_ranges_are_refused() -> None:
    with pytest.raises(ConfigError, match="alphas must be at least 0"):
        Mixing(mixup=-1)


def test_the_loss_is_smoothed_cross_entropy() -> None:
    torch.manual_seed(0)
    model = ImageClassifier(create_classifier("swin_nano", 5).eval())
    module = ClassifierModule(model, mixing=Mixing(), label_smoothing=0.1)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    sizes = ((32, 32),) * 2
    batch = Batch(pixels, sizes, sizes, (0, 1), ("a", "b"), labels=(1, 4))
    log_p = model.logits(pixels).log_softmax(-1)
    expected = -(0.9 * log_p[[0, 1], [1, 4]] + 0.1 * log_p.mean(1)).mean()
    assert torch.allclose(module.losses(batch)["loss_ce"], expected)


@pytest.mark.parametrize("version", [1, 2])
def test_vectors_and_bias_tables_do_not_decay_and_all_else_does(version: int) -> None:
    """The official rules: no decay for what has one dimension, ends in .bias, or makes biases or temperatures."""
    network = create_classifier("swin_nano", 5, version=version)
    module = ClassifierModule(ImageClassifier(network))
    groups = adamw(network, **{name: module.hparams[name] for name in ADAMW}).param_groups
    kept = {id(one) for group in groups if group["weight_decay"] == 0 for one in group["params"]}
    for name, parameter in network.named_parameters():
        kinds = ("relative_position_bias_table", "cpb_mlp", "logit_scale")
        official = parameter.ndim == 1 or name.endswith(".bias") or any(kind in name for kind in kinds)
        assert (id(parameter) in kept) == official, name


def test_the_schedule_is_that_of_the_official_code() -> None:
    scheduler = pytest.importorskip("timm.scheduler.cosine_lr")
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1e-3)
    options = {"lr_min": 1e-5, "warmup_lr_init": 1e-6, "warmup_t": 20, "t_in_epochs": False, "warmup_prefix": True}
    reference = scheduler.CosineLRScheduler(optimizer, t_initial=80, cycle_limit=1, **options)
    for step in range(100):
        reference.step_update(step)
        factor = cosine_factor(step, steps=100, min_ratio=0.01, warmup_steps=20, warmup_ratio=0.001)
        assert math.isclose(1e-3 * factor, optimizer.param_groups[0]["lr"], rel_tol=1e-9)
