"""Which tensors of a model depend on the number of classes: those that weights of other classes cannot fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

CLASS_COUNTS = (3, 4)
"""Two counts to compare; small ones that no head treats in a way of its own, as some do one or two classes."""


def class_dependent_tensors(
    model: Mapping[str, Any], build: Callable[[Mapping[str, Any], int], nn.Module]
) -> list[str]:
    """Finds the parameters and buffers whose shape depends on the number of classes.

    The network is built for two class counts, as shapes alone, and compared. So it serves every model: classification
    layers, box regression and masks of each class, embeddings of labels that queries are made of.

    Args:
        model: mmdet or mmseg model dict.
        build: `build_network` of the library whose dict it is.

    Returns:
        Names in the network's state dict, in its order.

    Raises:
        ConfigError: A part of the dict is unknown or does not fit the others.
    """
    with torch.device("meta"):
        fewer, more = (build(_with_equal_weights(model), count).state_dict() for count in CLASS_COUNTS)
    return [name for name, tensor in fewer.items() if tensor.shape != more[name].shape]


def _with_equal_weights(model: Any) -> Any:
    """The same with one weight for all classes: lists of weights fit the number of classes of the data alone."""
    if isinstance(model, list | tuple):
        return [_with_equal_weights(item) for item in model]
    if not isinstance(model, Mapping):
        return model
    return {
        key: [1.0] * len(value)
        if key == "class_weight" and isinstance(value, list | tuple)
        else _with_equal_weights(value)
        for key, value in model.items()
    }
