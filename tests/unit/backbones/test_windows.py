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
    windows.plan_cache.clear()
    yield
    windows.plan_cache.clear()


def padded_size(grid: tuple[int, ...], window: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-size // side) * side for size, side in zip(grid, window, strict=True))


def numbered(grid: tuple[int, ...], batch: int) -> Tensor:
    """One number above zero per token, different in every image, as (B, *grid)."""
    return torch.arange(1, 1 + batch * math.prod(grid)).view(batch, *grid)


def padded_with_zeros(values: Tensor, padded: tuple[int, ...]) -> Tensor:
    filled = values.new_zeros(len(values), *padded)
    filled[(slice(None), *(slice(size) for size in values.shape[1:]))] = values
    return filled


def cut_by_loops(values: Tensor, window: tuple[int, ...]) -> list[Tensor]:
    """Windows of a (B, *padded) grid in raster order, each (B, N)."""
    corners = torch.cartesian_prod(*(torch.arange(0, s, m) for s, m in zip(values.shape[1:], window, strict=True)))
    corners = corners.view(-1, len(window)).tolist()
    return [
        values[(slice(None), *(slice(c, c + m) for c, m in zip(corner, window, strict=True)))].flatten(1)
        for corner in corners
    ]


def windows_of(plan: WindowPlan, number: int, values: Tensor) -> Tensor:
    """Windows (W, B, N) of one partition, filled with the values (B, *grid) of its tokens."""
    rows = plan.from_grid[number](values.reshape(-1, 1))
    return plan.partitions[number].fill(rows).squeeze(-1)


@pytest.mark.parametrize(("grid", "window", "shift"), GRIDS)
class TestArrangement:
    def plan(self, grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]) -> WindowPlan:
        return window_plan(torch.empty(3, *grid, 1), window, shift)

    def test_windows_are_those_of_the_padded_rolled_grid(
        self, grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
    ) -> None:
        plan, tokens = self.plan(grid, window, shift), numbered(grid, batch=3)
        for number, step in enumerate(((0,) * len(shift), shift)):
            padded = padded_with_zeros(tokens, padded_size(grid, window))
            rolled = padded.roll([-s for s in step], tuple(range(1, len(step) + 1)))
            expected = [tuple(cut.flatten().tolist()) for cut in cut_by_loops(rolled, window)]
            found = windows_of(plan, number, tokens)
            assert sorted(tuple(each.flatten().tolist()) for each in found) == sorted(expected)
            rows = plan.partitions[number].take(found[..., None])
            assert torch.equal(plan.from_grid[number].inverse(rows).view_as(tokens), tokens)

    def test_one_gather_leads_from_regular_to_shifted_windows_and_back(
        self, grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
    ) -> None:
        plan, tokens = self.plan(grid, window, shift), numbered(grid, batch=3).view(-1, 1)
        regular, shifted = (from_grid(tokens) for from_grid in plan.from_grid)
        assert torch.equal(plan.shift(regular), shifted)
        assert torch.equal(plan.shift.inverse(shifted), regular)

    def test_only_real_tokens_are_rows(
        self, grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
    ) -> None:
        plan = self.plan(grid, window, shift)
        for partition in plan.partitions:
            if padded_size(grid, window) == grid:
                assert partition.places is None
                rows = torch.randn(math.prod(partition.shape), 2)
                assert partition.take(partition.fill(rows)).data_ptr() == rows.data_ptr()
            else:
                assert len(partition.places) == 3 * math.prod(grid) < math.prod(partition.shape)
                assert (partition.places.diff() > 0).all()

    @pytest.mark.parametrize("group_tokens", [1, 40, 10**6])
    def test_groups_fill_the_same_windows(
        self,
        grid: tuple[int, ...],
        window: tuple[int, ...],
        shift: tuple[int, ...],
        group_tokens: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(windows, "GROUP_TOKENS", group_tokens)
        for partition in self.plan(grid, window, shift).partitions:
            rows = torch.randn(3 * math.prod(grid), 2)
            groups = list(partition.groups())
            filled = [part.fill(rows[group]) for group, part in groups]
            taken = [part.take(placed) for (_, part), placed in zip(groups, filled, strict=True)]
            assert torch.equal(torch.cat(filled), partition.fill(rows))
            assert torch.equal(torch.cat(taken), rows)

    def test_mask_parts_what_only_the_roll_made_neighbours(
        self, grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
    ) -> None:
        padded = padded_size(grid, window)
        regular, shifted = self.plan(grid, window, shift).partitions
        assert len(regular.mask) == 0
        whole = window_plan(torch.empty(1, *padded, 1), window, shift)
        places = torch.cartesian_prod(*(torch.arange(size) for size in padded)).view(-1, len(window))
        of_window = whole.partitions[1].fill(whole.from_grid[1](places))[:, 0]
        # In a window of the grid itself, tokens lie less than a window apart; the roll joins those farther apart.
        # Of a single window, the roll joins what lies before the shift with what lies behind it.
        side, step, size = torch.tensor(window), torch.tensor(shift), torch.tensor(padded)
        before = of_window < torch.where(size == side, step, 0)
        far = (of_window[:, :, None] - of_window[:, None]).abs() >= side
        apart = (far | (before[:, :, None] != before[:, None])).any(-1)
        interior = len(apart) - len(shifted.mask)
        assert not apart[:interior].any()
        assert (shifted.mask != 0).flatten(1).any(1).all()
        # Padding changes which window comes first, not how a window is parted.
        expected = torch.where(apart[interior:], -100.0, 0.0).flatten(1)
        assert sorted(shifted.mask.flatten(1).tolist()) == sorted(expected.tolist())

    def test_each_window_meets_its_own_mask(
        self, grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
    ) -> None:
        plan = self.plan(grid, window, shift)
        mask = plan.partitions[1].mask
        # A token near the start of a shifted dimension is rolled to the end, and parted there from those not rolled.
        places = torch.cartesian_prod(*(torch.arange(size) for size in grid)).view(-1, len(window))
        sides = 1 + ((places < torch.tensor(shift)).long() << torch.arange(len(window))).sum(-1)
        of_window = windows_of(plan, 1, sides.view(1, *grid).expand(3, *grid))[:, 0]
        interior = len(of_window) - len(mask)
        for sides_of_tokens, parted in zip(of_window[interior:], mask, strict=True):
            real = sides_of_tokens[sides_of_tokens > 0]
            expected = torch.where(real[:, None] != real[None], -100.0, 0.0)
            assert torch.equal(parted[sides_of_tokens > 0][:, sides_of_tokens > 0], expected)


def test_moved_rows_have_exact_gradients() -> None:
    plan = window_plan(torch.empty(2, 5, 6, 3), (4, 4), (2, 2))
    rows = torch.randn(60, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(plan.shift, rows)
    assert torch.autograd.gradcheck(plan.shift.inverse, rows)
    for partition in plan.partitions:
        placed = torch.randn(*partition.shape, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(partition.fill, rows)
        assert torch.autograd.gradcheck(partition.take, placed)


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_groups_cover_every_window_once_with_its_mask(batch: int) -> None:
    mask = torch.arange(5.0).view(5, 1, 1).expand(5, 9, 9)
    seen, masked = [], {}
    for group, group_mask in window_groups((321, batch, 9), mask):
        members = list(range(321))[group]
        assert len(group_mask) in (0, len(members))
        seen += members
        if len(group_mask):
            masked.update(zip(members, group_mask[:, 0, 0].tolist(), strict=True))
    assert seen == list(range(321))
    assert masked == {316: 0.0, 317: 1.0, 318: 2.0, 319: 3.0, 320: 4.0}


class TestCache:
    def test_is_bounded_by_the_bytes_of_its_plans_and_drops_the_least_recently_used(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def plan(size: int) -> WindowPlan:
            return window_plan(torch.empty(1, size, 6, 1), (2, 2), (1, 1))

        first, second = plan(8), plan(10)
        monkeypatch.setattr(windows, "CACHE_BYTES", first.nbytes + 2 * second.nbytes)
        assert plan(8) is first
        third = plan(12)
        assert third.nbytes > second.nbytes
        assert plan(8) is first and plan(12) is third
        assert plan(10) is not second

    def test_keeps_hundreds_of_small_plans_and_none_that_is_too_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plans = [window_plan(torch.empty(1, size, 1, 1), (2, 2), (1, 1)) for size in range(1, 301)]
        again = [window_plan(torch.empty(1, size, 1, 1), (2, 2), (1, 1)) for size in range(1, 301)]
        assert all(one is other for one, other in zip(plans, again, strict=True))
        assert windows.plan_cache.nbytes == sum(plan.nbytes for plan in plans)
        monkeypatch.setattr(windows, "CACHE_BYTES", 100)
        window_plan(torch.empty(1, 50, 50, 1), (2, 2), (1, 1))
        assert windows.plan_cache.nbytes == 0 and not windows.plan_cache.plans

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
        assert len(windows.plan_cache.plans) == 1

    def test_stand_in_tensors_of_a_tracer_stay_out(self) -> None:
        model = SwinTransformer(8, (2,), (1,), 4, out_indices=(0,)).eval()
        images = torch.randn(1, 3, 30, 30)
        for _ in range(2):
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                assert model(mode.from_tensor(images))[0].shape == (1, 8, 8, 8)
                with torch.no_grad():
                    assert model(mode.from_tensor(images))[0].shape == (1, 8, 8, 8)
            assert torch.isfinite(model(images)[0]).all()
