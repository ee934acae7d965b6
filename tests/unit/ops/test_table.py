"""Every op that is promised to mmcv is a function of the file that the table names, and is called through it."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
import torch

from swin_dense.ops import FILES, OPS


@pytest.mark.parametrize("file", FILES)
def test_the_file_has_the_ops(file: str) -> None:
    module = import_module(f"swin_dense.ops.{file}")
    assert all(inspect.isfunction(getattr(module, name)) for name in FILES[file])


def test_a_call_reaches_the_op() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9], [6.0, 6.0, 8.0, 8.0]])
    assert OPS["nms"](boxes, torch.tensor([0.5, 0.9, 0.7]), iou_threshold=0.5, offset=0).tolist() == [1, 2]
