"""What `SwinTransformer` promises to those who build on it."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from swin_dense.backbones import FeatureSpec, SwinTransformer
from swin_dense.backbones.block import StageOptions, SwinBlock
from swin_dense.backbones.windows import window_plan
from swin_dense.errors import ConfigError, DataError


def small_backbone(**options: object) -> SwinTransformer:
    torch.manual_seed(0)
    model = SwinTransformer(**{"embed_dim": 16, "depths": (2, 3), "num_heads": (1, 2), "window_size": 3, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def both_stages(**options: object) -> SwinTransformer:
    return small_backbone(out_indices=(0, 1), **options)


def random_images(batch: int = 2, height: int = 37, width: int = 50) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    sum((x * x).mean() for x in model(images)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


class TestFeatureMaps:
    @pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7), (37, 50), (1, 130)])
    def test_cover_images_of_any_size_as_the_specs_say(self, size: tuple[int, int]) -> None:
        model = both_stages().eval()
        assert model.feature_specs == (FeatureSpec("stage1", 16, 4), FeatureSpec("stage2", 32, 8))
        for spec, found in zip(model.feature_specs, model(random_images(2, *size)), strict=True):
            assert found.shape == (2, spec.channels, -(-size[0] // spec.stride), -(-size[1] // spec.stride))
            assert found.is_contiguous() and torch.isfinite(found).all()

    def test_are_those_of_the_requested_stages(self) -> None:
        every, last = both_stages().eval(), small_backbone(out_indices=(1,)).eval()
        last.load_state_dict({k: v for k, v in every.state_dict().items() if not k.startswith("norm0")})
        assert last.feature_specs == (FeatureSpec("stage2", 32, 8),)
        assert torch.equal(last(random_images())[0], every(random_images())[1])

    @torch.no_grad()
    def test_of_an_image_do_not_depend_on_the_rest_of_the_batch(self) -> None:
        model, images = both_stages().eval(), random_images(5)
        alone = [torch.cat(maps) for maps in zip(*(model(image[None]) for image in images), strict=True)]
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(alone, model(images), strict=True))

    def test_are_the_same_with_and_without_gradients(self) -> None:
        model, images = both_stages(), random_images()
        with torch.inference_mode():
            expected = [x.clone() for x in model(images)]
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(model(images), expected, strict=True))

    def test_leave_the_images_as_they_were(self) -> None:
        model, images = both_stages(), random_images()
        before = images.clone()
        with torch.inference_mode():
            model(images)
        assert torch.equal(images, before)


class TestPrecision:
    def test_follows_the_model(self) -> None:
        model, images = both_stages().eval(), random_images()
        with torch.no_grad():
            expected = model(images)
            for dtype, tolerance in ((torch.float64, 1e-5), (torch.bfloat16, 0.15), (torch.float32, 1e-6)):
                for found, wanted in zip(model.to(dtype)(images.to(dtype)), expected, strict=True):
                    assert found.dtype == dtype
                    assert (found.float() - wanted).norm() <= tolerance * wanted.norm()
                model.to(torch.float64)
                model.load_state_dict(both_stages().state_dict())

    def test_bfloat16_autocast_trains_float32_weights(self) -> None:
        model, images = both_stages(), random_images()
        expected = [x.detach() for x in model(images)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            maps = model(images)
            with torch.no_grad():
                without_gradients = model(images)
        for found, also, wanted in zip(maps, without_gradients, expected, strict=True):
            assert (found - wanted).norm() <= 0.05 * wanted.norm()
            assert (also - wanted).norm() <= 0.05 * wanted.norm()
        wanted_gradients = {name: value.clone() for name, value in gradients(model, images).items()}
        model.zero_grad()
        sum((x * x).mean() for x in maps).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad.dtype == torch.float32
            assert (parameter.grad - wanted_gradients[name]).norm() <= 0.1 * wanted_gradients[name].norm() + 1e-4, name

    def test_autocast_moves_rows_in_its_own_type(self) -> None:
        """The projection rounds what the norm hands out anyhow; padding it in float32 would move twice as much."""
        block = SwinBlock(StageOptions(channels=8, heads=2, window=(4, 4)), drop_path=0.0)
        partition = window_plan(torch.empty(1, 5, 7, 8), (4, 4), (2, 2)).partitions[1]
        seen: list[torch.dtype] = []
        block.attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rows = block(torch.randn(35, 8), partition)
        block(torch.randn(35, 8), partition)
        block.double()(torch.randn(35, 8, dtype=torch.float64), partition)
        assert seen == [torch.bfloat16, torch.float32, torch.float64]
        assert rows.dtype == torch.float32, "what residuals add up to keeps its precision"


def test_no_value_is_read_on_the_host() -> None:
    """The meta device has no values: whatever reads one, and would wait for a GPU, raises there."""
    model = both_stages(drop_path_rate=0.5, absolute_position_embedding=True).to("meta")
    maps = model(torch.empty(2, 3, 37, 50, device="meta"))
    sum(found.mean() for found in maps).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        assert [found.shape for found in model(torch.empty(2, 3, 28, 28, device="meta"))] == [
            (2, 16, 7, 7),
            (2, 32, 4, 4),
        ]


@pytest.mark.parametrize("gradients_wanted", [False, True])
def test_compiles_as_one_graph(gradients_wanted: bool) -> None:
    model, images = both_stages(), random_images()
    torch.compiler.reset()
    with torch.set_grad_enabled(gradients_wanted):
        found = torch.compile(model, backend="eager", fullgraph=True)(images)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, model(images), strict=True))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_can_be_copied_and_pickled_after_use(duplicate: Callable[[SwinTransformer], SwinTransformer]) -> None:
    model = both_stages(frozen_stages=1)
    model(random_images())
    other = duplicate(model)
    assert all(torch.equal(a, b) for a, b in zip(other(random_images()), model(random_images()), strict=True))
    assert [module.training for module in other.modules()] == [module.training for module in model.modules()]
    assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in model.parameters()}


class TestActivationCheckpointing:
    def test_changes_neither_maps_nor_gradients(self) -> None:
        images = random_images()
        runs = []
        for activation_checkpointing in (False, True):
            model = both_stages(activation_checkpointing=activation_checkpointing, drop_path_rate=0.5)
            torch.manual_seed(5)
            runs.append((model(images), gradients(copy.deepcopy(model), images)))
        (plain_maps, plain), (maps, checkpointed) = runs
        assert all(torch.equal(a, b) for a, b in zip(plain_maps, maps, strict=True))
        assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)

    def test_keeps_less_for_the_backward_pass(self) -> None:
        kept = {}
        for activation_checkpointing in (False, True):
            sizes: list[int] = []
            model = both_stages(activation_checkpointing=activation_checkpointing)
            with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x):
                model(random_images())
            kept[activation_checkpointing] = sum(sizes)
        assert kept[True] < kept[False] / 4


class TestFreezing:
    @pytest.mark.parametrize(
        ("frozen_stages", "prefixes"),
        [
            (-1, ()),
            (0, ("patch_embed.", "absolute_pos_embed")),
            (1, ("patch_embed.", "absolute_pos_embed", "layers.0.", "norm0.")),
            (2, ("",)),
        ],
    )
    def test_frozen_parts_are_never_trained(self, frozen_stages: int, prefixes: tuple[str, ...]) -> None:
        model = both_stages(frozen_stages=frozen_stages, absolute_position_embedding=True, drop_path_rate=0.9)
        model.train()
        frozen = {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
        assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == frozen
        if frozen_stages < 2:
            found = gradients(model, random_images())
            assert {name for name, gradient in found.items() if gradient is None} == frozen

    def test_frozen_stages_stay_in_evaluation_mode(self) -> None:
        model = both_stages(frozen_stages=1, drop_path_rate=0.9).train()
        assert not model.layers[0].training and model.layers[1].training
        first, second = model(random_images()), model(random_images())
        assert torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])

    def test_what_no_requested_map_needs_is_not_trained_but_keeps_its_weights(self) -> None:
        model = small_backbone(out_indices=(0,))
        found = gradients(model, random_images())
        unneeded = {name for name in found if name.startswith(("layers.0.downsample.", "layers.1."))}
        assert {name for name, gradient in found.items() if gradient is None} == unneeded
        assert not any(model.get_parameter(name).requires_grad for name in unneeded)
        assert len(model.state_dict()) == len(both_stages().state_dict()) - 2

    def test_gradients_reach_the_images_through_a_frozen_backbone(self) -> None:
        images = random_images().requires_grad_()
        model = both_stages(frozen_stages=2)
        sum((x * x).mean() for x in model(images)).backward()
        assert images.grad is not None and images.grad.norm() > 0


class TestDropPath:
    def test_rate_rises_linearly_over_all_blocks(self) -> None:
        model = both_stages(drop_path_rate=0.4)
        rates = [block.drop_path for block in model.modules() if isinstance(block, SwinBlock)]
        assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])

    def test_drops_a_branch_for_whole_images_and_keeps_its_mean(self) -> None:
        block = SwinBlock(StageOptions(channels=1, heads=1, window=(1, 1)), drop_path=0.25)
        partition = window_plan(torch.empty(4000, 3, 2, 1), (2, 2), (1, 1)).partitions[1]
        torch.manual_seed(0)
        dropped = partition.fill(block._drop_path(torch.ones(4000 * 6, 1), partition))
        is_real = partition.fill(torch.ones(4000 * 6, 1))
        of_image = dropped.amax((0, 2, 3))
        assert torch.equal(dropped, is_real * of_image[:, None, None])
        dropped = of_image
        assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
        assert dropped.mean().item() == pytest.approx(1.0, abs=0.03)

    def test_draws_the_same_whether_or_not_gradients_are_wanted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without gradients windows are handled in groups; a reentrant checkpoint repeats a pass that had none."""
        monkeypatch.setattr("swin_dense.backbones.windows.GROUP_TOKENS", 9)
        model, images = both_stages(drop_path_rate=0.5), random_images(4, 72, 72).requires_grad_()
        found = []
        for reentrant in (None, False, True):
            model.zero_grad()
            torch.manual_seed(0)
            maps = model(images) if reentrant is None else checkpoint(model, images, use_reentrant=reentrant)
            sum((x * x).mean() for x in maps).backward()
            found.append([*maps, *(parameter.grad for parameter in model.parameters())])
        for other in found[1:]:
            for ours, plain in zip(other, found[0], strict=True):
                torch.testing.assert_close(ours, plain)

    def test_drops_nothing_in_evaluation(self) -> None:
        model = both_stages(drop_path_rate=0.9).eval()
        assert torch.equal(model(random_images())[1], model(random_images())[1])
        model.train()
        assert not torch.equal(model(random_images())[1], model(random_images())[1])


