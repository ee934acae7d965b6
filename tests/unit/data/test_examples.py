"""The examples in the docstrings of public names run as they stand."""

import doctest

import pytest

from swin_dense.data import coco as data
from swin_dense.data import user_transforms
from swin_dense.metrics import coco


@pytest.mark.parametrize("module", [data, user_transforms, coco])
def test_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
