"""The checks of a device: what is reported, and that a device which computes something else fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from helpers.commands import answer, command
from swin_dense.doctor.device import Measured, difference, run_checks
from swin_dense.doctor.operators import CASES, operator_checks
from swin_dense.ops import OPS, roi

CPU = torch.device("cpu")


def broken() -> Measured:
    raise ValueError("no kernel image is available")


def test_a_check_that_breaks_does_not_hide_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    measured = {"close": lambda: Measured(0.1, 0.2, "of 3"), "broken": broken, "far": lambda: Measured(0.3, 0.2)}
    close, raised, far = run_checks(measured.items())
    assert (close.passed, close.difference, close.tolerance, close.detail) == (True, 0.1, 0.2, "of 3")
    assert (raised.passed, raised.difference) == (False, None)
    assert raised.detail.startswith("ValueError: no kernel image is available") and "test_device.py" in raised.detail
    assert not far.passed
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in said] == [["passed", "close"], ["FAILED", "broken"], ["FAILED", "far"]]


def test_checks_are_chosen_by_their_names() -> None:
    measured = [(name, lambda: Measured(0, 0)) for name in ("operators: nms", "backbone: swin_tiny", "predict: atss")]
    assert [one.name for one in run_checks(measured, only=["nms", "predict"])] == ["operators: nms", "predict: atss"]


def test_a_difference_is_part_of_the_largest_value_of_its_tensor() -> None:
    expected = [torch.tensor([0.0, 100.0]), torch.tensor([1.0])]
    assert difference([torch.tensor([1.0, 100.0]), torch.tensor([1.0])], expected) == pytest.approx(0.01)
    for found in (torch.tensor([1.0, float("nan")]), torch.tensor([1.0])):
        with pytest.raises(ArithmeticError):
            difference([found, torch.tensor([1.0])], expected)


def test_every_operator_has_a_case() -> None:
    """All but the two that say how things were compiled."""
    checked = {operator for case in CASES for operator in case.operators}
    assert checked == {name for name in OPS if not name.startswith("get_")}


def test_an_operator_that_computes_something_else_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., None] = roi.roi_align_backward

    def wrong(grad_output: torch.Tensor, *rest: Any, **options: Any) -> None:
        # The reference, in float64, stays what it is.
        right(grad_output if grad_output.dtype == torch.float64 else 1.01 * grad_output, *rest, **options)

    monkeypatch.setattr(roi, "roi_align_backward", wrong)
    failed = [one.name for one in run_checks(operator_checks(CPU)) if not one.passed]
    assert any("float32" in name for name in failed) and all("roi_align" in name for name in failed)


@pytest.mark.filterwarnings("ignore")
def test_the_command_checks_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    """A few checks of each kind."""
    words = ["operators", "metrics", "features: mask-rcnn", "step: atss, bfloat16", "step: upernet, bfloat16"]
    options = [option for word in words for option in ("--only", word)]
    said = answer(capsys, "doctor", "--device", "cpu", *options, "--json")
    assert said["ok"] and said["device"] == "cpu" and said["versions"]["torch"] in torch.__version__
    assert {one["name"].partition(":")[0] for one in said["checks"]} == {
        "operators",
        "metrics",
        "features",
        "training step",
    }
    assert all(one["passed"] and one["difference"] <= one["tolerance"] for one in said["checks"])


def test_checks_belong_to_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor", "--only", "operators") == 2
    assert "name one with --device" in capsys.readouterr().err
    assert command("doctor", "--device", "cpu", "--only", "xyz") == 2
    assert "no check has xyz in its name" in capsys.readouterr().err
