"""A step's randomness depends on its place alone; a loss that is not finite stops before it spoils the weights."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor, nn

from swin_dense.backbones import create_classifier
from swin_dense.errors import ConfigError, TrainingError
from swin_dense.isolation import seeded
from swin_dense.records import Batch
from swin_dense.training import ClassifierModule, DetectorModule
from swin_dense.training.base import total_loss

BATCH = Batch(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), ((4, 4),) * 2, ((4, 4),) * 2, (7, 9), ("a.jpg", "b.jpg"))
CPU = torch.device("cpu")


def draws() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


def drawn_at(*place: int) -> tuple[float, float, float]:
    with seeded(*place, device=CPU):
        return draws()


def test_the_same_place_draws_the_same_and_any_other_place_something_else() -> None:
    first = drawn_at(1, 2, 3, 4)
    assert drawn_at(1, 2, 3, 4) == first
    for place in ((0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)):
        assert all(a != b for a, b in zip(drawn_at(*place), first, strict=True))


def test_the_generators_of_the_caller_go_on_as_if_nothing_had_been_drawn() -> None:
    with seeded(5, device=CPU):
        expected = [draws(), draws()]
    with seeded(5, device=CPU):
        found = [draws()]
        drawn_at(1, 2, 3)
        found.append(draws())
    assert found == expected


def test_a_model_dict_is_no_model() -> None:
    with pytest.raises(ConfigError, match="DetectorModule takes what swin_dense.load gives, .* and no dict"):
        DetectorModule({"type": "MaskRCNN"})


def test_a_network_without_what_a_module_asks_of_it_is_refused_before_a_training() -> None:
    with pytest.raises(ConfigError, match=r"help\(ClassifierModule\) names, and no SwinClassifier: swin_dense.load"):
        ClassifierModule(create_classifier("swin_nano", num_classes=2))


def test_only_losses_are_added_up() -> None:
    terms = {"loss_rpn_cls": torch.tensor(1.0), "acc": torch.tensor(90.0), "s0.loss_bbox": torch.tensor(2.0)}
    assert float(total_loss(terms)) == 3.0


class Scripted(nn.Module):
    """Its loss is what is said beforehand."""

    has_masks = False

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.network = nn.Linear(1, 1)
        self.values = iter(values)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss_cls": torch.tensor(1.0), "loss_bbox": torch.tensor(next(self.values)), "acc": torch.tensor(0.5)}


@pytest.mark.parametrize(("stage", "wanted", "calls"), [("fit", True, 1), ("validate", True, 0), ("fit", False, 0)])
def test_a_training_compiles_the_backbone_alone_for_all_sizes(
    stage: str, wanted: bool, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compiled.append((self, options)))
    model = Scripted()
    model.network = nn.ModuleDict({"backbone": nn.Linear(1, 1), "neck": nn.Linear(1, 1)})
    module = DetectorModule(model, compile=wanted)
    module.trainer = trainer_of(None)
    module.setup(stage)
    assert compiled == [(model.network["backbone"], {"dynamic": True})] * calls


def steps_done(values: list[float], patience: int, scaler: object | None) -> int:
    """Steps until the module stops."""
    module = DetectorModule(Scripted(*values), patience=patience)
    module.trainer = trainer_of(scaler)
    for step in range(len(values)):
        module.training_step(BATCH, step)
        try:
            module.on_after_backward()
        except TrainingError:
            return step
    return len(values)


def trainer_of(scaler: object | None) -> Any:
    precision: Any = Precision()
    precision.scaler = scaler
    return SimpleNamespace(
        precision_plugin=precision,
        optimizers=[SimpleNamespace(param_groups=[{"lr": 1e-4}])],
        world_size=1,
        current_epoch=0,
        global_step=1,
        global_rank=0,
        datamodule=None,
    )


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_loss_that_is_not_finite_names_the_term_and_the_images(value: float) -> None:
    module = DetectorModule(Scripted(value))
    module.trainer = trainer_of(None)
    module.training_step(BATCH, 0)
    with pytest.raises(TrainingError, match=rf"\(loss_bbox={value}\) in .*7 \(a.jpg\), 9 \(b.jpg\)"):
        module.on_after_backward()


def test_without_a_gradient_scaler_the_first_one_stops() -> None:
    assert steps_done([1.0, NAN, 1.0], patience=3, scaler=None) == 1


def test_a_gradient_scaler_may_skip_some_steps_but_not_any_number_in_a_row() -> None:
    assert steps_done([NAN, NAN, 1.0, INF, NAN, 1.0], patience=2, scaler=object()) == 6
    assert steps_done([1.0, NAN, NAN, NAN, 1.0], patience=2, scaler=object()) == 3
