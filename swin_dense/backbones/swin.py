"""The Swin Transformer as a backbone for dense tasks (Liu et al., arXiv 2103.14030), of images and of videos.

Semantics and parameter names are those of the official detection and segmentation backbone, on which every published
dense weight depends. Windows of three dimensions make it Video Swin (Liu et al., arXiv 2106.13230), with the semantics
of its official code.

Shapes: B images or clips, (H, W) pixels or tokens, in videos (T, H, W) with T frames, C channels; tokens are channels
last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.backbones.block import TEMPORAL_LAYERS, StageOptions, SwinBlock, SwinStage
from swin_dense.backbones.options import (
    PATCH_SIZE,
    check_mixing,
    check_sizes,
    pretrained_windows,
    shifted_dimensions,
    spatial_and_temporal,
    window_and_patch,
)
from swin_dense.backbones.patches import PatchEmbed, resized_position_embedding
from swin_dense.backbones.rolled import Grid, grid_of
from swin_dense.backbones.rows import LayerNorm
from swin_dense.errors import DataError


@dataclass(frozen=True)
class FeatureSpec:
    """What a neck must know about one feature map.

    Attributes:
        name: "stage1" is the finest.
        channels: Channels of the map.
        stride: Pixels per cell; the map of an (H, W) image is (ceil(H / stride), ceil(W / stride)).
        temporal_stride: Frames per cell of the map of a video; None for images.

    Example:
        >>> from swin_dense.backbones import FeatureSpec, create_backbone
        >>> backbone = create_backbone("swin_nano", out_indices=(0, 3))
        >>> backbone.feature_specs[0]
        FeatureSpec(name='stage1', channels=32, stride=4, temporal_stride=None)
        >>> [spec.channels for spec in backbone.feature_specs]  # what a neck takes as its `in_channels`
        [32, 256]
    """

    name: str
    channels: int
    stride: int
    temporal_stride: int | None = None


class SwinTransformer(nn.Module):
    """Swin Transformer that returns one feature map per requested stage.

    Images may have any height and width of at least one pixel, and clips any number of frames; maps are as large as
    `feature_specs` say. The model pickles, copies and trains like any other module; parameter names are those of the
    official dense models.

    Windows of three dimensions, (frames, rows, columns) of tokens, make it Video Swin. As in its official code, a map
    that is no larger than the window along a dimension is taken for the window there, and is not shifted along it; the
    position biases are those of the true offsets, where the official code reads others for windows of smaller height
    or width.

    Attributes:
        feature_specs: Name, channels and stride of each map, finest first.
        depths: Blocks per stage.
        window: Sides of the windows in tokens, (rows, columns) or (frames, rows, columns).
        temporal_window: Those of attention over time alone, likewise; None where attention is joint.
        patch: Sides of the patches in pixels, likewise.
        out_indices: Stages whose maps are returned, from 0.
        frozen_stages: What is never trained; see the option of this name.

    Example:
        >>> import torch
        >>> from swin_dense.backbones import SwinTransformer
        >>> backbone = SwinTransformer(embed_dim=32, depths=(2, 2), num_heads=(2, 4), out_indices=(0, 1)).eval()
        >>> with torch.inference_mode():
        ...     maps = backbone(torch.rand(1, 3, 100, 150))
        >>> for spec, features in zip(backbone.feature_specs, maps):
        ...     print(spec.name, spec.stride, tuple(features.shape))
        stage1 4 (1, 32, 25, 38)
        stage2 8 (1, 64, 13, 19)
        >>> video = SwinTransformer(32, (2, 2), (2, 4), (8, 7, 7), patch_size=(2, 4, 4), out_indices=(1,)).eval()
        >>> with torch.inference_mode():
        ...     tuple(video(torch.rand(1, 3, 16, 64, 64))[0].shape)
        (1, 64, 8, 8, 8)
    """

    def __init__(
        self,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int | Sequence[int] = 7,
        *,
        patch_size: int | Sequence[int] = PATCH_SIZE,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        activation_checkpointing: bool = False,
        absolute_position_embedding: bool = False,
        pretrain_image_size: int = 224,
        fit_windows: bool = False,
        shift_windows: bool | Sequence[bool] = True,
        relative_position_bias: bool = True,
        appearance_term: bool = True,
        mixing: str = "attention",
        version: int = 1,
        pretrained_window_sizes: Sequence[int] | None = None,
        spatiotemporal_attention: str = "joint",
    ) -> None:
        """Builds the backbone with the official initialisation.

        Args:
            embed_dim: Channels C of the first stage; each later stage has twice as many.
            depths: Blocks per stage.
            num_heads: Attention heads per stage.
            window_size: Side of the square windows, in tokens; or (frames, rows, columns) of tokens, for videos.
            patch_size: Side of the square patches, in pixels; or (frames, rows, columns), for videos.
            in_channels: Channels of the images.
            drop_path_rate: Drop path (stochastic depth) rate of the last block; it rises linearly from 0.
            out_indices: Stages whose maps are returned, from 0, ascending.
            frozen_stages: -1 freezes nothing, 0 the patch embedding, n also the first n stages with their output norms.
                Frozen parts get no gradient and stay in evaluation mode.
            activation_checkpointing: Trade time for memory in training: keep the input of each block alone, and
                compute the block again in the backward pass.
            absolute_position_embedding: Add a learned embedding of the absolute position to the tokens, resized
                (bicubic) to the token grid.
            pretrain_image_size: Side in pixels of the images for which positions are learned: the absolute position
                embedding, and the position bias of version 2.
            fit_windows: Where a map is no larger than the window along a dimension, take the map for the window there
                and shift nothing, as classifiers do. Dense models keep window and shift, and pad the map. Windows of
                videos are always fitted.
            shift_windows: Shift the windows of every second block. False leaves regular windows everywhere (Table 4):
                within a stage, no window knows of another. For videos it may be said of each dimension, (frames, rows,
                columns).
            relative_position_bias: Add a learned bias of the relative position to the scores of attention (equation 4).
            appearance_term: Compare tokens by their content, the scaled dot product of equation 4. False leaves the
                bias alone in the softmax ("rel. pos. w/o app." of Table 4), so that attention is the same for all
                images; the weights of query and key stay, unused.
            mixing: "attention", or "mlp" of Swin-MLP: one linear map over the places of a window for each head, in
                place of attention and with no position of its own.
            version: 2 builds Swin Transformer V2 (arXiv 2111.09883): norms behind attention and MLP and behind the
                reduction of patch merging, attention by scaled cosines, and a continuous position bias.
            pretrained_window_sizes: Sides of the windows in which the position bias of version 2 was learned, for each
                stage; that of other windows follows from it. None takes `window_size`, but not more than the map of
                `pretrain_image_size`, to which the windows of a classifier are fitted.
            spatiotemporal_attention: How videos attend over space and time (Video Swin paper, Table 4): "joint" in
                windows of both. "split" has windows of one frame, and two layers over time alone behind the last
                stage. "factorized" has windows of one frame, and in every block a second attention over time alone
                behind the first, times a learned weight that is zero at first. Windows over time have the frames of
                `window_size`.

        Raises:
            ConfigError: An option is out of its range, or options contradict each other.
        """
        super().__init__()
        window, self.patch = window_and_patch(window_size, patch_size)
        self.window, self.temporal_window = spatial_and_temporal(spatiotemporal_attention, window)
        is_video = len(self.window) == 3
        check_sizes(embed_dim, depths, num_heads, drop_path_rate, out_indices, frozen_stages)
        check_mixing(
            mixing,
            version,
            spatiotemporal_attention,
            is_video=is_video,
            has_embedding=absolute_position_embedding,
            all_terms=relative_position_bias and appearance_term,
            any_term=relative_position_bias or appearance_term,
        )
        shifts = shifted_dimensions(shift_windows, self.window)
        side = pretrain_image_size // self.patch[-1]
        pretrained = pretrained_windows(version, pretrained_window_sizes, len(depths), self.window[-1], side)
        self._compiled: Callable[..., tuple[Tensor, ...]] | None = None
        self.depths = tuple(depths)
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.feature_specs = tuple(
            FeatureSpec(
                f"stage{index + 1}",
                embed_dim * 2**index,
                self.patch[-1] * 2**index,
                temporal_stride=self.patch[0] if is_video else None,
            )
            for index in self.out_indices
        )

        self.in_channels = in_channels
        self.patch_embed = PatchEmbed(self.patch, in_channels, embed_dim)
        self.absolute_pos_embed: nn.Parameter | None = None
        if absolute_position_embedding:
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, side, side))

        last_layers = TEMPORAL_LAYERS if spatiotemporal_attention == "split" else 0
        drop_paths = torch.linspace(0, drop_path_rate, sum(depths) + last_layers, device="cpu").tolist()
        self.layers = nn.ModuleList()
        for index, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            first = sum(depths[:index])
            options = StageOptions(
                channels=embed_dim * 2**index,
                heads=heads,
                window=self.window,
                shift_windows=shifts,
                relative_position_bias=relative_position_bias,
                appearance_term=appearance_term,
                mixing=mixing,
                version=version,
                pretrained_window=pretrained[index],
                temporal_window=self.temporal_window if spatiotemporal_attention == "factorized" else None,
            )
            stage = SwinStage(options, drop_paths[first : first + depth], downsample=index < len(depths) - 1)
            if last_layers and index == len(depths) - 1:
                assert self.temporal_window is not None
                over_time = replace(options, window=self.temporal_window)
                stage.temporal = SwinStage(over_time, drop_paths[-last_layers:], downsample=False)
            for part in filter(None, (stage, stage.temporal)):
                part.activation_checkpointing = activation_checkpointing
                part.fit_windows = fit_windows or is_video
            self.layers.append(stage)
        for spec, index in zip(self.feature_specs, self.out_indices, strict=True):
            self.add_module(self.norm_name(index), LayerNorm(spec.channels))

        self._initialise()
        for frozen in self._frozen():
            frozen.requires_grad_(False)
        self.train()  # a new module is in training mode, its frozen parts too

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes the feature maps of a batch of normalised images.

        Args:
            images: (B, in_channels, H, W), or clips (B, in_channels, T, H, W), of any size from 1.

        Returns:
            One contiguous (B, C_i, H_i, W_i) or (B, C_i, T_i, H_i, W_i) map per entry of `feature_specs`, finest first.

        Raises:
            DataError: The images have another shape, or are not floating-point numbers.
        """
        if torch.compiler.is_compiling():  # as a part of a larger model
            return self._maps(images, self._grids(images.shape[2:]))
        self._check(images)
        if torch.jit.is_tracing():  # type: ignore[no-untyped-call,attr-defined]  # torch leaves it untyped
            from swin_dense.backbones.plain import PlainSwin  # it imports this file

            maps: tuple[Tensor, ...] = PlainSwin(self)(images)
            return maps
        if self._compiled is None:
            return self._maps(images)
        if self._dynamic:
            # Equal sizes, as those of a square image, are otherwise taken for one.
            torch._dynamo.maybe_mark_dynamic(images, (0, *range(2, images.ndim)))
        with _one_graph():
            return self._compiled(images, self._grids(images.shape[2:]))

    def _check(self, images: Tensor) -> None:
        channels, sides = self.in_channels, "H, W" if len(self.window) == 2 else "T, H, W"
        if images.ndim != len(self.window) + 2 or images.shape[1] != channels:
            one = "; a single one is images[None]" if images.ndim == len(self.window) + 1 else ""
            raise DataError(f"images of shape {tuple(images.shape)}: they must be (B, {channels}, {sides}){one}")
        if not images.is_floating_point():
            raise DataError(f"images are {images.dtype}: normalise them first, as (images / 255 - mean) / std")

    def compile(self, *, dynamic: bool | None = True, **options: Any) -> None:
        """Compiles the forward pass, in place, as one graph; it is compiled when it is first called.

        Names of parameters and checkpoints stay as they are. Copies and pickles of the backbone are not compiled.

        Args:
            dynamic: True compiles once for images of all sizes, save that a batch of one image and maps of a single
                window are compiled apart; None for the first size, and for all once a size has changed; False for
                each size, and so are videos always, as their windows depend on it.
            options: What `torch.compile` takes beside it, such as `mode` and `fullgraph`.

        Example:
            >>> import torch
            >>> from swin_dense.backbones import SwinTransformer
            >>> backbone = SwinTransformer(depths=(1,), num_heads=(3,), out_indices=(0,)).eval()
            >>> backbone.compile(backend="eager")  # without an argument, the default compiler of PyTorch
            >>> len(backbone(torch.rand(2, 3, 97, 130)))
            1
        """
        if len(self.window) == 3:
            dynamic = False
        self._dynamic = bool(dynamic)
        self._compiled = torch.compile(self._maps, dynamic=dynamic, **options)

    def __getstate__(self) -> dict[str, Any]:
        """The state without what was compiled."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return state | {"_compiled": None}

    def _grids(self, size: Sequence[int]) -> list[Grid]:
        """The sizes of each stage for images of (H, W) pixels, or clips of (T, H, W)."""
        grids = []
        for index in range(len(self.depths)):
            strides = (*self.patch[:-2], *(side * 2**index for side in self.patch[-2:]))
            tokens = tuple((length + stride - 1) // stride for length, stride in zip(size, strides, strict=True))
            grids.append(grid_of(tokens, self.window))
        return grids

    def _maps(self, images: Tensor, grids: Sequence[Grid] | None = None) -> tuple[Tensor, ...]:
        """What `forward` returns; a compiler is told the sizes of the stages."""
        tokens = self.patch_embed(images, None if grids is None else grids[0].tokens)
        if self.absolute_pos_embed is not None:
            tokens = tokens + resized_position_embedding(self.absolute_pos_embed, tokens.shape[1:3])
        maps = []
        for index, stage in enumerate(self.layers):
            shape = tokens.shape
            rows, tokens = stage(tokens, None if grids is None else grids[index:])
            if index in self.out_indices:
                norm, rows = self.get_submodule(self.norm_name(index)), rows.view(shape)
                is_ours = isinstance(norm, LayerNorm)
                maps.append(norm(rows, channels_first=True) if is_ours else norm(rows).movedim(-1, 1).contiguous())
            if index == self.out_indices[-1]:
                break
        return tuple(maps)

    def norm_name(self, index: int) -> str:
        """The name of the norm of a stage's map."""
        return f"norm{index}"

    def train(self, mode: bool = True) -> SwinTransformer:
        """Sets training mode, save for the frozen parts."""
        super().train(mode)
        for frozen in self._frozen():
            if isinstance(frozen, nn.Module):
                frozen.eval()
        return self

    def parameter_depths(self) -> dict[str, int]:
        """Depths by parameter name, for learning rates that decay from layer to layer.

        The rule of BEiT (arXiv 2106.08254) as the official SimMIM code applies it to Swin (`get_swin_layer`): patch and
        position embedding have depth 0, the L blocks 1 to L through all stages, patch merging that of the block before
        it, and the norms that follow have L + 1, as any head has. Stages that no requested map depends on are left out.
        """
        by_prefix = {"patch_embed.": 0, "absolute_pos_embed": 0}
        blocks = 0
        for index, depth in enumerate(self.depths[: self.out_indices[-1] + 1]):
            over_time = self.get_submodule(f"layers.{index}").temporal
            for name, count in (("blocks", depth), ("temporal.blocks", TEMPORAL_LAYERS if over_time else 0)):
                by_prefix |= {f"layers.{index}.{name}.{j}.": blocks + j + 1 for j in range(count)}
                blocks += count
            by_prefix[f"layers.{index}.downsample."] = blocks
        by_prefix["norm"] = blocks + 1
        return {
            name: depth
            for name, _ in self.named_parameters()
            for prefix, depth in by_prefix.items()
            if name.startswith(prefix)
        }

    def _frozen(self) -> list[nn.Module | nn.Parameter]:
        """What is never trained: the frozen stages, and what no requested map depends on."""
        frozen: list[nn.Module | nn.Parameter] = []
        if self.frozen_stages >= 0:
            frozen.append(self.patch_embed)
            if self.absolute_pos_embed is not None:
                frozen.append(self.absolute_pos_embed)
        frozen += self.layers[: max(self.frozen_stages, 0)]
        frozen += [
            self.get_submodule(self.norm_name(index)) for index in self.out_indices if index < self.frozen_stages
        ]
        # Left trainable, parts without a gradient would stop distributed training.
        last = self.out_indices[-1]
        if last + 1 < len(self.layers):
            frozen += [self.layers[last].get_submodule("downsample"), *self.layers[last + 1 :]]
        return frozen

    def _initialise(self) -> None:
        """Draws the weights as the official code does; norms and the patch projection keep PyTorch's own values."""
        for name, parameter in self.named_parameters():
            if "relative_position_bias_table" in name or name == "absolute_pos_embed":
                nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, SwinBlock) and module.norms_last:  # new blocks change nothing
                for norm in (module.norm1, module.norm2):
                    nn.init.zeros_(norm.weight)


def _one_graph() -> AbstractContextManager[object]:
    """Keeps the compiler from splitting the graph under DistributedDataParallel, at every bucket of gradients."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return nullcontext()
    patched: AbstractContextManager[object] = torch._dynamo.config.patch(optimize_ddp=False)
    return patched
