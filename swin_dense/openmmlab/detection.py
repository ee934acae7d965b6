"""An mmdet detector behind plain records: a `Batch` goes in; losses or `Detections` come out.

mmdet's own preprocessor normalises and pads, so that every mmdet model dict means here what it means there. Shapes: B
images, N objects of an image, K classes, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swin_dense.errors import DataError, InstallationError
from swin_dense.openmmlab.model_dicts import build_model, has_masks, has_semantic_branch
from swin_dense.openmmlab.registry import mmdet_models
from swin_dense.records import IGNORE_INDEX, Batch, Detections, Instances, Rle, without_negative_sizes
from swin_dense.rle import compress_runs

MOST_ENCODED = 2**26
"""Pixels of masks that are compressed together: there is a second form of them meanwhile."""

CHANGING = {
    "BatchSyncRandomResize": ("_input_size",),  # of YOLOX
    "DynamicRoIHead": (
        "iou_history",
        "beta_history",
        "bbox_assigner.pos_iou_thr",
        "bbox_assigner.neg_iou_thr",
        "bbox_assigner.min_pos_iou",
        "bbox_head.loss_bbox.beta",
    ),
}
"""Numbers by which parts of mmdet's models remember a training, and that are no tensors, by class."""

NO_CLASS = 255
"""The label of a pixel without a class in mmdet's label maps; its preprocessors fill the padding with it."""