def test_absolute_position_embedding_is_added_to_the_tokens() -> None:
    model = both_stages(absolute_position_embedding=True, pretrain_image_size=32).eval()
    assert model.absolute_pos_embed.shape == (1, 16, 8, 8)
    plain = both_stages().eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k != "absolute_pos_embed"})
    images = random_images(2, 32, 32)
    assert not torch.allclose(model(images)[0], plain(images)[0], atol=1e-2)
    plain.patch_embed.register_forward_hook(lambda _, __, x: x + model.absolute_pos_embed.permute(0, 2, 3, 1))
    assert torch.allclose(model(images)[0], plain(images)[0], atol=1e-5)
    assert model(random_images())[0].shape == (2, 16, 10, 13)


def test_initial_values_are_the_official_ones() -> None:
    torch.manual_seed(0)
    model = SwinTransformer(48, (1, 1), (2, 2), out_indices=(0, 1), absolute_position_embedding=True)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == (1.0 if name.endswith("weight") else 0.0)).all(), name
        elif "patch_embed.proj" in name:
            continue  # PyTorch's own values for a convolution
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name


def test_parameter_names_are_the_official_dense_ones() -> None:
    block = ["norm1.weight", "norm1.bias", "attn.relative_position_bias_table"]
    block += [
        f"{layer}.{leaf}"
        for layer in ("attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for leaf in ("weight", "bias")
    ]
    expected = {f"patch_embed.{layer}.{leaf}" for layer in ("proj", "norm") for leaf in ("weight", "bias")}
    expected |= {"absolute_pos_embed"}
    for stage, depth in enumerate((2, 3)):
        expected |= {f"layers.{stage}.blocks.{index}.{name}" for index in range(depth) for name in block}
        expected |= {f"norm{stage}.weight", f"norm{stage}.bias"}
    expected |= {f"layers.0.downsample.{name}" for name in ("norm.weight", "norm.bias", "reduction.weight")}
    assert set(both_stages(absolute_position_embedding=True).state_dict()) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (2, 0)}, "every stage needs at least one block"),
        ({"depths": (2, 2, 2)}, "one number per stage"),
        ({"num_heads": (1, 3)}, "must divide the channels"),
        ({"num_heads": (0, 2)}, "must divide the channels"),
        ({"window_size": 0}, "at least 1"),
        ({"drop_path_rate": 1.0}, "at least 0 and below 1"),
        ({"drop_path_rate": -0.1}, "at least 0 and below 1"),
        ({"out_indices": ()}, "from 0 to 1"),
        ({"out_indices": (1, 0)}, "ascending"),
        ({"out_indices": (0, 0)}, "ascending"),
        ({"out_indices": (2,)}, "from 0 to 1"),
        ({"out_indices": (-1,)}, "from 0 to 1"),
        ({"frozen_stages": 3}, "from -1 (nothing) to 2"),
        ({"frozen_stages": -2}, "from -1 (nothing) to 2"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, object], message: str) -> None:
    (name,) = options
    with pytest.raises(ConfigError) as error:
        both_stages(**options) if "out_indices" not in options else small_backbone(**options)
    assert message in str(error.value)
    assert name in str(error.value) or "num_heads" in str(error.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 32, 32), "(3, 32, 32): they must be (B, 3, H, W); a single one is images[None]"),
        (torch.zeros(2, 1, 32, 32), "(2, 1, 32, 32): they must be (B, 3, H, W)"),
        (torch.zeros(2, 3, 4, 32, 32), "(2, 3, 4, 32, 32): they must be (B, 3, H, W)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "torch.uint8: normalise them first"),
    ],
)
def test_images_of_another_form_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        both_stages()(images)
