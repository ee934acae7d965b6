"""Compiled models whose graphs are counted."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.fx import GraphModule


def compiled_copy(model: nn.Module) -> tuple[nn.Module, list[GraphModule]]:
    """A copy that is compiled as one graph without breaks, and the graphs, which come as it is called."""
    compiled, graphs = copy.deepcopy(model), []

    def backend(graph: GraphModule, _: list[Tensor]) -> GraphModule:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    compiled.compile(backend=backend, fullgraph=True)
    return compiled, graphs
