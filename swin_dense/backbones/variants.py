"""The published Swin Transformers by name, and tiny ones of our own.

Those of images are in the Swin paper, section 3.3 and Table 7, and in the Swin V2 paper, those of videos in the Video
Swin paper, section 3.2.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from swin_dense.backbones.options import PATCH_SIZE, window_and_patch
from swin_dense.backbones.swin import SwinTransformer
from swin_dense.errors import ConfigError, nearest


@dataclass(frozen=True)
class SwinVariant:
    """The architecture behind a name.

    Attributes:
        embed_dim: Channels C of the first stage.
        depths: Blocks per stage.
        num_heads: Attention heads per stage.
        window_size: Side of the windows in tokens; of videos (frames, rows, columns).
        pretrain_image_size: Side in pixels of the images that its published weights were trained on.
        patch_size: Side of the patches in pixels; of videos (frames, rows, columns).
        mixing: How the tokens of a window are mixed, by "attention" or the "mlp" of Swin-MLP.
        version: 2 for Swin Transformer V2.

    Example:
        >>> from swin_dense.backbones import VARIANTS
        >>> list(VARIANTS)[:3]
        ['swin_nano', 'swin_tiny', 'swin_small']
        >>> VARIANTS["swin_base_384"].window_size
        12
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int | tuple[int, ...] = 7
    pretrain_image_size: int = 224
    patch_size: int | tuple[int, ...] = PATCH_SIZE
    mixing: str = "attention"
    version: int = 1

    @property
    def window(self) -> tuple[int, ...]:
        """Sides of the windows in tokens: (rows, columns), of videos (frames, rows, columns)."""
        return window_and_patch(self.window_size, self.patch_size)[0]


def _swin_mlp_tiny(num_heads: tuple[int, ...]) -> SwinVariant:
    return SwinVariant(96, (2, 2, 6, 2), num_heads, window_size=8, pretrain_image_size=256, mixing="mlp")


VARIANTS = {
    # Not published: small enough to learn something on two CPU cores within minutes.
    "swin_nano": SwinVariant(32, (2, 2, 2, 2), (2, 4, 8, 16), window_size=4),
    "swin_tiny": SwinVariant(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_small": SwinVariant(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_base": SwinVariant(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "swin_large": SwinVariant(192, (2, 2, 18, 2), (6, 12, 24, 48)),
    "swin_base_384": SwinVariant(128, (2, 2, 18, 2), (4, 8, 16, 32), window_size=12, pretrain_image_size=384),
    "swin_large_384": SwinVariant(192, (2, 2, 18, 2), (6, 12, 24, 48), window_size=12, pretrain_image_size=384),
    "swinv2_tiny": SwinVariant(96, (2, 2, 6, 2), (3, 6, 12, 24), 8, 256, version=2),
    "swinv2_small": SwinVariant(96, (2, 2, 18, 2), (3, 6, 12, 24), 8, 256, version=2),
    "swinv2_base": SwinVariant(128, (2, 2, 18, 2), (4, 8, 16, 32), 8, 256, version=2),
    # Swin-MLP by the channels of a head ("Swin-Mixer" in Table 10); 32 in the base model.
    "swin_mlp_tiny_c24": _swin_mlp_tiny((4, 8, 16, 32)),
    "swin_mlp_tiny_c12": _swin_mlp_tiny((8, 16, 32, 64)),
    "swin_mlp_tiny_c6": _swin_mlp_tiny((16, 32, 64, 128)),
    "swin_mlp_base": SwinVariant(128, (2, 2, 18, 2), (4, 8, 16, 32), mixing="mlp"),
    "swin3d_nano": SwinVariant(32, (2, 2, 2, 2), (2, 4, 8, 16), (4, 4, 4), patch_size=(2, 4, 4)),
    "swin3d_tiny": SwinVariant(96, (2, 2, 6, 2), (3, 6, 12, 24), (8, 7, 7), patch_size=(2, 4, 4)),
    "swin3d_small": SwinVariant(96, (2, 2, 18, 2), (3, 6, 12, 24), (8, 7, 7), patch_size=(2, 4, 4)),
    "swin3d_base": SwinVariant(128, (2, 2, 18, 2), (4, 8, 16, 32), (8, 7, 7), patch_size=(2, 4, 4)),
    "swin3d_large": SwinVariant(192, (2, 2, 18, 2), (6, 12, 24, 48), (8, 7, 7), patch_size=(2, 4, 4)),
    "swin3d_large_384": SwinVariant(192, (2, 2, 18, 2), (6, 12, 24, 48), (8, 12, 12), 384, (2, 4, 4)),
}
"""The architectures that `create_backbone` knows, by name, smallest first, those of videos last."""


def create_backbone(name: str, **overrides: Any) -> SwinTransformer:
    """Creates a backbone by its name.

    Args:
        name: A key of `VARIANTS`.
        **overrides: Options of `SwinTransformer`, such as `out_indices` or `drop_path_rate`; they may also replace what
            the variant sets.

    Returns:
        The backbone, newly initialised.

    Raises:
        ConfigError: The name or an option is unknown (the nearest known one is named), or an option's value is wrong.

    Example:
        >>> import torch
        >>> from swin_dense.backbones import create_backbone
        >>> backbone = create_backbone("swin_nano", out_indices=(1, 2), drop_path_rate=0.1).eval()
        >>> with torch.inference_mode():
        ...     [tuple(features.shape) for features in backbone(torch.rand(2, 3, 64, 96))]
        [(2, 64, 8, 12), (2, 128, 4, 6)]
        >>> create_backbone("swin_tinny")
        Traceback (most recent call last):
            ...
        swin_dense.errors.ConfigError: unknown backbone "swin_tinny"; did you mean "swin_tiny"?
    """
    return SwinTransformer(**variant_options(name, overrides))


def variant_options(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `SwinTransformer` behind a name, some replaced; `create_backbone` says what is refused."""
    if name not in VARIANTS:
        raise ConfigError(f'unknown backbone "{name}"; {nearest(name, VARIANTS)}')
    options = list(inspect.signature(SwinTransformer).parameters)
    for option in overrides:
        if option not in options:
            raise ConfigError(f'{name} has no option "{option}"; {nearest(option, options)}')
    return {**asdict(VARIANTS[name]), **overrides}
