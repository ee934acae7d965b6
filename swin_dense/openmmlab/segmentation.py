"""An mmseg encoder-decoder behind plain records: a `Batch` goes in and losses come out, or images and logits.

mmseg's own preprocessor normalises and pads, so that every mmseg model dict means here what it means there; how the
logits of whole images, windows or several scales become label maps is not its business. Shapes: B images, K classes,
(H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from swin_dense.errors import ConfigError, setting
from swin_dense.openmmlab.model_dicts import build_model
from swin_dense.openmmlab.quick_heads import QuickHeads
from swin_dense.openmmlab.registry import mmseg_models
from swin_dense.records import IGNORE_INDEX, Batch


class OpenMMLabSegmenter(nn.Module):
    """Any mmseg encoder-decoder with the two calls that training and prediction need.

    `network` has the parameter names of mmseg checkpoints; `align_corners` is that argument of `interpolate` with which
    the logits are to be resized.
    """

    def __init__(self, model: Mapping[str, Any], num_classes: int) -> None:
        """Builds the segmenter that an mmseg model dict describes, with initialised weights."""
        super().__init__()
        self.num_classes = num_classes
        self.network = build_network(model, num_classes)
        self.align_corners = bool(self.network.align_corners)
        for part in self.network.modules():
            if getattr(part, "rand_init", False) and hasattr(part, "_build_bases"):  # of the Hamburger head of SegNeXt
                part._build_bases = partial(_bases, part)
            criterion: Any = getattr(part, "cls_criterion", None)
            if getattr(criterion, "__name__", "") == "cross_entropy" and part.class_weight is not None:
                part.cls_criterion = partial(_weighted, criterion)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Every loss term of a batch with label maps: scalars by mmseg's names.

        Those with "loss" in their name are to be minimised; others, such as an accuracy, are to be logged.
        """
        preprocessor = self._preprocessor(batch.images)
        images = [image[:, :height, :width] for image, (height, width) in zip(batch.images, batch.sizes, strict=True)]
        if preprocessor.size is not None:
            _check_crop_size(batch, preprocessor.size)
        samples = list(_data_samples(batch, preprocessor.seg_pad_val))
        data = preprocessor({"inputs": images, "data_samples": samples}, training=True)
        try:
            terms = _losses(self.network, data["inputs"], data["data_samples"])
        except ValueError as error:
            if "Expected more than 1 value per channel" not in str(error):
                raise
            raise ConfigError(
                "model: a batch norm, such as that of a pyramid pooling, sees one pixel of one image and cannot learn; "
                "train on two images per device or more (data.batch_size=2), or give the heads "
                "norm_cfg=dict(type='GN', num_groups=32)"
            ) from error
        return {name: value.mean() for name, value in terms.items()}

    def logits(self, images: Tensor) -> Tensor:
        """The logits (B, K, h, w) of RGB images (B, 3, H, W) in 0..255, float32, usually (h, w) = (H / 4, W / 4)."""
        inputs = self._preprocessor(images)({"inputs": list(images)}, training=False)["inputs"]
        return decode(self.network, inputs).float()

    def _preprocessor(self, images: Tensor) -> Any:
        # Lightning moves parameters without telling mmengine's preprocessor, which would carry the images back.
        return self.network.data_preprocessor.to(images.device)


def _bases(part: Any, images: int, *sizes: int, device: torch.device) -> Tensor:
    """Where a Hamburger begins to factorize the maps of each image: at random in training, and else alike.

    Drawn at every call, they made another prediction of the same image each time, and another in each batch.
    """
    build: Callable[..., Tensor] = type(part)._build_bases
    if part.training:
        return build(part, images, *sizes, device=device)
    with torch.random.fork_rng([]):  # they are drawn on the CPU
        torch.default_generator.manual_seed(0)
        return build(part, 1, *sizes, device=device).repeat(images, 1, 1)


def _weighted(criterion: Callable[..., Tensor], logits: Tensor, labels: Tensor, *weight: Any, **options: Any) -> Tensor:
    """The cross entropy of mmseg, whose mean over weights of classes fails on ignored pixels: these have no weight."""
    if options["avg_factor"] is None and options["reduction"] == "mean":
        options["avg_factor"] = options["class_weight"][labels[labels != options["ignore_index"]]].sum()
    return criterion(logits, labels, *weight, **options)


def _losses(network: Any, inputs: Tensor, samples: list[Any]) -> dict[str, Tensor]:
    """The losses of mmseg, with heads that compute quickly where the segmentor trains them in mmseg's usual way."""
    from mmseg.models.segmentors import EncoderDecoder

    if type(network).loss is not EncoderDecoder.loss:
        return dict(network.loss(inputs, samples))
    features = network.extract_feat(inputs)
    with QuickHeads():
        terms: dict[str, Tensor] = network._decode_head_forward_train(features, samples)
        if network.with_auxiliary_head:
            terms |= network._auxiliary_head_forward_train(features, samples)
    return terms


