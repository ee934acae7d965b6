"""Multi-head self-attention inside windows, (S)W-MSA, and the relative position bias that it adds.

Shapes: W windows, B images, N tokens in a window, C channels = heads x D. The last windows, at the boundary, have a
mask each, (boundary windows, N, N), which is added to their scores; the windows before them need none.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from swin_dense.backbones.gridded_attention import gridded_attention
from swin_dense.backbones.rows import NOTHING, Before, is_amd_processor, is_eager, is_plain, linear, linear_dtype
from swin_dense.backbones.windows import window_groups

LARGEST_CALL = 65_535
"""Windows in one call of fused attention: more exceed the second and third dimension of a CUDA grid."""

LONGEST_PRODUCTS = 64
"""Tokens of a window up to which batched products in bfloat16 are faster than the fused kernel, on AMD's processors."""

BIAS_ALIGNMENT = 8
"""What the strides of a bias must be multiples of, or the fused kernels of GPUs copy it first."""

LARGEST_LOGIT_SCALE = math.log(100)
"""Temperatures are at least 0.01 (Swin V2 paper, section 3.2)."""

LARGEST_BIAS = 16
"""Continuous position biases are 0 to 16, in the official code."""

BIAS_CHANNELS = 512
"""Hidden channels of the network of the bias, in every published Swin V2."""

LARGEST_OFFSET = 8
"""What the largest offset in a window is scaled to before logarithms are taken, in the official code of Swin V2."""


class Attention(nn.Module, ABC):
    """Attention of each token to all tokens of its window, plus a bias for their relative position."""

    def __init__(self, channels: int, heads: int, window: Sequence[int], *, qkv_bias: bool) -> None:
        """Creates the projections for windows of so many tokens per dimension."""
        super().__init__()
        self.channels = channels
        self.heads = heads
        self.window = tuple(window)
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)

    def forward(
        self, tokens: Tensor, mask: Tensor, window: Sequence[int] | None = None, before: Before = NOTHING
    ) -> Tensor:
        """Lets the tokens (W, B, N, C) of each window attend to each other; returns the same shape.

        `window` has so many tokens per dimension, N together; None takes those of the module, which are the most. If
        `before` is given, it makes these tokens of those given.
        """
        qkv, bias = self.projected(tokens, before), self.position_bias(window)
        attend = grouped_attention if tokens.is_cpu and not torch.compiler.is_compiling() else fused_attention
        return linear(self.proj, attend(qkv, bias, mask))

    def on_grid(self, tokens: Tensor, window: Sequence[int], shift: Sequence[int], before: Before = NOTHING) -> Tensor:
        """Lets tokens (B, H, W, C) attend in the windows of the padded and shifted grid, where they stay."""
        qkv, bias = self.projected(tokens, before), self.position_bias(window)
        padding = self.padding().to(qkv.dtype)
        return linear(self.proj, gridded_attention(qkv, padding, bias, window, shift))

    def padding(self) -> Tensor:
        """Query, key and value (3, heads, D) of a padding token, which is zero."""
        return self.projected(self.any_weight().new_zeros(self.channels))

    def any_weight(self) -> Tensor:
        """A weight, of whose type and device others are made; quantised layers have none, and are on a CPU."""
        weights = [one for one in self.parameters() if one.is_floating_point()]
        return weights[0] if weights else torch.zeros(())

    @abstractmethod
    def projected(self, tokens: Tensor, before: Before = NOTHING) -> Tensor:
        """Query, key and value (..., 3, heads, D) of tokens (..., C), whose scores are q k^T / sqrt(D)."""

    @abstractmethod
    def position_bias(self, window: Sequence[int] | None = None) -> Tensor:
        """The bias (heads, N, N) of a window, by default the largest; zero without a relative position bias."""

    @abstractmethod
    def bias_table(self) -> Tensor | None:
        """The bias (offsets, heads) for each offset in the largest window; None without a relative position bias."""


