"""Data and pipelines of a config as our sections `data`, `augmentation` and `inference`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from swin_dense.errors import ConfigError

COCO_FORMAT = {
    "CocoDataset",
    "LVISV05Dataset",
    "LVISV1Dataset",
    "CityscapesDataset",
    "DeepFashionDataset",
    "Objects365V1Dataset",
    "Objects365V2Dataset",
    "V3DetDataset",
}
"""Data sets of mmdet whose annotations are COCO files."""

SAME_NAMES = {
    "ADE20KDataset",
    "PascalContextDataset",
    "PascalContextDataset59",
    "LoveDADataset",
    "PotsdamDataset",
    "ISPRSDataset",
}
"""Data sets of mmseg whose label files are named like their images."""

READING = {"LoadImageFromFile", "LoadAnnotations", "PackDetInputs", "PackSegInputs"}
REFUSED = {
    "LoadMultipleRSImageFromFile": "reads pairs of images",
    "LoadTrackAnnotations": "reads videos",
    "TransformBroadcaster": "reads several views of an image",
    "RandomSamplingNegPos": "learns from captions",
    "GenerateEdge": "learns the edges of classes",
    "LoadPanopticAnnotations": "learns stuff from panoptic label maps",
}

Steps = Sequence[Mapping[str, Any]]


def detection_data(values: Mapping[str, Any], model: dict[str, Any], left_out: list[str]) -> tuple[dict[str, Any], int]:
    """The sections of a detector, and how often an epoch goes through the data."""
    train, train_steps, repeats = _dataset(values, "train_dataloader", left_out)
    val, test_steps, _ = _dataset(values, "val_dataloader", left_out)
    if train.get("type", "CocoDataset") not in COCO_FORMAT:
        left_out.append(
            f"train_dataloader.dataset: {train.get('type')} does not read COCO files: import the data with `swin-dense "
            "import-data`, and set data.train and data.val"
        )
    elif "LVIS" in str(train.get("type")):
        left_out.append("val_evaluator: LVIS's AP of the annotated classes; ours is COCO's of all")
    kept = train.get("filter_cfg") or {}
    data = {
        "root": _root(train),
        "train": {"annotations": train.get("ann_file") or "train.json", "images": _images(train, "img")},
        "val": {"annotations": val.get("ann_file") or "val.json", "images": _images(val, "img")},
        **_sizes(values),
        "keep_empty": not kept.get("filter_empty_gt", False),
        "min_side": int(kept.get("min_size", 0)),
    }
    stuff = (train.get("data_prefix") or {}).get("seg")
    if stuff and (model.get("roi_head") or {}).get("semantic_head"):
        data["train_stuff"] = stuff.rstrip("/")
    augmentation = _detection_augmentation(train_steps, left_out)
    _pad([*test_steps, *train_steps], model.get("data_preprocessor"), left_out)
    return {"data": data, "augmentation": augmentation | _test_size(test_steps, left_out)}, repeats


def segmentation_data(
    values: Mapping[str, Any], model: dict[str, Any], left_out: list[str]
) -> tuple[dict[str, Any], int]:
    """The sections of a segmenter, and how often an epoch goes through the data."""
    train, train_steps, repeats = _dataset(values, "train_dataloader", left_out)
    val, test_steps, _ = _dataset(values, "val_dataloader", left_out)
    kind = str(train.get("type"))
    is_ade = kind == "ADE20KDataset"
    if not is_ade:
        left_out.append("train_dataloader.dataset: class names go to classes.txt in data.root, one a line")
    if kind not in SAME_NAMES:
        left_out.append(f"train_dataloader.dataset: {kind}; ours reads label files that are named like their images")
    if train.get("ann_file"):
        left_out.append(f"train_dataloader.dataset.ann_file: {train['ann_file']}; all images of the folder are used")
    loads = next((one for one in train_steps if one.get("type") == "LoadAnnotations"), {})
    shifted = loads.get("reduce_zero_label", train.get("reduce_zero_label", is_ade))
    data = {
        "root": _root(train),
        "train": {"images": _images(train, "img_path"), "labels": _images(train, "seg_map_path")},
        "val": {"images": _images(val, "img_path"), "labels": _images(val, "seg_map_path")},
        "classes": "objectInfo150.txt" if is_ade else "classes.txt",
        "label_shift": -1 if shifted else 0,
        "ignore_index": int(train.get("ignore_index", 255)),
        **_sizes(values),
    }
    sections = {"data": data, "augmentation": _segmentation_augmentation(train_steps, test_steps, model, left_out)}
    preprocessor = model.get("data_preprocessor") or {}
    if preprocessor.pop("test_cfg", None):
        left_out.append("model.data_preprocessor.test_cfg: images are not padded for prediction")
    if preprocessor and not preprocessor.get("size") and not preprocessor.get("size_divisor"):
        preprocessor["size"] = sections["augmentation"]["crop_size"]
        left_out.append(f"model.data_preprocessor.size: none, without which mmseg fails; {preprocessor['size']} here")
    test = model.get("test_cfg") or {}
    if test.get("mode") == "slide":
        sections["inference"] = {"crop_size": tuple(test["crop_size"]), "stride": tuple(test["stride"])}
    return sections, repeats


def _dataset(values: Mapping[str, Any], loader: str, left_out: list[str]) -> tuple[Mapping[str, Any], Steps, int]:
    """The innermost data set of a loader, its pipeline, and how often it is repeated."""
    given = (values.get(loader) or {}).get("dataset") or {}
    repeats = 1
    steps: list[Mapping[str, Any]] = []
    while "dataset" in given or "datasets" in given:
        kind = given.get("type")
        steps = [*(given.get("pipeline") or ()), *steps]
        if kind == "RepeatDataset":
            repeats *= int(given["times"])
        elif loader == "train_dataloader":
            chosen = "; the first of its data sets is taken" if "datasets" in given else ""
            left_out.append(f"{loader}.dataset: {kind}{chosen}")
        given = given["dataset"] if "dataset" in given else given["datasets"][0]
    if loader == "train_dataloader" and (given.get("metainfo") or {}).get("classes"):
        left_out.append(f"{loader}.dataset.metainfo.classes: the classes are those of the data's own files")
    return given, [*(given.get("pipeline") or ()), *steps], repeats


def _root(dataset: Mapping[str, Any]) -> str:
    return str(dataset.get("data_root") or ".").rstrip("/") or "/"


def _images(dataset: Mapping[str, Any], key: str) -> str:
    prefix = dataset.get("data_prefix") or {}
    return str(prefix.get(key) or dataset.get("img_prefix") or ".").rstrip("/")


def _sizes(values: Mapping[str, Any]) -> dict[str, int]:
    train, val = (values.get(key) or {} for key in ("train_dataloader", "val_dataloader"))
    return {
        "batch_size": int(train.get("batch_size", 2)),
        "eval_batch_size": int(val.get("batch_size", 1)),
        "num_workers": int(train.get("num_workers", 2)),
    }


def _detection_augmentation(steps: Steps, left_out: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"flip_probability": 0.0}
    for step in _steps(steps):
        kind = step.get("type")
        if kind == "RandomFlip" and step.get("direction", "horizontal") == "horizontal":
            found["flip_probability"] = float(step.get("prob") or 0)
        elif kind == "RandomChoice" and (policy := _crop_policy(step)):
            found |= policy
        elif kind == "Pad" and _padded_side([step], steps):
            continue  # the preprocessor does it
        elif "short_sides" not in found and (sizes := _short_sides(step, left_out)):
            found |= sizes
        else:
            left_out.append(f"train_pipeline: {kind}")
    if "short_sides" not in found:
        found |= {"short_sides": (800,), "max_long_side": 1333}
        left_out.append(
            "train_pipeline: no resizing of ours in it; a shorter side of 800, a longer one of 1333 at most"
        )
    return found


def _pad(steps: Steps, preprocessor: dict[str, Any] | None, left_out: list[str]) -> None:
    """Has the preprocessor pad as the pipelines do: some models need images of one size, or of whole strides."""
    side = _padded_side(steps, steps)
    if side is None or preprocessor is None:
        return
    preprocessor["pad_size_divisor"] = side
    left_out.append(
        f"pipelines: images are padded to {side} pixels, or multiples of it, by "
        "model.data_preprocessor.pad_size_divisor; change it where you change the size of the images"
    )
    values = [one.get("pad_val", 0) for one in steps if one.get("type") == "Pad"]
    colours = {_colour(one.get("img", 0) if isinstance(one, Mapping) else one) for one in values}
    if len(colours) == 1 and not preprocessor.get("mean"):
        preprocessor["pad_value"] = colours.pop()
    elif colours:
        left_out.append("train_pipeline: Pad with a colour; the mean is taken here")


def _colour(value: Any) -> float:
    """The padding of all channels; of channels that differ that of the first."""
    return float(value[0] if isinstance(value, list | tuple) else value)


def _padded_side(steps: Steps, pipeline: Steps) -> int | None:
    """The side in pixels that images are padded to, or to a multiple of; None where they are not, or to no square."""
    for step in steps:
        scale = step.get("scale")
        if step.get("type") == "Resize" and scale and not step.get("keep_ratio", False):
            size = scale  # the model expects images of one size
        elif step.get("type") != "Pad":
            continue
        elif step.get("pad_to_square"):
            size = next((one["scale"] for one in pipeline if one.get("type") == "Resize" and one.get("scale")), None)
        else:
            size = step.get("size") or step.get("size_divisor")
        if size and len(sides := set(_pair(size))) == 1 and None not in sides:
            return sides.pop()
    return None


def _steps(steps: Steps) -> Iterator[Mapping[str, Any]]:
    """Those that do something to an image."""
    for step in steps:
        kind = str(step.get("type"))
        if kind in REFUSED:
            raise ConfigError(f"train_pipeline: {kind} {REFUSED[kind]}, which ours cannot do")
        if kind not in READING:
            yield step


def _crop_policy(step: Mapping[str, Any]) -> dict[str, Any] | None:
    """The policy of DETR and Swin: resize, or with equal chance resize, crop and resize again."""
    branches = [[dict(one) for one in branch] for branch in step["transforms"]]
    kinds = [[one.get("type") for one in branch] for branch in branches]
    if step.get("prob") or kinds != [
        ["RandomChoiceResize"],
        ["RandomChoiceResize", "RandomCrop", "RandomChoiceResize"],
    ]:
        return None
    crop = branches[1][1]
    first, before, after = (_short_sides(one, []) for one in (branches[0][0], branches[1][0], branches[1][2]))
    fits = crop.get("crop_type") == "absolute_range" and crop.get("allow_negative_crop")
    if not fits or first is None or before is None or first != after:
        return None
    return {**first, "crop_short_sides": before["short_sides"], "crop_range": tuple(crop["crop_size"])}


def _short_sides(step: Mapping[str, Any], left_out: list[str]) -> dict[str, Any] | None:
    """The sizes that a step resizes to; None where it is another step."""
    kind = step.get("type")
    scales = step.get("scales") or step.get("scale")
    if kind not in ("Resize", "RandomResize", "RandomChoiceResize") or not isinstance(scales, list | tuple):
        return None
    if not step.get("keep_ratio", (step.get("resize_cfg") or {}).get("keep_ratio", False)):
        left_out.append(f"train_pipeline: {kind} to {scales} whatever the aspect ratio; ours keeps it")
    if isinstance(scales[0], int):
        scales = [scales]
    shorter, longer = [min(one) for one in scales], sorted({max(one) for one in scales})
    if len(longer) > 1:
        left_out.append(
            f"train_pipeline: {kind}, longer sides of {longer[0]} to {longer[-1]}; {longer[-1]} at most here"
        )
    if step.get("ratio_range"):
        left_out.append(
            f"train_pipeline: {kind} times a ratio of {tuple(step['ratio_range'])}; the size itself is taken"
        )
    sides = tuple(range(min(shorter), max(shorter) + 1)) if kind == "RandomResize" else tuple(shorter)
    return {"short_sides": sides, "max_long_side": longer[-1]}


def _test_size(steps: Steps, left_out: list[str]) -> dict[str, int]:
    size = next((sizes for one in steps if (sizes := _short_sides(one, left_out))), None)
    if size is None:
        left_out.append("test_pipeline: no resizing of ours in it; a shorter side of 800, a longer one of 1333 at most")
    found = size or {"short_sides": (800,), "max_long_side": 1333}
    return {"test_short_side": found["short_sides"][0], "test_max_long_side": found["max_long_side"]}


def _segmentation_augmentation(
    train: Steps, test: Steps, model: Mapping[str, Any], left_out: list[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {"flip_probability": 0.0, "photometric_distortion": False}
    for step in _steps(train):
        kind = step.get("type")
        if kind == "RandomFlip" and step.get("direction", "horizontal") == "horizontal":
            found["flip_probability"] = float(step.get("prob") or 0)
        elif kind == "RandomCrop":
            found |= {"crop_size": _pair(step["crop_size"]), "cat_max_ratio": float(step.get("cat_max_ratio", 1.0))}
        elif kind == "PhotoMetricDistortion":
            found["photometric_distortion"] = True
        elif kind in ("Resize", "RandomResize") and isinstance(step.get("scale"), list | tuple):
            found |= {"scale": tuple(step["scale"]), "ratio_range": tuple(step.get("ratio_range") or (1.0, 1.0))}
        elif kind == "RandomChoiceResize" and isinstance(step.get("scales"), list | tuple):
            sides = [one if isinstance(one, int) else min(one) for one in step["scales"]]
            longer = int((step.get("max_size") or max(step["scales"][-1])) if sides else 0)
            found |= {"scale": (longer, max(sides)), "ratio_range": (min(sides) / max(sides), 1.0)}
            left_out.append(f"train_pipeline: {kind} of {len(sides)} sizes; any size between them here")
        else:
            left_out.append(f"train_pipeline: {kind}")
    size = (model.get("data_preprocessor") or {}).get("size")
    if "crop_size" not in found:
        found["crop_size"] = _pair(size or (512, 512))
        left_out.append(f"train_pipeline: no crop in it; one of {found['crop_size']} here")
    if "scale" not in found:
        found |= {"scale": found["crop_size"], "ratio_range": (1.0, 1.0)}
        left_out.append(f"train_pipeline: no resizing of ours in it; a scale of {found['scale']} here")
    resize = next((one for one in test if one.get("type") == "Resize" and one.get("scale")), None)
    if resize is not None and not resize.get("keep_ratio", False):
        left_out.append(f"test_pipeline: Resize to {resize['scale']} whatever the aspect ratio; ours keeps it")
    return {**found, "test_scale": None if resize is None else tuple(resize["scale"])}


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