def build_network(model: Mapping[str, Any], num_classes: int) -> Any:
    """The mmseg segmentor that a model dict describes; see `build_model`."""
    network = build_model(model, num_classes, mmseg_models())
    _check_preprocessor(network.data_preprocessor)
    for key, head in _heads(network):
        _check_head(key, head, network.data_preprocessor.seg_pad_val)
    return network


class WholeSegmenter(nn.Module):
    """A network from preprocessed images (B, 3, H, W) to its logits, without what only training needs."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """The logits (B, K, h, w), float32."""
        return (decode(self.network, images).float(),)


def decode(network: Any, inputs: Tensor) -> Tensor:
    """The logits (B, K, h, w) of normalised images (B, 3, H, W) by backbone, neck and decode head, not auxiliary heads.

    They have the head's own resolution. A head that computes logits from its outputs in a way of its own (PointRend,
    Mask2Former) gives them at the size of the images.
    """
    *_, (_, head) = _heads(network, auxiliary=False)
    if _predicts_by_forward(head):
        return _tensor(network(inputs, mode="tensor"))
    size = inputs.shape[2:]
    metainfo = {"ori_shape": size, "img_shape": size, "pad_shape": size, "padding_size": [0, 0, 0, 0]}
    return _tensor(network.encode_decode(inputs, [metainfo] * len(inputs)))


def _tensor(logits: Any) -> Tensor:
    assert isinstance(logits, Tensor)
    return logits


def _predicts_by_forward(head: nn.Module) -> bool:
    from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    return getattr(type(head), "predict", None) in (BaseDecodeHead.predict, BaseCascadeDecodeHead.predict)


def _heads(network: Any, auxiliary: bool = True) -> Iterator[tuple[str, Any]]:
    """Every head with its key; the last decode head is the one that predicts."""
    for name in ("decode_head", "auxiliary_head") if auxiliary else ("decode_head",):
        head = getattr(network, name, None)
        if isinstance(head, nn.ModuleList):
            yield from ((f"model.{name}.{i}", one) for i, one in enumerate(head))
        elif head is not None:
            yield f"model.{name}", head


def _check_preprocessor(preprocessor: Any) -> None:
    key, size = "model.data_preprocessor", preprocessor.size
    if size is not None and not (isinstance(size, (list, tuple)) and [*map(type, size)] == [int, int]):
        raise ConfigError(f"{key}.size is {size!r}; set it to (height, width) of the training crop")
    if (preprocessor.size is None) == (preprocessor.size_divisor is None):
        raise ConfigError(f"{key}: set size=(height, width), that of the training crop, or else size_divisor")
    if preprocessor.test_cfg:
        raise ConfigError(f"{key}.test_cfg: images are not padded for prediction; leave it out")


def _check_head(key: str, head: Any, padding_label: int) -> None:
    """Padding and pixels without a class have one number, which no class may have."""
    if head.out_channels != head.num_classes:
        raise ConfigError(
            f"{key}.out_channels is {head.out_channels} for {head.num_classes} classes: thresholded binary heads are "
            "not supported; leave it out, and two classes get two channels"
        )
    ignored = getattr(head, "ignore_index", None)
    if ignored is not None and ignored != padding_label:
        raise ConfigError(
            f"{key}.ignore_index is {ignored}, but model.data_preprocessor.seg_pad_val is {padding_label}: both mean a "
            "pixel without a class, and must be equal"
        )
    if 0 <= padding_label < head.num_classes:
        raise ConfigError(
            f"model.data_preprocessor.seg_pad_val is {padding_label}, which is also one of the {head.num_classes} "
            f"classes; set it and {key}.ignore_index to a number that is no class, such as 65535"
        )


def _check_crop_size(batch: Batch, size: tuple[int, int]) -> None:
    largest = tuple(max(one[side] for one in batch.sizes) for side in (0, 1))
    key = setting("model.data_preprocessor.size", largest)
    for name, (height, width) in zip(batch.file_names, batch.sizes, strict=True):
        if height > size[0] or width > size[1]:
            raise ConfigError(
                f"{name} comes as {height}x{width}, more than model.data_preprocessor.size, {tuple(size)}, to which "
                f"training images are padded: make it the size of the training crops, {key} (augmentation.crop_size), "
                f"or with a data module of your own cut such crops: train_transform=official_transform({tuple(size)}), "
                "of swin_dense.data.segmentation_transforms"
            )


def _data_samples(batch: Batch, ignored: int) -> Iterator[Any]:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    assert batch.label_maps is not None
    for label_map in batch.label_maps:
        labels = label_map.as_subclass(Tensor).long()
        yield SegDataSample(gt_sem_seg=PixelData(data=torch.where(labels == IGNORE_INDEX, ignored, labels)[None]))
