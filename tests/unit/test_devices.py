"""Which device a name means, and what is said where it is none."""

from __future__ import annotations

import pytest
import torch

from swin_dense import devices
from swin_dense.devices import chosen_device
from swin_dense.errors import ConfigError


def have(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_without_a_name_the_best_device_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch)
    assert chosen_device(None) == torch.device("cpu")
    have(monkeypatch, mps=True)
    assert chosen_device(None) == torch.device("mps")
    have(monkeypatch, cuda=2, mps=True)
    assert chosen_device(None) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")  # of torchrun: each process its own
    assert chosen_device(None) == torch.device("cuda", 1)


def test_a_named_device_is_taken() -> None:
    assert chosen_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda", "cuda:7", "mps", "meta", "cpu:x", ""])
def test_a_device_that_computes_nothing_here_is_refused_with_those_that_do(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = devices.failure_on
    monkeypatch.setattr(
        devices, "failure_on", lambda device: "no driver" if device[:2] in ("cu", "mp") else working(device)
    )
    have(monkeypatch)
    with pytest.raises(ConfigError, match=rf'^device "{name}" cannot be used: .+; available: cpu$') as error:
        chosen_device(name)
    assert "\n" not in str(error.value)


def test_accelerators_of_other_makers_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert [(one.name, one.description) for one in devices.find_devices()[:2]] == [
        ("xpu:0", "accelerator of type xpu"),
        ("xpu:1", "accelerator of type xpu"),
    ]
