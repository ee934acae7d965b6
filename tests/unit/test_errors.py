"""Messages name options as whoever reads them writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from swin_dense.errors import on_command_line, option, setting, training_resumed


@pytest.mark.parametrize(
    ("name", "value", "in_python", "typed"),
    [
        ("new_classes", True, "new_classes=True", "--new-classes"),
        ("new_classes", False, "new_classes=False", "--same-classes"),
        ("label_shift", -1, "label_shift=-1", "--label-shift -1"),
        ("weights", Path("a run/ü.pth"), 'weights="a run/ü.pth"', "--weights 'a run/ü.pth'"),
        ("class_name", 'a "b"', 'class_name="a \\"b\\""', "--class 'a \"b\"'"),
    ],
)
def test_an_option(name: str, value: object, in_python: str, typed: str) -> None:
    assert option(name, value) == in_python
    with on_command_line():
        assert option(name, value) == typed
    assert option(name, value) == in_python


def test_a_config_key() -> None:
    assert setting("data.root", "x") == """**{"data.root": 'x'}"""
    with on_command_line():
        assert setting("data.root", "x") == "--set data.root=x"


def test_how_a_training_goes_on() -> None:
    assert training_resumed(Path("runs/a b")) == 'swin_dense.train(resume="runs/a b")'
    with on_command_line():
        assert training_resumed(Path("runs/a b")) == "swin-dense train --resume 'runs/a b'"
