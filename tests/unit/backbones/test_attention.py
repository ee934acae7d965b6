"""Attention in groups of windows equals the fused form, and its hand-written gradient is right."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from swin_dense.backbones import windows
from swin_dense.backbones.attention import WindowAttention, fused_attention, grouped_attention


def attention_inputs(dtype: torch.dtype = torch.float32, boundary: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(7, 2, 6, 3, 2, 5, generator=generator, dtype=torch.float64).to(dtype)
    bias = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64).to(dtype)
    mask = -100.0 * (torch.rand(boundary, 6, 6, generator=generator) < 0.3).to(torch.float32)
    return qkv.requires_grad_(), bias.requires_grad_(), mask


def attention_by_loops(qkv: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Softmax(q k^T / sqrt(D) + bias + mask) v, written out for one window, image and head at a time."""
    count, batch, length, _, heads, dim = qkv.shape
    output = torch.empty(count, batch, length, heads * dim, dtype=qkv.dtype)
    for window in range(count):
        for image in range(batch):
            for head in range(heads):
                query, key, value = qkv[window, image, :, :, head].unbind(1)
                scores = query @ key.T / dim**0.5 + bias[head]
                if window >= count - len(mask):
                    scores = scores + mask[window - count + len(mask)]
                output[window, image, :, head * dim : (head + 1) * dim] = scores.softmax(-1) @ value
    return output


@pytest.fixture(params=[1, 24, 10**6], ids=["one window a group", "two windows a group", "one group"])
def groups(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "GROUP_TOKENS", request.param)


@pytest.mark.usefixtures("groups")
@pytest.mark.parametrize("boundary", [0, 3, 7])
@pytest.mark.parametrize("attend", [grouped_attention, fused_attention])
def test_equals_the_definition(attend: object, boundary: int) -> None:
    inputs = attention_inputs(torch.float64, boundary)
    assert torch.allclose(attend(*inputs), attention_by_loops(*inputs), atol=1e-12)


@pytest.mark.usefixtures("groups")
@pytest.mark.parametrize("boundary", [0, 3, 7])
def test_gradient_in_groups_is_right(boundary: int) -> None:
    qkv, bias, mask = attention_inputs(torch.float64, boundary)
    weights = torch.randn(7, 2, 6, 10, dtype=torch.float64)
    wanted = torch.autograd.grad((attention_by_loops(qkv, bias, mask) * weights).sum(), (qkv, bias))
    for attend in (grouped_attention, fused_attention):
        found = torch.autograd.grad((attend(qkv, bias, mask) * weights).sum(), (qkv, bias))
        assert all(torch.allclose(ours, theirs, atol=1e-12) for ours, theirs in zip(found, wanted, strict=True))


@pytest.mark.parametrize("attend", [grouped_attention, fused_attention])
def test_bfloat16_keeps_its_type_and_stays_near_float32(attend: object) -> None:
    qkv, bias, mask = attention_inputs()
    rounded = qkv.detach().bfloat16().requires_grad_()
    output = attend(rounded, bias, mask)
    assert output.dtype == torch.bfloat16
    assert torch.allclose(output.float(), attention_by_loops(rounded.float(), bias, mask), atol=0.03)
    output.float().square().sum().backward()
    assert rounded.grad.dtype == torch.bfloat16 and bias.grad.dtype == torch.float32
    assert torch.isfinite(rounded.grad).all() and torch.isfinite(bias.grad).all()


def test_module_splits_query_key_and_value_as_the_official_code() -> None:
    attention = WindowAttention(channels=6, heads=2, window=(1, 2))
    with torch.no_grad():
        attention.relative_position_bias_table.copy_(torch.randn(3, 2))
    tokens = torch.randn(4, 3, 2, 6)
    query, key, value = attention.qkv(tokens).chunk(3, dim=-1)
    offset = torch.tensor([[1, 0], [2, 1]])  # columns apart, query minus key, plus one
    heads = []
    for head, part in enumerate((slice(0, 3), slice(3, 6))):
        scores = query[..., part] @ key[..., part].transpose(-1, -2) / 3**0.5
        scores = scores + attention.relative_position_bias_table[offset][:, :, head]
        heads.append(scores.softmax(-1) @ value[..., part])
    expected = attention.proj(torch.cat(heads, dim=-1))
    assert torch.allclose(attention(tokens, torch.zeros(0, 2, 2)), expected, atol=1e-6)
