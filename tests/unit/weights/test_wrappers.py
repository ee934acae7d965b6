"""What trainers, compilers and self-supervised training put around a model's names: taken off alike for every model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from helpers.small_swin import Detector, OtherDetector, backbone, equal, randomised, reasons
from swin_dense.errors import WeightsError
from swin_dense.weights import convert_state_dict, load_weights


def plain(seed: int) -> nn.Module:
    """A model without a backbone."""
    torch.manual_seed(seed)
    return randomised(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))


EVERY_MODEL = pytest.mark.parametrize("make", [backbone, Detector, OtherDetector, plain])


def with_prefix(prefix: str, model: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in model.state_dict().items()}


@EVERY_MODEL
@pytest.mark.parametrize(
    "prefix",
    [
        "module.",  # DistributedDataParallel
        "_orig_mod.",  # torch.compile
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.",
        "model.network.",  # best.ckpt of a run
        "model.network._orig_mod.",
        "net.",
        "student.",
        "teacher.",
        "module.encoder_q.",
    ],
)
def test_a_prefix_does_not_matter(prefix: str, make: Callable[[int], nn.Module]) -> None:
    source, target = make(1), make(2)
    report = load_weights(target, {"state_dict": with_prefix(prefix, source)})
    assert equal(target.state_dict(), source.state_dict())
    assert sorted(report.loaded) == sorted(source.state_dict())
    assert not report.skipped and not report.missing


@EVERY_MODEL
def test_a_wrapped_model_takes_weights_without_wrappers(make: Callable[[int], nn.Module]) -> None:
    source, target = make(1), make(2)
    wrapped = nn.ModuleDict({"model": nn.ModuleDict({"network": target})})
    report = load_weights(wrapped, source.state_dict())
    assert equal(target.state_dict(), source.state_dict())
    assert sorted(report.loaded) == sorted(f"model.network.{key}" for key in source.state_dict())


@pytest.mark.parametrize("make", [Detector, OtherDetector])
def test_a_part_that_was_compiled(make: Callable[[int], nn.Module]) -> None:
    source, target = make(1), make(2)
    state = {key.replace("backbone.", "backbone._orig_mod."): value for key, value in source.state_dict().items()}
    load_weights(target, state)
    assert equal(target.state_dict(), source.state_dict())
    compiled = make(3)
    compiled.backbone = nn.ModuleDict({"_orig_mod": compiled.backbone})
    load_weights(compiled, source.state_dict())
    assert equal(compiled.backbone["_orig_mod"].state_dict(), source.backbone.state_dict())


@EVERY_MODEL
@pytest.mark.parametrize(
    ("taken", "other"), [("teacher", "student"), ("encoder_q", "encoder_k"), ("encoder", "encoder_k")]
)
def test_of_two_copies_one_is_taken_and_the_other_reported(
    taken: str, other: str, make: Callable[[int], nn.Module]
) -> None:
    source, target = make(1), make(2)
    state = with_prefix(f"module.{other}.", make(3)) | with_prefix(f"module.{taken}.", source)
    report = load_weights(target, state | {"module.queue": torch.zeros(4, 8), "module.queue_ptr": torch.zeros(1)})
    assert equal(target.state_dict(), source.state_dict())
    skipped = reasons(report.skipped)
    copies = {f"module.{other}.{key}": f"another copy of the model; {taken} is taken" for key in source.state_dict()}
    assert skipped == copies | dict.fromkeys(("module.queue", "module.queue_ptr"), "of pre-training alone")


def test_a_model_that_holds_two_copies_gets_both() -> None:
    source, target = (nn.ModuleDict({"teacher": plain(seed), "student": plain(seed + 1)}) for seed in (1, 3))
    load_weights(target, with_prefix("module.", source))
    assert equal(target.state_dict(), source.state_dict())


def test_a_backbone_that_is_no_swin_is_taken_out_of_a_detector() -> None:
    source, target = OtherDetector(1), OtherDetector(2).backbone
    report = load_weights(target, with_prefix("model.network.", source))
    assert equal(target.state_dict(), source.backbone.state_dict())
    reason = "around the backbone, and the model is a backbone alone"
    assert reasons(report.skipped) == {f"model.network.roi_head.fc_cls.{leaf}": reason for leaf in ("weight", "bias")}


def test_two_keys_for_one_tensor_are_an_error() -> None:
    state = plain(1).state_dict()
    with pytest.raises(WeightsError, match=r"_orig_mod\.0\.weight and 0\.weight both stand for 0\.weight"):
        load_weights(
            plain(2), {"_orig_mod.0.weight": state["0.weight"], "x.y": torch.zeros(1)} | {"0.weight": torch.zeros(1)}
        )


def with_averages(weights: nn.Module, averages: nn.Module, prefix: str) -> dict[str, Tensor]:
    """As mmcv's EMA hook leaves them: one buffer for each parameter."""
    names = [name for name, _ in averages.named_parameters()]
    kept = {f"{prefix}ema_{name.replace('.', '_')}": averages.state_dict()[name] for name in names}
    return with_prefix(prefix, weights) | kept


@EVERY_MODEL
@pytest.mark.parametrize("prefix", ["", "module."])
def test_averages_of_mmcv_are_skipped_with_the_reason_or_taken(prefix: str, make: Callable[[int], nn.Module]) -> None:
    weights, averages, target = make(1), make(2), make(3)
    state = with_averages(weights, averages, prefix)
    report = load_weights(target, state)
    assert equal(target.state_dict(), weights.state_dict())
    parameters = [name for name, _ in weights.named_parameters()]
    reason = "average of mmcv's EMA hook; the option ema takes these instead of the weights"
    assert reasons(report.skipped) == {f"{prefix}ema_{name.replace('.', '_')}": reason for name in parameters}
    report = load_weights(target, state, ema=True)
    assert all(torch.equal(target.state_dict()[name], averages.state_dict()[name]) for name in parameters)
    assert reasons(report.skipped) == {f"{prefix}{name}": "its average is taken" for name in parameters}


def test_averages_are_converted_when_asked_for() -> None:
    weights, averages = Detector(1), Detector(2)
    state = with_averages(weights, averages, "")
    for ema, expected in ((False, weights), (True, averages)):
        converted, report = convert_state_dict(state, "swin-dense", ema=ema)
        assert torch.equal(converted["backbone.patch_embed.proj.weight"], expected.backbone.patch_embed.proj.weight)
        assert len(report.skipped) == len(list(weights.parameters()))


def test_averages_that_are_not_there_or_not_clear_are_an_error() -> None:
    with pytest.raises(WeightsError, match="there are no averages"):
        load_weights(plain(1), plain(2).state_dict(), ema=True)
    state = {"a.b": torch.zeros(1), "a_b": torch.zeros(1), "ema_a_b": torch.ones(1)}
    with pytest.raises(WeightsError, match="ema_a_b may be the average of a.b or a_b"):
        load_weights(plain(1), state, ema=True)


@pytest.mark.parametrize("digits", [5, 5_000])
def test_a_stage_of_many_digits_is_no_stage(digits: int) -> None:
    """Python refuses to read integers of more than 4,300 digits."""
    key = f"layers.{'9' * digits}.blocks.0.norm1.weight"
    for model in (backbone(), Detector(), plain(1)):
        state = model.state_dict() | {key: torch.zeros(8)}
        with pytest.raises(WeightsError) as raised:
            load_weights(model, state)
        assert len(str(raised.value)) < 1_000
    with pytest.raises(WeightsError) as raised:
        convert_state_dict({key: torch.zeros(8)}, "timm")
    assert len(str(raised.value)) < 1_000
