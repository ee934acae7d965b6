"""Detection and instance segmentation: all that is said of the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as rle_codec
from torch import Tensor, nn

from swin_dense.config.detection import AugmentationConfig, DetectionConfig, DetectionInferenceConfig
from swin_dense.errors import ConfigError
from swin_dense.inference import EvaluationSize
from swin_dense.inference.detection import DetectionInference
from swin_dense.inference.merging import Merging
from swin_dense.openmmlab.detection import OpenMMLabDetector, build_network
from swin_dense.records import Detections
from swin_dense.tasks.base import Demo, Labels, Result, Task

if TYPE_CHECKING:
    from swin_dense.data.coco import CocoDataModule
    from swin_dense.data.transforms import Transform
    from swin_dense.export.models import WholeDetector
    from swin_dense.report.page import Section
    from swin_dense.training import DetectorModule

THRESHOLD = 0.3
"""Least score of what users see unless they ask for more or less."""


@dataclass(frozen=True, repr=False)
class DetectionResult(Result):
    """The objects that were found in one image, best score first.

    Attributes:
        image: (3, H, W) uint8 RGB.
        detections: All of them, as a record: boxes, scores, labels, and masks as compressed RLE.
        class_names: By label.
        category_ids: By label, the ids of the data set that the model was trained on.

    Example:
        >>> import torch
        >>> from swin_dense.records import Detections
        >>> one = Detections(torch.tensor([[2.0, 2, 8, 6]]), torch.tensor([0.9]), torch.tensor([1]))
        >>> found = DetectionResult(torch.zeros(3, 16, 16, dtype=torch.uint8), one, ("cat", "dog"), (17, 18))
        >>> found.names, found.boxes.tolist()
        (['dog'], [[2.0, 2.0, 8.0, 6.0]])
        >>> [one.names for one in found], found[found.scores > 0.95]
        ([['dog']], DetectionResult())
        >>> found.to_coco(image_id=7)[0]["bbox"]
        [2.0, 2.0, 6.0, 4.0]
        >>> found.draw().size >= (16, 16)
        True
    """

    image: Tensor
    detections: Detections
    class_names: Sequence[str]
    category_ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.detections)

    def __getitem__(self, index: Any) -> DetectionResult:
        """Some of the objects: one by its position, several by a slice, a list of positions, or a mask."""
        found = self.detections
        kept = np.arange(len(self))[np.asarray(index) if isinstance(index, Tensor) else index].flatten()
        masks = None if found.masks is None else [found.masks[i] for i in kept]
        some = Detections(found.boxes[kept], found.scores[kept], found.labels[kept], masks)
        return replace(self, detections=some)

    def __repr__(self) -> str:
        """Such as `DetectionResult(person 0.98, dog 0.71)`."""
        shown = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores.tolist(), strict=True)]
        return f"DetectionResult({', '.join(shown[:8])}{', ...' if len(shown) > 8 else ''})"

    @property
    def boxes(self) -> Tensor:
        """(N, 4) float32 XYXY in pixels of the image."""
        return self.detections.boxes

    @property
    def scores(self) -> Tensor:
        """(N,) float32 in 0..1."""
        return self.detections.scores

    @property
    def labels(self) -> Tensor:
        """(N,) int64, positions in `class_names`."""
        return self.detections.labels

    @property
    def names(self) -> list[str]:
        """The class name of each object."""
        return [self.class_names[label] for label in self.labels.tolist()]

    @property
    def masks(self) -> Tensor | None:
        """(N, H, W) bool, decoded at each call; None where the model finds boxes alone."""
        if self.detections.masks is None:
            return None
        masks = [rle_codec.decode(mask) for mask in self.detections.masks]
        return torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *self.image.shape[1:]))

    def draw(self, *, as_frame: bool = False) -> Image.Image:
        """The image with boxes, masks, classes and scores; a small one is enlarged, but not `as_frame` of a video."""
        from swin_dense.visualize.detections import draw_detections

        found = (self.image, self.detections, self.class_names)
        return Image.fromarray(draw_detections(*found, score_threshold=0.0, as_frame=as_frame))

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, with class names under `data["class_name"]`."""
        import supervision

        masks = self.masks
        return supervision.Detections(
            xyxy=self.boxes.numpy().reshape(-1, 4),
            mask=None if masks is None or not len(self) else masks.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def to_coco(self, image_id: int | None = None) -> list[dict[str, Any]]:
        """One row of a COCO result file, ready for JSON, for each object.

        Each has category_id, category, bbox (x, y, width, height in pixels), score and, where the model has masks,
        segmentation (compressed RLE); an `image_id` of None leaves the key out.
        """
        rows = []
        for i, (x1, y1, x2, y2) in enumerate(self.boxes.tolist()):
            label = int(self.labels[i])
            row: dict[str, Any] = {} if image_id is None else {"image_id": image_id}
            row |= {
                "category_id": self.category_ids[label],
                "category": self.class_names[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(self.scores[i]),
            }
            if self.detections.masks is not None:
                mask = self.detections.masks[i]
                row["segmentation"] = {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")}
            rows.append(row)
        return rows

    def above(self, threshold: float) -> DetectionResult:
        """The objects whose score is at least `threshold`."""
        return self[self.scores >= threshold]


class DetectionTask(Task[DetectionConfig]):
    """Detection and instance segmentation."""

    demo = Demo("mask-rcnn_swin-nano_shapes", ".", "AP", "mask-rcnn_swin-t_fpn_1x_coco", "YOUR_COCO_FOLDER")
    published_classes = 80
    memorised = ("bbox_AP50", 0.9)
    needs_category_ids = True
    imported_as = "coco"
    lowest_score = 0.0
    exports_whole = True
    takes_frames = True
    options = frozenset({"engine", "threshold", "min_score", "max_detections"})
    predicts = "detections: {rows}, in {output}/predictions.json, pictures beside it"

    def data_module(self, config: DetectionConfig) -> CocoDataModule:
        from torchvision.transforms.v2 import Identity

        from swin_dense.data.coco import CocoDataModule
        from swin_dense.openmmlab.model_dicts import has_masks, has_semantic_branch

        data, root = config.data, Path(config.data.root)
        return CocoDataModule(
            train_annotations=config.annotation_file,
            train_images=root / data.train.images,
            val_annotations=root / data.val.annotations,
            val_images=root / data.val.images,
            train_transform=train_transform(config.augmentation),
            test_transform=Identity(),
            batch_size=data.batch_size,
            eval_batch_size=data.eval_batch_size,
            num_workers=data.num_workers,
            masks=has_masks(config.model),
            seed=config.training.seed,
            train_stuff=root / data.train_stuff if data.train_stuff and has_semantic_branch(config.model) else None,
            keep_empty=data.keep_empty,
            min_side=data.min_side,
            size_divisor=data.size_divisor,
            limit_images=data.limit_images,
        )

    def build_model(self, model: Mapping[str, Any], num_classes: int) -> OpenMMLabDetector:
        return OpenMMLabDetector(model, num_classes)

    def build_network(self, model: Mapping[str, Any], num_classes: int) -> Any:
        return build_network(model, num_classes)

    def lightning_module(self, config: DetectionConfig, model: Any, **settings: Any) -> DetectorModule:
        from swin_dense.training import DetectorModule

        inference = self.inference(config, config.data.eval_batch_size)
        return DetectorModule(model, None, inference, compile=config.training.compile, **settings)

    def inference(self, config: DetectionConfig, batch_size: int, **options: Any) -> DetectionInference:
        return inference(config.inference, config.augmentation, batch_size)

    def labels(self, data: Any) -> Labels:
        return Labels(tuple(data.class_names), tuple(data.category_ids))

    def test_size(self, config: DetectionConfig) -> dict[str, int]:
        augmentation = config.augmentation
        return {"short_side": augmentation.test_short_side, "max_long_side": augmentation.test_max_long_side}

    def result(self, image: Any, found: Detections, labels: Labels, threshold: float | None) -> DetectionResult:
        ids = labels.category_ids or tuple(range(1, len(labels.class_names) + 1))
        return self.shown(DetectionResult(image, found, labels.class_names, ids), threshold)

    def shown(self, result: DetectionResult, threshold: float | None) -> DetectionResult:
        return result.above(THRESHOLD if threshold is None else threshold)

    def write(self, result: DetectionResult, output: Path, stem: str, config: DetectionConfig) -> list[dict[str, Any]]:
        return result.to_coco()

    def draw_validation(self, data: Any, image_id: int, found: Detections, path: Path) -> None:
        from swin_dense.visualize.detections import draw_comparison
        from swin_dense.visualize.pictures import save_picture

        sample = data.val_dataset[data.val_image_ids.index(image_id)]
        save_picture(path, draw_comparison(sample.image, sample.instances, found, data.class_names))

    def prediction_writer(self, config: DetectionConfig, output: Path) -> Callable[[str, Any], None] | None:
        return None

    def write_metrics(
        self, config: DetectionConfig, scores: Mapping[str, Any], predictions: Path, folder: Path
    ) -> None:
        from swin_dense.metrics.tables import write_coco_tables

        data = self.data_module(config)
        data.setup("validate")
        write_coco_tables(data.val_annotations, predictions, folder, data.val_image_ids)

    def report(self, config: DetectionConfig, predictions: Path) -> tuple[dict[str, float], list[Section]]:
        from swin_dense.coco.results import checked_results, read_rows
        from swin_dense.images.store import ImageStore
        from swin_dense.report.detection import detection_sections, headline
        from swin_dense.report.matching import DetectionEvidence

        data = self.data_module(config)
        data.setup("validate")
        kinds = ("bbox", "segm") if data.masks else ("bbox",)
        results = checked_results(read_rows(predictions), data.ground_truth, kinds)
        store = ImageStore(data.val_images)
        evidence = DetectionEvidence(data.ground_truth, results, data.val_image_ids, kinds, store.read)
        return headline(evidence), detection_sections(evidence)

    def check_data(self, config: DetectionConfig, progress: Any) -> dict[str, Any]:
        from swin_dense.coco.check import check_splits
        from swin_dense.openmmlab.model_dicts import has_masks

        data, root = config.data, Path(config.data.root)
        train, val = ((root / split.annotations, root / split.images) for split in (data.train, data.val))
        return check_splits(
            train,
            val,
            masks=has_masks(config.model),
            keep_empty=data.keep_empty,
            min_side=data.min_side,
            progress=progress,
        )

    def whole(self, network: Any) -> nn.Module:
        from swin_dense.openmmlab.plain import PlainDetector

        return PlainDetector(network).eval()

    def whole_detector(self, config: DetectionConfig, model: Any) -> WholeDetector:
        from swin_dense.export.models import WholeDetector
        from swin_dense.openmmlab.plain import opset_of

        images = Path(config.data.root) / config.data.val.images
        augmentation = config.augmentation
        return WholeDetector(
            model,
            augmentation.test_short_side,
            augmentation.test_max_long_side,
            float(model.network.roi_head.test_cfg["mask_thr_binary"]) if model.has_masks else None,
            images if images.is_dir() else None,
            opset_of(model.network),
        )

    def exported(self, path: Path, class_names: Sequence[str], model: Any) -> Any:
        from swin_dense.export.detections import load_detector

        return load_detector(path, class_names)

    def explained(self, model: Any, class_names: Sequence[str], class_name: str | None) -> Any:
        from swin_dense.visualize.inspection import object_target

        return object_target(model, class_names, class_name)

    def count_forward(self, network: Any, height: int, width: int, config: DetectionConfig) -> None:
        from swin_dense.openmmlab.counting import run_detector

        run_detector(network, height, width)


TASK = DetectionTask()


def train_transform(augmentation: AugmentationConfig) -> Transform:
    """The random transform of training images."""
    from swin_dense.data.transforms import RandomHorizontalFlip, RandomShortSide, short_side_or_crop
    from swin_dense.data.user_transforms import with_user_transforms

    resize: Transform = RandomShortSide(augmentation.short_sides, augmentation.max_long_side)
    if augmentation.crop_short_sides:
        resize = short_side_or_crop(
            augmentation.short_sides, augmentation.max_long_side, augmentation.crop_short_sides, augmentation.crop_range
        )
    return with_user_transforms([resize, RandomHorizontalFlip(augmentation.flip_probability)], augmentation.extra)


def inference(
    config: DetectionInferenceConfig, augmentation: AugmentationConfig, batch_size: int
) -> DetectionInference:
    """How objects are found in images: test-time augmentation, slices, what is kept; images are resized inside."""
    short_side, max_long_side = augmentation.test_short_side, augmentation.test_max_long_side
    if not 1 <= short_side <= max_long_side:
        raise ConfigError(
            f"augmentation.test_short_side {short_side} must be positive, and not beyond "
            f"augmentation.test_max_long_side {max_long_side}"
        )

    return DetectionInference(
        EvaluationSize(short_side, max_long_side),
        scales=config.scales,
        flip=config.flip,
        slice_size=config.slice_size,
        slice_overlap=config.slice_overlap,
        whole_image=config.whole_image,
        merging=Merging(config.merge, config.merge_overlap, config.merge_threshold, config.soft_nms_sigma),
        min_score=config.min_score,
        max_detections=config.max_detections,
        batch_size=batch_size,
    )