class WindowAttention(Attention):
    """Attention by scaled dot products, with a learned table of position biases (Swin paper, equation 4)."""

    def __init__(
        self,
        channels: int,
        heads: int,
        window: Sequence[int],
        *,
        relative_position_bias: bool = True,
        appearance_term: bool = True,
    ) -> None:
        """Creates the projections and the bias table for windows of so many tokens per dimension."""
        super().__init__(channels, heads, window, qkv_bias=True)
        self.appearance_term = appearance_term
        self.relative_position_bias_table: nn.Parameter | None = None
        if relative_position_bias:
            self.relative_position_bias_table = nn.Parameter(torch.zeros(relative_position_count(window), heads))

    def projected(self, tokens: Tensor, before: Before = NOTHING) -> Tensor:
        """Query, key and value as projected; without the appearance term the first two are 0.

        The scores are then the bias alone, in every form of attention. `qkv` keeps its official name and shape, and its
        weights of query and key are not used.
        """
        if self.appearance_term:
            qkv = linear(self.qkv, tokens, before)
        elif is_plain(self.qkv):
            weight, bias = self.qkv.weight[self._values :], self.qkv.bias[self._values :]
            qkv = self._value_alone(functional.linear(before(tokens), weight, bias))
        else:
            qkv = self._value_alone(self.qkv(before(tokens))[..., self._values :])
        return torch.unflatten(qkv, -1, (3, self.heads, -1))

    def padding(self) -> Tensor:
        """The bias of the projections."""
        if not is_plain(self.qkv):
            return super().padding()
        padding = self.qkv.bias if self.appearance_term else self._value_alone(self.qkv.bias[self._values :])
        return padding.view(3, self.heads, -1)

    def position_bias(self, window: Sequence[int] | None = None) -> Tensor:
        """Looked up in the table, of which a smaller window sees the middle."""
        if self.relative_position_bias_table is None:
            length = math.prod(self.window if window is None else window)
            return self.any_weight().new_zeros(self.heads, length, length)
        return relative_position_bias(self.relative_position_bias_table, self.window, window)

    def bias_table(self) -> Tensor | None:
        """The table itself."""
        return self.relative_position_bias_table

    @property
    def _values(self) -> int:
        """The first row of `qkv` that projects to values."""
        return 2 * self.channels

    def _value_alone(self, value: Tensor) -> Tensor:
        """Puts zeros for query and key before values (..., C)."""
        return functional.pad(value, (self._values, 0))


class CosineAttention(Attention):
    """Attention by scaled cosines, with a continuous position bias (Swin V2 paper, equations 2 and 3).

    A cosine divided by a temperature is the dot product of a query and a key that were normalised and scaled before, so
    that every kernel for dot products serves.
    """

    def __init__(self, channels: int, heads: int, window: Sequence[int], pretrained_window: int) -> None:
        """Creates the projections, the logarithm of 1 / temperature for each head, and the network of the bias.

        `pretrained_window` is the side of the windows in which the bias is learned, in tokens.
        """
        super().__init__(channels, heads, window, qkv_bias=False)
        self.pretrained_window = pretrained_window
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
        self.cpb_mlp = nn.Sequential(
            nn.Linear(len(self.window), BIAS_CHANNELS), nn.ReLU(), nn.Linear(BIAS_CHANNELS, heads, bias=False)
        )
        self.q_bias = nn.Parameter(torch.zeros(channels))
        self.v_bias = nn.Parameter(torch.zeros(channels))

    def projected(self, tokens: Tensor, before: Before = NOTHING) -> Tensor:
        """Query and key normalised in each head, the query also multiplied by sqrt(D) / temperature."""
        inputs, bias = before(tokens), self._qkv_bias()
        if is_plain(self.qkv):
            return self._scaled(functional.linear(inputs, self.qkv.weight, bias))
        qkv = self.qkv(inputs)
        return self._scaled(qkv + bias.to(qkv.dtype))

    def padding(self) -> Tensor:
        """Made of the biases alone; the key is zero."""
        return self._scaled(self._qkv_bias()) if is_plain(self.qkv) else super().padding()

    def position_bias(self, window: Sequence[int] | None = None) -> Tensor:
        """Computed for the offsets in the window."""
        window = self.window if window is None else window
        return relative_position_bias(self._table(window), window)

    def bias_table(self) -> Tensor:
        """Computed for all offsets."""
        return self._table(self.window)

    def _qkv_bias(self) -> Tensor:
        return torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))

    def _scaled(self, qkv: Tensor) -> Tensor:
        query, key, value = torch.unflatten(qkv, -1, (3, self.heads, -1)).unbind(-3)
        # Lengths and temperatures in float32 at least: squares exceed half precision.
        dtype = torch.promote_types(qkv.dtype, torch.float32)
        scale = self.logit_scale[..., 0].to(dtype).clamp(max=LARGEST_LOGIT_SCALE).exp() * query.shape[-1] ** 0.5
        query, key = _normalised(query.to(dtype)) * scale, _normalised(key.to(dtype))
        return torch.stack((query.to(qkv.dtype), key.to(qkv.dtype), value), -3)

    def _table(self, window: Sequence[int]) -> Tensor:
        offsets = log_spaced_offsets(window, self.pretrained_window, like=self.q_bias)
        # Biases reach 16, where half precision would be coarse; on some devices there is no autocast to leave.
        is_cast = linear_dtype(offsets) != offsets.dtype
        with torch.autocast(offsets.device.type, enabled=False) if is_cast else nullcontext():
            table: Tensor = LARGEST_BIAS * torch.sigmoid(self.cpb_mlp(offsets))
        return table


