"""Semantic segmentation: all that is said of the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from swin_dense.config.segmentation import SegmentationAugmentationConfig, SegmentationConfig
from swin_dense.errors import ConfigError
from swin_dense.files import atomic_write
from swin_dense.inference import EvaluationSize
from swin_dense.inference.segmentation import SegmentationInference
from swin_dense.openmmlab.segmentation import OpenMMLabSegmenter, WholeSegmenter, build_network
from swin_dense.records import Segmentation
from swin_dense.tasks.base import Demo, Labels, Result, Task

if TYPE_CHECKING:
    from swin_dense.data.ade20k import ADE20KDataModule
    from swin_dense.data.transforms import Transform
    from swin_dense.report.page import Section
    from swin_dense.training import SegmenterModule


@dataclass(frozen=True, repr=False)
class SegmentationResult(Result):
    """The class of every pixel of one image.

    Attributes:
        image: (3, H, W) uint8 RGB.
        label_map: (H, W) int32, positions in `class_names`.
        class_names: By label.
        palette: RGB of 0..255 by label; None for colours of our own.
        probabilities: (K, H, W) float16; None unless they were asked for.

    Example:
        >>> import torch
        >>> halves = torch.tensor([[0] * 16 + [1] * 16] * 16, dtype=torch.int32)
        >>> found = SegmentationResult(torch.zeros(3, 16, 32, dtype=torch.uint8), halves, ("sky", "sea"))
        >>> found.names, found.shares
        (['sky', 'sea'], {'sky': 0.5, 'sea': 0.5})
    """

    image: Tensor
    label_map: Tensor
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] | None = None
    probabilities: Tensor | None = None

    def __repr__(self) -> str:
        """Such as `SegmentationResult(sky 52%, sea 48%)`."""
        shares = sorted(self.shares.items(), key=lambda item: -item[1])
        shown = [f"{name} {share:.0%}" for name, share in shares]
        return f"SegmentationResult({', '.join(shown[:8])}{', ...' if len(shown) > 8 else ''})"

    @property
    def labels(self) -> Tensor:
        """(N,) the labels that occur, ascending."""
        return torch.bincount(self.label_map.flatten()).nonzero().flatten()

    @property
    def names(self) -> list[str]:
        """Their class names."""
        return [self.class_names[label] for label in self.labels.tolist()]

    @property
    def masks(self) -> Tensor:
        """(N, H, W) bool, one mask for each label that occurs."""
        return self.label_map[None] == self.labels[:, None, None]

    @property
    def shares(self) -> dict[str, float]:
        """The part of the pixels that each class takes that occurs, by name."""
        counts = torch.bincount(self.label_map.flatten(), minlength=len(self.class_names)).tolist()
        return {name: n / sum(counts) for name, n in zip(self.class_names, counts, strict=True) if n}

    def draw(self, *, as_frame: bool = False) -> Image.Image:
        """The image in the colours of its classes, with a legend; enlarged by a whole factor where it is small.

        `as_frame` of a video it keeps its size, and the legend lies on it.
        """
        from swin_dense.visualize.segmentation import draw_segmentation

        palette = None if self.palette is None else np.array(self.palette, dtype=np.uint8)
        found = (self.image, self.label_map, self.class_names, palette)
        return Image.fromarray(draw_segmentation(*found, as_frame=as_frame))

    def to_supervision(self) -> Any:
        """One entry for each class that occurs, as `supervision.Detections`."""
        import supervision

        masks = self.masks.numpy()
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).astype(np.float32),
            mask=masks,
            class_id=self.labels.numpy().astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def to_coco(self, image_id: int | None = None) -> list[dict[str, Any]]:
        """One row for each class that occurs: category_id (from 1), category and segmentation (compressed RLE).

        An `image_id` of None leaves the key out.
        """
        from pycocotools import mask as rle_codec

        rows = []
        for label, name, mask in zip(self.labels.tolist(), self.names, self.masks.numpy(), strict=True):
            encoded = rle_codec.encode(np.asfortranarray(mask))
            row: dict[str, Any] = {} if image_id is None else {"image_id": image_id}
            row |= {"category_id": label + 1, "category": name}
            row["segmentation"] = {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}
            rows.append(row)
        return rows


class SegmentationTask(Task[SegmentationConfig]):
    """Semantic segmentation."""

    demo = Demo("upernet_swin-nano_shapes", "ade20k", "mIoU", "upernet_swin-t_512_160k_ade20k", "ADEChallengeData2016")
    published_classes = 150
    memorised = ("mIoU", 90.0)
    prediction_folders = ("labels", "overlays")
    pictures = "overlays"
    imported_as = "label-maps"
    exports_whole = True
    takes_frames = True
    options = frozenset({"probabilities"})
    predicts = "label maps: {rows}, in {output}/labels, pictures in {output}/overlays"

    def data_module(self, config: SegmentationConfig) -> ADE20KDataModule:
        from torchvision.transforms.v2 import Identity

        from swin_dense.data.ade20k import ADE20KDataModule

        data, root = config.data, Path(config.data.root)
        return ADE20KDataModule(
            train_images=root / data.train.images,
            train_labels=root / data.train.labels,
            val_images=root / data.val.images,
            val_labels=root / data.val.labels,
            classes=root / data.classes,
            label_shift=data.label_shift,
            ignore_index=data.ignore_index,
            train_transform=train_transform(config.augmentation),
            test_transform=Identity(),
            batch_size=data.batch_size,
            eval_batch_size=data.eval_batch_size,
            num_workers=data.num_workers,
            seed=config.training.seed,
            limit_images=data.limit_images,
        )

    def build_model(self, model: Mapping[str, Any], num_classes: int) -> OpenMMLabSegmenter:
        return OpenMMLabSegmenter(model, num_classes)

    def build_network(self, model: Mapping[str, Any], num_classes: int) -> Any:
        return build_network(model, num_classes)

    def lightning_module(self, config: SegmentationConfig, model: Any, **settings: Any) -> SegmenterModule:
        from swin_dense.training import SegmenterModule

        inference = self.inference(config, config.data.eval_batch_size)
        return SegmenterModule(model, None, inference, compile=config.training.compile, **settings)

    def inference(
        self, config: SegmentationConfig, batch_size: int, *, probabilities: bool = False, **options: Any
    ) -> SegmentationInference:
        scale = config.augmentation.test_scale
        size = EvaluationSize(None, None) if scale is None else EvaluationSize(min(scale), max(scale))
        return SegmentationInference(
            size, **vars(config.inference), probabilities=torch.float16 if probabilities else None
        )

    def labels(self, data: Any) -> Labels:
        palette = None if data.palette is None else tuple((int(r), int(g), int(b)) for r, g, b in data.palette)
        return Labels(tuple(data.class_names), palette=palette)

    def test_size(self, config: SegmentationConfig) -> dict[str, int]:
        scale = config.augmentation.test_scale
        return {} if scale is None else {"short_side": min(scale), "max_long_side": max(scale)}

    def result(self, image: Any, found: Segmentation, labels: Labels, threshold: float | None) -> SegmentationResult:
        if threshold is not None:
            raise ConfigError("threshold: semantic segmentation has no scores; ask for probabilities instead")
        return SegmentationResult(image, found.label_map.cpu(), labels.class_names, labels.palette, found.probabilities)

    def write(
        self, result: SegmentationResult, output: Path, stem: str, config: SegmentationConfig
    ) -> list[dict[str, Any]]:
        from safetensors.torch import save_file

        write_label_map(output / "labels", config.data.label_shift, f"{stem}.png", result)
        if result.probabilities is not None:
            with atomic_write(output / "probabilities" / f"{stem}.safetensors") as unfinished:
                save_file({"probabilities": result.probabilities.contiguous()}, unfinished)
        return [{"labels": f"labels/{stem}.png", "classes": result.shares}]

    def draw_validation(self, data: Any, image_id: int, found: Segmentation, path: Path) -> None:
        from swin_dense.visualize.pictures import save_picture
        from swin_dense.visualize.segmentation import draw_segmentation_comparison

        sample = data.val_dataset[image_id]
        picture = draw_segmentation_comparison(
            sample.image, sample.label_map, found.label_map, data.class_names, data.palette
        )
        save_picture(path, picture)

    def prediction_writer(self, config: SegmentationConfig, output: Path) -> Callable[[str, Any], None] | None:
        return partial(write_label_map, output, config.data.label_shift)

    def report(self, config: SegmentationConfig, predictions: Path) -> tuple[dict[str, float], list[Section]]:
        from swin_dense.images.store import ImageStore
        from swin_dense.label_maps.conversion import LabelConversion
        from swin_dense.metrics.mean_iou import MatchedLabelMaps
        from swin_dense.report.segmentation import (
            segmentation_headline,
            segmentation_in_files,
            segmentation_sections,
        )

        data, root = config.data, Path(config.data.root)
        module: Any = self.data_module(config)
        module.setup("validate")
        conversion = LabelConversion(len(module.class_names), data.label_shift, data.ignore_index)
        stores = ImageStore(root / data.val.labels), ImageStore(predictions)
        names = [module.val_dataset.label_name(image_id) for image_id in module.val_image_ids]
        predicted = [str(Path(module.val_dataset.image_name(one)).with_suffix(".png")) for one in module.val_image_ids]
        pairs = list(zip(names, predicted, strict=True))
        maps = MatchedLabelMaps(stores, pairs, (conversion, conversion), module.class_names, root / data.classes)
        evidence = segmentation_in_files(maps, root / data.val.images)
        return segmentation_headline(evidence), segmentation_sections(evidence)

    def check_data(self, config: SegmentationConfig, progress: Any) -> dict[str, Any]:
        from swin_dense.label_maps.check import check_segmentation

        data, root = config.data, Path(config.data.root)
        splits = {
            name: (root / split.images, root / split.labels)
            for name, split in (("train", data.train), ("val", data.val))
        }
        report = check_segmentation(
            splits,
            root / data.classes,
            label_shift=data.label_shift,
            ignore_index=data.ignore_index,
            progress=progress,
        )
        return {"both": report}

    def whole(self, network: Any) -> nn.Module:
        return WholeSegmenter(network).eval()

    def explained(self, model: Any, class_names: Sequence[str], class_name: str | None) -> Any:
        from swin_dense.visualize.inspection import area_target

        return area_target(model, class_names, class_name)

    def count_forward(self, network: Any, height: int, width: int, config: SegmentationConfig) -> None:
        from swin_dense.openmmlab.counting import run_segmenter

        run_segmenter(network, height, width)


TASK = SegmentationTask()


def train_transform(augmentation: SegmentationAugmentationConfig) -> Transform:
    """The random transform of training images and their label maps."""
    from swin_dense.data.segmentation_transforms import PhotoMetricDistortion, RandomClassCrop, RandomRatioResize
    from swin_dense.data.transforms import RandomHorizontalFlip
    from swin_dense.data.user_transforms import with_user_transforms

    steps: list[Transform] = [
        RandomRatioResize(augmentation.scale, augmentation.ratio_range),
        RandomClassCrop(augmentation.crop_size, augmentation.cat_max_ratio),
        RandomHorizontalFlip(augmentation.flip_probability),
    ]
    if augmentation.photometric_distortion:
        steps.append(PhotoMetricDistortion())
    return with_user_transforms(steps, augmentation.extra)


def write_label_map(folder: Path, label_shift: int, file_name: str, found: Segmentation | SegmentationResult) -> None:
    """Writes a label PNG with the numbers that the data set itself uses; the file name's suffix becomes .png."""
    from swin_dense.label_maps.files import label_image

    stored = found.label_map.cpu().numpy() - label_shift
    with atomic_write(folder / Path(file_name).with_suffix(".png")) as unfinished:
        label_image(stored).save(unfinished)
