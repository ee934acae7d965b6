"""Window plans: arrangements of tokens in any number of dimensions, and a cache that never leaks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from swin_dense.backbones import SwinTransformer, windows
from swin_dense.backbones.windows import WindowPlan, window_groups, window_plan

GRIDS = [((6, 8), (2, 4), (1, 2)), ((5, 7), (4, 4), (2, 2)), ((3, 5, 6), (2, 3, 3), (1, 1, 0)), ((9,), (4,), (2,))]


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    windows._cached_plan.cache_clear()
    yield
    windows._cached_plan.cache_clear()


def grid_tokens(plan: WindowPlan, batch: int) -> Tensor:
    """One number per token of the padded grid, different in every image, as (B, P, 1)."""
    return torch.arange(batch * math.prod(plan.padded)).view(batch, -1, 1)


def cut_by_loops(values: Tensor, window: tuple[int, ...]) -> list[Tensor]:
    """Windows of a (B, *padded) grid in raster order, each (B, N)."""
    corners = torch.cartesian_prod(*(torch.arange(0, s, m) for s, m in zip(values.shape[1:], window, strict=True)))
    corners = corners.view(-1, len(window)).tolist()
    return [
        values[(slice(None), *(slice(c, c + m) for c, m in zip(corner, window, strict=True)))].flatten(1)
        for corner in corners
    ]


@pytest.mark.parametrize(("grid", "window", "shift"), GRIDS)
class TestArrangement:
    def plan(self, grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]) -> WindowPlan:
        return window_plan(torch.empty(3, *grid, 1), window, shift)

    def test_windows_are_those_of_the_padded_rolled_grid(
        self, grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
    ) -> None:
        plan = self.plan(grid, window, shift)
        tokens = grid_tokens(plan, batch=3)
        for partition, step in zip(plan.partitions, ((0,) * len(shift), shift), strict=True):
            rolled = tokens.view(3, *plan.padded).roll([-s for s in step], tuple(range(1, len(step) + 1)))
            expected = {tuple(cut.flatten().tolist()) for cut in cut_by_loops(rolled, window)}
            found = partition.from_grid(tokens)
            assert {tuple(each.flatten().tolist()) for each in found} == expected
            assert torch.equal(partition.from_grid.inverse(found).view_as(tokens), tokens)

    def test_one_gather_leads_from_regular_to_shifted_windows_and_back(
        self, grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
    ) -> None:
        plan = self.plan(grid, window, shift)
        regular, shifted = (partition.from_grid(grid_tokens(plan, batch=3)) for partition in plan.partitions)
        assert torch.equal(plan.shift(regular), shifted)
        assert torch.equal(plan.shift.inverse(shifted), regular)

    def test_padding_is_marked(self, grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]) -> None:
        plan = self.plan(grid, window, shift)
        is_padding = torch.ones(plan.padded, dtype=torch.bool)
        is_padding[tuple(slice(size) for size in grid)] = False
        for partition in plan.partitions:
            if plan.padded == grid:
                assert partition.padding is None
            else:
                expected = partition.from_grid(is_padding.view(1, -1, 1).expand(3, -1, -1))
                assert torch.equal(partition.padding.expand_as(expected), expected)

    def test_mask_parts_what_only_the_roll_made_neighbours(
        self, grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
    ) -> None:
        plan = self.plan(grid, window, shift)
        regular, shifted = plan.partitions
        assert len(regular.mask) == 0
        places = torch.cartesian_prod(*(torch.arange(size) for size in plan.padded)).view(-1, len(window))
        of_window = shifted.from_grid(places.expand(3, -1, -1))[:, 0]
        # In a window of the grid itself, tokens lie less than a window apart; the roll joins those farther apart.
        # Of a single window, the roll joins what lies before the shift with what lies behind it.
        side, step, size = torch.tensor(window), torch.tensor(shift), torch.tensor(plan.padded)
        before = of_window < torch.where(size == side, step, 0)
        far = (of_window[:, :, None] - of_window[:, None]).abs() >= side
        apart = (far | (before[:, :, None] != before[:, None])).any(-1)
        interior = len(apart) - len(shifted.mask)
        assert not apart[:interior].any()
        assert torch.equal(shifted.mask, torch.where(apart[interior:], -100.0, 0.0))
        assert (shifted.mask != 0).flatten(1).any(1).all()


def test_gradient_of_a_permutation_is_exact() -> None:
    plan = window_plan(torch.empty(2, 5, 6, 3), (4, 4), (2, 2))
    regular = torch.randn(*plan.shift.source_shape, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(plan.shift, regular)
    assert torch.autograd.gradcheck(plan.shift.inverse, regular)


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_groups_cover_every_window_once_with_its_mask(batch: int) -> None:
    mask = torch.arange(5.0).view(5, 1, 1).expand(5, 9, 9)
    seen, masked = [], {}
    for group, group_mask in window_groups(torch.empty(321, batch, 9, 1, device="meta"), mask):
        members = list(range(321))[group]
        assert len(group_mask) in (0, len(members))
        seen += members
        masked.update(zip(members, group_mask[:, 0, 0].tolist(), strict=False))
    assert seen == list(range(321))
    assert masked == {316: 0.0, 317: 1.0, 318: 2.0, 319: 3.0, 320: 4.0}


class TestCache:
    def test_is_bounded(self) -> None:
        for size in range(1, windows.CACHED_PLANS + 20):
            window_plan(torch.empty(1, size, 1, 1), (2, 2), (1, 1))
        assert windows._cached_plan.cache_info().currsize == windows.CACHED_PLANS

    def test_tells_batches_grids_windows_and_devices_apart(self) -> None:
        first = window_plan(torch.empty(1, 6, 8, 4), (4, 4), (2, 2))
        assert window_plan(torch.zeros(1, 6, 8, 16, dtype=torch.bfloat16), (4, 4), (2, 2)) is first
        others = [
            window_plan(torch.empty(2, 6, 8, 4), (4, 4), (2, 2)),
            window_plan(torch.empty(1, 8, 6, 4), (4, 4), (2, 2)),
            window_plan(torch.empty(1, 6, 8, 4), (2, 2), (1, 1)),
            window_plan(torch.empty(1, 6, 8, 4), (4, 4), (1, 1)),
            window_plan(torch.empty(1, 6, 8, 4, device="meta"), (4, 4), (2, 2)),
        ]
        assert len({id(plan) for plan in (first, *others)}) == 6
        assert others[-1].shift.index.device.type == "meta"

    def test_plans_made_in_inference_mode_serve_training(self) -> None:
        model = SwinTransformer(8, (2,), (1,), 4, out_indices=(0,))
        images = torch.randn(1, 3, 30, 30)
        with torch.inference_mode():
            expected = model(images)[0].clone()
        (found,) = model(images)
        found.sum().backward()
        assert torch.allclose(found, expected, atol=1e-6)
        assert model.patch_embed.proj.weight.grad is not None
        assert windows._cached_plan.cache_info().currsize == 1

    def test_stand_in_tensors_of_a_tracer_stay_out(self) -> None:
        model = SwinTransformer(8, (2,), (1,), 4, out_indices=(0,)).eval()
        images = torch.randn(1, 3, 30, 30)
        for _ in range(2):
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                assert model(mode.from_tensor(images))[0].shape == (1, 8, 8, 8)
            assert torch.isfinite(model(images)[0]).all()