def _normalised(vectors: Tensor) -> Tensor:
    """Vectors of length 1; a key of padding, which is 0, stays so.

    The gradient of `functional.normalize` is 1e12 times larger there, which is infinite in half precision, and then
    makes those of the weights NaN.
    """
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1.0)


def fused_attention(qkv: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Softmax(q k^T / sqrt(D) + bias + mask) v by PyTorch's fused kernels, all windows at once; for GPUs.

    Takes qkv (W, B, N, 3, heads, D), the bias (heads, N, N) and the mask of the last windows, which may hold none;
    returns (W, B, N, C).
    """
    windows, batch, length = qkv.shape[:3]
    interior = windows - len(mask)
    padding = (0, -length % BIAS_ALIGNMENT)
    bias, mask = (functional.pad(part.to(qkv.dtype), padding) for part in (bias, mask))
    attended = []
    # Interior and boundary windows apart, so that interior ones share one bias instead of each having a copy.
    for part, part_bias in (
        (qkv[:interior], bias.expand(interior * batch, -1, -1, -1)),
        (qkv[interior:], _masked_bias(bias, mask, batch)),
    ):
        tokens, part_bias = part.flatten(0, 1), part_bias[..., :length]
        if 0 < len(tokens) <= LARGEST_CALL:  # a compiler is not asked how many pieces `split` makes
            attended.append(_attend(tokens, part_bias))
        elif len(tokens):
            calls = zip(*(torch.split(x, LARGEST_CALL) for x in (tokens, part_bias)), strict=True)
            attended += [_attend(*call) for call in calls]
    return torch.cat(attended).reshape(windows, batch, length, -1)


def grouped_attention(qkv: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """What `fused_attention` computes, a few windows at a time, which stay in the cache; for CPUs.

    On processors of AMD, batched products serve in bfloat16 in place of the fused kernel, where windows are small. The
    backward pass computes the scores again instead of reading them back from memory, as FlashAttention does (arXiv
    2205.14135, algorithm 4), and so also yields the gradient of the bias, for which CPUs have no fused kernel.
    """
    attended: Tensor = _GroupedAttention.apply(qkv, bias, mask)
    return attended.flatten(3)


def _attend(qkv: Tensor, bias: Tensor) -> Tensor:
    """Attention in windows (G, N, 3, heads, D) with a bias (G or 1, heads, N, N), as (G, N, heads, D)."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2)


def _masked_bias(bias: Tensor, mask: Tensor, batch: int) -> Tensor:
    """The bias (heads, N, N) plus the mask (W, N, N) of each window, for every image: (W * B, heads, N, N)."""
    return (bias + mask[:, None])[:, None].expand(-1, batch, -1, -1, -1).flatten(0, 1)


class _GroupedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        windows, batch, length, _, heads, dim = qkv.shape
        attended = qkv.new_empty(windows, batch, length, heads, dim)
        # The fused kernel is silently refused where the bias wants a gradient. It takes a bias in float32 beside
        # tokens in half precision, which autocast would round.
        shared_bias = bias.detach()[None]
        by_products = qkv.dtype == torch.bfloat16 and length <= LONGEST_PRODUCTS and is_amd_processor()
        with torch.autocast("cpu", enabled=False):
            for group, group_mask in window_groups(qkv.shape, mask):
                if by_products:
                    query, key, value = _scaled_heads(qkv[group])
                    found = (_attention_weights(query, key, bias, group_mask) @ value).transpose(2, 3)
                else:
                    group_bias = _masked_bias(shared_bias[0], group_mask, batch) if len(group_mask) else shared_bias
                    found = _attend(qkv[group].flatten(0, 1), group_bias).view_as(attended[group])
                attended[group] = found
        ctx.save_for_backward(qkv, bias, mask)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        qkv, bias, mask = ctx.saved_tensors
        qkv_gradient, bias_gradient = torch.empty_like(qkv), torch.zeros_like(bias)
        for group, group_mask in window_groups(qkv.shape, mask):
            query, key, value = _scaled_heads(qkv[group])
            weights = _attention_weights(query, key, bias, group_mask)
            output_gradient = gradient[group].transpose(2, 3).contiguous()
            weights_gradient = output_gradient @ value.transpose(-1, -2)
            score_gradient = torch.ops.aten._softmax_backward_data(weights_gradient, weights, -1, weights.dtype)
            bias_gradient += score_gradient.sum((0, 1))

            query_gradient, key_gradient, value_gradient = _heads(qkv_gradient[group])
            torch.mul(score_gradient @ key, _scale(qkv), out=query_gradient)
            key_gradient.copy_(score_gradient.transpose(-1, -2) @ query)
            value_gradient.copy_(weights.transpose(-1, -2) @ output_gradient)
        return qkv_gradient, bias_gradient, None


def _heads(qkv: Tensor) -> tuple[Tensor, ...]:
    """Views (W, B, N, 3, heads, D) as query, key and value, each (W, B, heads, N, D)."""
    return qkv.permute(3, 0, 1, 4, 2, 5).unbind()


def _scaled_heads(qkv: Tensor) -> tuple[Tensor, ...]:
    """Copies of query, key and value as `_heads` views them, the query already divided by sqrt(D)."""
    query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).clone(memory_format=torch.contiguous_format).unbind()
    return query.mul_(_scale(qkv)), key, value


