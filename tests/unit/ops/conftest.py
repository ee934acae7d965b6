"""The ops are called as detectors call them: through mmcv's own autograd wrappers."""

from __future__ import annotations

import pytest
import torch

from swin_dense.openmmlab.registry import install

install()


DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)
