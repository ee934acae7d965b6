"""Attention in groups of windows equals the fused form, its hand-written gradient is right, and fused kernels serve."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from swin_dense.backbones import attention, windows
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


@pytest.mark.parametrize(
    ("attend", "is_amd"), [(grouped_attention, False), (grouped_attention, True), (fused_attention, False)]
)
def test_bfloat16_keeps_its_type_and_stays_near_float32(
    attend: object, is_amd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "is_amd_processor", lambda: is_amd)
    qkv, bias, mask = attention_inputs()
    rounded = qkv.detach().bfloat16().requires_grad_()
    output = attend(rounded, bias, mask)
    assert output.dtype == torch.bfloat16
    assert torch.allclose(output.float(), attention_by_loops(rounded.float(), bias, mask), atol=0.03)
    output.float().square().sum().backward()
    assert rounded.grad.dtype == torch.bfloat16 and bias.grad.dtype == torch.float32
    assert torch.isfinite(rounded.grad).all() and torch.isfinite(bias.grad).all()


def test_module_splits_query_key_and_value_as_the_official_code() -> None:
    module = WindowAttention(channels=6, heads=2, window=(1, 2))
    with torch.no_grad():
        module.relative_position_bias_table.copy_(torch.randn(3, 2))
    tokens = torch.randn(4, 3, 2, 6)
    query, key, value = module.qkv(tokens).chunk(3, dim=-1)
    offset = torch.tensor([[1, 0], [2, 1]])  # columns apart, query minus key, plus one
    heads = []
    for head, part in enumerate((slice(0, 3), slice(3, 6))):
        scores = query[..., part] @ key[..., part].transpose(-1, -2) / 3**0.5
        scores = scores + module.relative_position_bias_table[offset][:, :, head]
        heads.append(scores.softmax(-1) @ value[..., part])
    expected = module.proj(torch.cat(heads, dim=-1))
    assert torch.allclose(module(tokens, torch.zeros(0, 2, 2)), expected, atol=1e-6)


class RecordedKernel:
    """Passes calls on to the fused attention of PyTorch and keeps their arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queries: list[Tensor] = []
        self.biases: list[Tensor] = []
        self.original = functional.scaled_dot_product_attention
        monkeypatch.setattr(functional, "scaled_dot_product_attention", self)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor) -> Tensor:
        self.queries.append(query)
        self.biases.append(attn_mask)
        return self.original(query, key, value, attn_mask=attn_mask)


@pytest.mark.parametrize("boundary", [0, 66_000, 140_000])
def test_no_call_exceeds_the_grid_of_cuda(boundary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = RecordedKernel(monkeypatch)
    qkv, bias = torch.randn(70_000, 2, 1, 3, 1, 1), torch.zeros(1, 1, 1)
    attended = fused_attention(qkv, bias, torch.zeros(boundary // 2, 1, 1))
    assert torch.equal(attended, qkv[:, :, :, 2, 0]), "a token that is alone attends to itself"
    assert max(len(query) for query in kernel.queries) <= 65_535
    assert sum(len(query) for query in kernel.queries) == 140_000


@pytest.mark.parametrize("length", [16, 49])
@pytest.mark.parametrize("batch", [1, 3])
def test_bias_is_aligned_so_that_gpus_need_no_copy(length: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = RecordedKernel(monkeypatch)
    bias = torch.randn(2, length, length, requires_grad=True)
    fused_attention(torch.randn(5, batch, length, 3, 2, 4), bias, torch.zeros(2, length, length))
    assert [tuple(bias.shape[1:]) for bias in kernel.biases] == 2 * [(2, length, length)]
    for given in kernel.biases:
        *strides, last = given.stride()
        assert last == 1 and all(stride % 8 == 0 for stride in strides)


@pytest.mark.parametrize(
    ("dtype", "is_amd", "longest"),
    [(torch.float32, True, 64), (torch.bfloat16, False, 64), (torch.bfloat16, True, 5)],
)
def test_the_fused_kernel_of_cpus_serves_training_too(
    dtype: torch.dtype, is_amd: bool, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "is_amd_processor", lambda: is_amd)
    monkeypatch.setattr(attention, "LONGEST_PRODUCTS", longest)
    names = kernels_of_training(dtype)
    assert FUSED in names
    assert not names & {"aten::_scaled_dot_product_attention_math", "aten::softmax", "aten::bmm"}


def test_products_serve_in_bfloat16_on_processors_of_amd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "is_amd_processor", lambda: True)
    names = kernels_of_training(torch.bfloat16)
    assert FUSED not in names and "aten::bmm" in names


FUSED = "aten::_scaled_dot_product_flash_attention_for_cpu"


def kernels_of_training(dtype: torch.dtype) -> set[str]:
    """Of the forward pass."""
    qkv, bias, mask = attention_inputs(dtype)
    with profile(activities=[ProfilerActivity.CPU]) as record:
        grouped_attention(qkv, bias.detach().float().requires_grad_(), mask)
    return {event.key for event in record.key_averages()}