def _scale(qkv: Tensor) -> float:
    return float(qkv.shape[-1] ** -0.5)


def _attention_weights(query: Tensor, key: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Softmax over scores (W, B, heads, N, N), taken in float32 at least and handed back in the type of `query`."""
    scores = query @ key.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).add_(bias)
    if len(mask):
        scores.add_(mask[:, None, None])
    return torch.softmax(scores, -1).to(query.dtype)


def relative_position_count(window: Sequence[int]) -> int:
    """Number of different offsets between two tokens of a window: (2M - 1) per dimension."""
    return math.prod(2 * side - 1 for side in window)


def relative_position_bias(table: Tensor, window: Sequence[int], shown: Sequence[int] | None = None) -> Tensor:
    """The bias (heads, N, N) of attention inside a window (Swin paper, equation 4), from a table (offsets, heads).

    The table is that of `window`; `shown` is a smaller window of N tokens, whose offsets are the middle of the table.
    """
    shown = window if shown is None else shown
    # As in the window plan: stand-in tensors of a tracer stay out of the cache.
    index_of = _cached_index if is_eager(table.data) else _build_index
    length = math.prod(shown)
    index = index_of(tuple(window), tuple(shown), table.device)
    return table.t().index_select(1, index).view(-1, length, length)


def _build_index(window: tuple[int, ...], shown: tuple[int, ...], device: torch.device) -> Tensor:
    """Row of the table of `window` for each (query, key) pair of the window shown, flattened to (N * N,)."""
    with torch.inference_mode(False):
        sides = [torch.arange(side, device=device) for side in shown]
        coordinates = torch.stack(torch.meshgrid(*sides, indexing="ij")).flatten(1)
        index = torch.zeros((), dtype=torch.int64, device=device)
        for side, coordinate in zip(window, coordinates, strict=True):
            offset = coordinate[:, None] - coordinate[None, :] + side - 1
            index = index * (2 * side - 1) + offset
        return index.flatten()


_cached_index = lru_cache(maxsize=32)(_build_index)


def log_spaced_offsets(window: Sequence[int], pretrained_window: int, like: Tensor) -> Tensor:
    """The log-spaced offsets (offsets, dimensions) between two tokens of a window (Swin V2 paper, equation 4).

    They are in the order of the table that `relative_position_bias` takes, on the device and in the type of `like`. In
    windows of `pretrained_window` tokens a side the largest offset is `LARGEST_OFFSET` before its logarithm is taken.
    """
    offsets_of = _cached_offsets if is_eager(like.data) else _build_offsets
    return offsets_of(tuple(window), pretrained_window, like.device, like.dtype)


def _build_offsets(window: tuple[int, ...], pretrained_window: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        sides = [torch.arange(1 - side, side, device=device, dtype=torch.float32) for side in window]
        offsets = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1).flatten(0, -2)
        offsets = offsets / max(pretrained_window - 1, 1) * LARGEST_OFFSET
        return (offsets.sign() * (offsets.abs() + 1).log2() / math.log2(LARGEST_OFFSET)).to(dtype)


_cached_offsets = lru_cache(maxsize=32)(_build_offsets)
