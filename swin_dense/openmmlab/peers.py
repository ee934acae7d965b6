"""Parts of mmdet, mmseg and mmaction2 as they come, that ours are measured beside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from swin_dense.backbones import SwinVariant
from swin_dense.errors import ConfigError
from swin_dense.openmmlab.detection import build_network
from swin_dense.openmmlab.registry import mmdet_models, mmseg_models


def mmdet_backbone(variant: SwinVariant) -> nn.Module:
    """The Swin Transformer of mmdet without drop path."""
    network: nn.Module = mmdet_models().get("SwinTransformer")(**_options(variant))
    return network


def mmaction_backbone(variant: SwinVariant) -> nn.Module:
    """The Swin Transformer of videos of mmaction2 without drop path."""
    network: nn.Module = _mmaction_swin()(
        arch={"embed_dims": variant.embed_dim, "depths": variant.depths, "num_heads": variant.num_heads},
        pretrained2d=False,
        window_size=variant.window,
        drop_path_rate=0.0,
        out_indices=range(len(variant.depths)),
    )
    return network


@cache
def _mmaction_swin() -> Any:
    """The class, of its file alone: mmaction2 1.2.0 was published without a module that its other models import."""
    mmdet_models()  # which installs the operators
    package = find_spec("mmaction")
    assert package is not None and package.origin is not None
    return run_path(str(Path(package.origin).parent / "models" / "backbones" / "swin.py"))["SwinTransformer3D"]


def mmdet_detector(model: Mapping[str, Any], variant: SwinVariant, num_classes: int) -> Any:
    """The detector of a model dict with mmdet's backbone in the place of ours."""
    backbone = {"type": "SwinTransformer", **_options(variant)}
    widths = [variant.embed_dim * 2**stage for stage in range(len(variant.depths))]
    return build_network({**model, "backbone": backbone, "neck": {**model["neck"], "in_channels": widths}}, num_classes)


def mmdet_dataset(annotations: Path, images: Path, steps: Sequence[Mapping[str, Any]]) -> Any:
    """The data set of mmdet with masks, its images resized as `steps` say; every image is in it."""
    mmdet_models()  # which installs the operators
    from mmdet.datasets import CocoDataset
    from mmdet.utils import register_all_modules
    from pycocotools.coco import COCO

    register_all_modules(init_default_scope=True)
    categories = [category["name"] for category in COCO(str(annotations)).cats.values()]
    load = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}]
    return CocoDataset(
        ann_file=str(annotations),
        data_prefix={"img": str(images)},
        metainfo={"classes": tuple(categories)},
        pipeline=[*load, *steps, {"type": "PackDetInputs"}],
    )


def mmdet_loader(
    annotations: Path, images: Path, scale: tuple[int, int], order: Iterable[Sequence[int]], workers: int
) -> Any:
    """The batches of mmdet, each of the images with the ids that `order` gives; `scale` is the long and short side."""
    from mmengine.dataset import pseudo_collate
    from torch.utils.data import DataLoader

    dataset = mmdet_dataset(annotations, images, [{"type": "Resize", "scale": scale, "keep_ratio": True}])
    places = {dataset.get_data_info(index)["img_id"]: index for index in range(len(dataset))}
    return DataLoader(
        dataset,
        batch_sampler=([places[one] for one in batch] for batch in order),
        collate_fn=pseudo_collate,
        num_workers=workers,
        worker_init_fn=_one_thread,
    )


def mmdet_optimizer(optimizer: Optimizer, precision: str) -> Any:
    """What `train_step` of mmdet's models takes; `precision` is "bf16", "16" (on CUDA alone) or "32"."""
    from mmengine.optim import AmpOptimWrapper, OptimWrapper

    if precision == "32":
        return OptimWrapper(optimizer)
    types = {"bf16": "bfloat16", "16": "float16"}
    if precision not in types:
        raise ConfigError(f'mmdet has no precision "{precision}"; name one of 32, {", ".join(types)}')
    return AmpOptimWrapper(optimizer=optimizer, dtype=types[precision], loss_scale="dynamic")


def _one_thread(worker: int) -> None:
    """Keeps OpenCV from starting threads in a worker, as mmengine's runner does."""
    import cv2

    cv2.setNumThreads(0)


def _options(variant: SwinVariant) -> dict[str, object]:
    return {
        "embed_dims": variant.embed_dim,
        "depths": variant.depths,
        "num_heads": variant.num_heads,
        "window_size": variant.window_size,
        "drop_path_rate": 0.0,
    }


def mmseg_metric(class_names: Sequence[str], ignore_index: int) -> Any:
    """The mean IoU of mmseg."""
    mmseg_models()  # which installs the operators
    from mmseg.evaluation import IoUMetric

    metric = IoUMetric(ignore_index=ignore_index)
    metric.dataset_meta = {"classes": list(class_names)}
    return metric