class OpenMMLabDetector(nn.Module):
    """Any mmdet detector with the two calls that training and prediction need.

    `network` has the parameter names of mmdet checkpoints; with `has_semantic_branch` it also learns the class of every
    pixel from label maps, as HTC does.
    """

    def __init__(self, model: Mapping[str, Any], num_classes: int) -> None:
        """Builds the detector that an mmdet model dict describes, with initialised weights."""
        super().__init__()
        self.num_classes = num_classes
        self.network = build_network(model, num_classes)
        self.has_masks = has_masks(model)
        self.has_semantic_branch = has_semantic_branch(model)
        self._learns = False
        self._progress = {"epoch": 0, "iter": 0}
        for part in _precise_parts(self.network):
            part.register_forward_hook(_in_float32)
        for head in _mask_heads(self.network):
            head._predict_by_feat_single = partial(_masks_in_image, head)
        for part in self.network.modules():
            if type(part).__name__ == "SSDHead":
                vars(part).setdefault("loss_cls", None)  # it computes its loss itself, but predictions look at this

    def begin_step(self, epoch: int, step: int) -> None:
        """Says where a training stands: what TOOD, BoxInst and YOLOX learn depends on it."""
        self._progress = {"epoch": epoch, "iter": step}

    def training_state(self) -> dict[str, Any]:
        """What a training changes beside the tensors, by name: a checkpoint needs it to go on to the same bits."""
        return {
            f"{place}.{name}": _plain(attrgetter(name)(part))
            for place, part in self.network.named_modules()
            for name in CHANGING.get(type(part).__name__, ())
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what `training_state` gave."""
        for key, value in state.items():
            owner, _, name = key.rpartition(".")
            setattr(attrgetter(owner)(self.network), name, value)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Every loss term of a batch with instances: scalars by mmdet's names, lists over levels and stages summed.

        Those with "loss" in their name are to be minimised; others, such as an accuracy, are to be logged.
        """
        if batch.instances is None:
            raise DataError(
                "a batch without instances has no losses: batches of a validation are images alone; for losses on them "
                "take train_dataloader() of a data module that trains on the validation files"
            )
        for name, instances in zip(batch.file_names, batch.instances, strict=True):
            if self.has_masks and instances.masks is None:
                raise DataError(f"{name} comes with boxes alone, but the model learns masks; read the data with them")
        if self.has_semantic_branch and batch.label_maps is None:
            raise DataError(
                f"{batch.file_names[0]} comes without a label map, but model.roi_head.semantic_head learns from it: "
                "name their folder in data.train_stuff, or set semantic_head and semantic_roi_extractor to None"
            )
        if not self._learns:
            from swin_dense.openmmlab.targets import without_waits  # not read for predictions

            without_waits(self.network)
            self._learns = True
        from mmengine.logging import MessageHub

        MessageHub.get_current_instance().update_info_dict(self._progress)  # where mmdet's models look it up
        inputs, data_samples = self._preprocess(batch, training=True)
        try:
            terms = self.network.loss(inputs, data_samples)
        except ImportError as error:  # of what a single model needs, such as PAA
            reason = str(error).replace("pip install sklearn", "pip install scikit-learn")
            raise InstallationError(f"the model needs a package that is not installed: {reason}") from error
        return {
            name: torch.stack([value.mean() for value in values]).sum()
            for name, values in ((name, value if isinstance(value, list) else [value]) for name, value in terms.items())
        }

    def predict(self, batch: Batch) -> list[Detections]:
        """The objects of each image, in pixels of the image on disk, best score first."""
        inputs, data_samples = self._preprocess(batch, training=False)
        predicted = self.network.predict(inputs, data_samples, rescale=True)
        return [_to_detections(one.pred_instances) for one in predicted]

    def _preprocess(self, batch: Batch, training: bool) -> tuple[Tensor, list[Any]]:
        # Lightning moves parameters without telling mmengine's preprocessor, which would carry the images back.
        preprocessor = self.network.data_preprocessor.to(batch.images.device)
        images = [image[:, :height, :width] for image, (height, width) in zip(batch.images, batch.sizes, strict=True)]
        data = preprocessor({"inputs": images, "data_samples": list(_data_samples(batch, training))}, training)
        return data["inputs"], data["data_samples"]


def build_network(model: Mapping[str, Any], num_classes: int) -> Any:
    """The mmdet detector that a model dict describes; see `build_model`."""
    return build_model(model, num_classes, mmdet_models())


def _plain(value: Any) -> Any:
    """The same without numpy's types, which no checkpoint is to hold."""
    numbers = np.asarray(value).tolist()
    return tuple(numbers) if isinstance(value, tuple) else numbers


def _precise_parts(network: Any) -> Iterator[nn.Module]:
    """Parts whose outputs half precision would spoil."""
    from mmdet.models.task_modules.assigners import HungarianAssigner

    roi_head: Any = getattr(network, "roi_head", None)
    # Mmdet's RoI extractors round boxes to the type of the maps; in bfloat16 that would be to 8 pixels beyond 1024.
    if network.with_neck:
        yield network.neck
    if getattr(roi_head, "with_semantic", False):
        yield roi_head.semantic_head
    # The costs of matching take the logarithm of 1 - p + 1e-12, which float16 makes that of 0 where p is nearly 1.
    assigners = getattr(roi_head, "bbox_assigner", None)
    if isinstance(assigners, list) and assigners:  # one of each stage; none without train_cfg
        stages = zip(assigners, roi_head.bbox_head, strict=True)
        yield from (head for assigner, head in stages if isinstance(assigner, HungarianAssigner))
    if isinstance(getattr(getattr(network, "bbox_head", None), "assigner", None), HungarianAssigner):
        yield network.bbox_head


def _mask_heads(network: Any) -> Iterator[Any]:
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead

    yield from (part for part in network.modules() if isinstance(part, FCNMaskHead))


def _masks_in_image(
    head: Any,
    mask_preds: Tensor,
    bboxes: Tensor,
    labels: Tensor,
    img_meta: dict[str, Any],
    rcnn_test_cfg: Any,
    rescale: bool = False,
    activate_map: bool = False,
) -> Tensor:
    """Masks of boxes in an image, and empty ones of boxes beside it; with `rescale`, `bboxes` change, too.

    Boxes may lie beside it where nothing clips them, as in QueryInst; mmdet fails there on a CPU.
    """
    height, width = img_meta["img_shape"][:2]
    beside = (bboxes[:, 2:] <= 0).any(1) | (bboxes[:, 0] >= width) | (bboxes[:, 1] >= height)
    boxes = torch.where(beside[:, None], bboxes.new_tensor([0, 0, 1, 1]), bboxes)
    predict: Callable[..., Tensor] = type(head)._predict_by_feat_single
    masks = predict(head, mask_preds, boxes, labels, img_meta, rcnn_test_cfg, rescale, activate_map)
    if rescale:
        bboxes /= bboxes.new_tensor(img_meta["scale_factor"]).repeat(2)
    masks[beside] = False
    return masks


def _in_float32(part: nn.Module, inputs: Any, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(one.float() for one in outputs)


def _data_samples(batch: Batch, training: bool) -> Iterator[Any]:
    from mmdet.structures import DetDataSample
    from mmengine.structures import PixelData

    kind: Any = DetDataSample
    if training:
        from swin_dense.openmmlab.targets import TrainingSample  # not read for predictions

        kind = TrainingSample
    for i, (height, width) in enumerate(batch.sizes):
        original_height, original_width = batch.original_sizes[i]
        sample = kind(
            metainfo={
                "img_id": batch.image_ids[i],
                "img_path": batch.file_names[i],
                "ori_shape": batch.original_sizes[i],
                "img_shape": (height, width),
                "scale_factor": (width / original_width, height / original_height),
                "border": (0, height, 0, width),  # where the image lies in its padding; CenterNet asks for it
            }
        )
        if training:
            assert batch.instances is not None
            sample.gt_instances, sample.ignored_instances = _ground_truth(batch.instances[i])
            if batch.label_maps is not None:
                label_map = batch.label_maps[i].as_subclass(Tensor).long()
                sample.gt_sem_seg = PixelData(sem_seg=label_map.masked_fill(label_map == IGNORE_INDEX, NO_CLASS)[None])
        yield sample


def _ground_truth(instances: Instances) -> tuple[Any, Any]:
    """The objects to be found, and the crowd regions that are neither right nor wrong."""
    from mmengine.structures import InstanceData

    from swin_dense.openmmlab.targets import Bitmaps

    labels, crowd = instances.labels, instances.crowd
    boxes = instances.boxes.as_subclass(Tensor).clone()  # YOLOX scales them in place, and the batch is the caller's
    objects, regions = InstanceData(bboxes=boxes, labels=labels), InstanceData(bboxes=boxes[:0])
    if crowd.any():  # the flags are on the CPU, so that the device is not waited for
        single, many = (mask.nonzero()[:, 0].to(boxes.device, non_blocking=True) for mask in (~crowd, crowd))
        objects, regions = InstanceData(bboxes=boxes[single], labels=labels[single]), InstanceData(bboxes=boxes[many])
    if instances.masks is not None:
        masks = instances.masks.as_subclass(Tensor).view(torch.uint8).numpy()  # no copy: it may be pinned
        objects.masks = Bitmaps(masks[~crowd.numpy()] if crowd.any() else masks, *masks.shape[-2:])
    return objects, regions


def _to_detections(predicted: Any) -> Detections:
    order = predicted.scores.argsort(descending=True, stable=True)
    # Masks are bool and labels are whole, but for a SOLO that finds nothing.
    masks = encode_masks(predicted.masks.bool()) if "masks" in predicted else None
    return Detections(
        boxes=without_negative_sizes(predicted.bboxes[order].float()).cpu(),
        scores=predicted.scores[order].float().cpu(),
        labels=predicted.labels[order].long().cpu(),
        masks=None if masks is None else [masks[i] for i in order.tolist()],
    )


def encode_masks(masks: Tensor) -> list[Rle]:
    """Compresses bool masks (N, H, W) where they are, some at a time: only where runs begin leaves the device."""
    height, width = masks.shape[1:]
    pixels = height * width
    counts: list[bytes] = []
    for some in torch.split(masks, max(1, MOST_ENCODED // pixels)):
        # Where a pixel differs from the one before it in column order, which for the first of a column is in another.
        begins = torch.empty_like(some)
        torch.ne(some[:, 1:], some[:, :-1], out=begins[:, 1:])
        begins[:, 0, 0] = some[:, 0, 0]
        begins[:, 0, 1:] = some[:, 0, 1:] ^ some[:, -1, :-1]
        if begins.is_cpu:
            places = np.flatnonzero(begins.numpy())  # in a third of torch's time
        else:
            places = torch.nonzero(begins.flatten()).flatten().cpu().numpy()
        mask, row, column = np.unravel_index(places, begins.shape)
        bounds = np.concatenate([mask * pixels + column * height + row, np.arange(1, len(some) + 1) * pixels])
        runs = np.diff(np.sort(bounds), prepend=0)
        counts += compress_runs(runs, np.bincount(mask, minlength=len(some)) + 1)
    return [{"size": [height, width], "counts": one} for one in counts]
