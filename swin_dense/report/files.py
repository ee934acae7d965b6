"""Pages about predictions in files, without a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from swin_dense.images.finder import VIDEOS
from swin_dense.images.labelled import open_images
from swin_dense.metrics.accuracy import are_classes, predicted_rows
from swin_dense.metrics.mean_iou import match_label_maps
from swin_dense.report.classification import ClassificationEvidence, classification_sections
from swin_dense.report.detection import detection_sections
from swin_dense.report.matching import detections_in_files
from swin_dense.report.page import write_page
from swin_dense.report.segmentation import segmentation_in_files, segmentation_sections


def write_file_report(
    gt: Path,
    predictions: Path,
    output: Path,
    *,
    images: Path | None = None,
    classes: Path | None = None,
    label_shift: int | None = None,
    prediction_shift: int | None = None,
    ignore_index: int = 255,
) -> None:
    """Writes a page about the files that `evaluate` scores.

    Args:
        gt: COCO instances JSON, folder of label PNGs, .txt of labels, or folder with a folder for each class.
        predictions: COCO result JSON, folder of label PNGs, JSON or CSV of classes; or the folder `predict` has filled.
        output: The page.
        images: Folder or zip file of the images; without it, those beside the annotations, or none.
        classes: Class list of label PNGs, or of numbers in a .txt.
        label_shift: Added to the labels in a folder `gt`; see `evaluate_label_map_files`.
        prediction_shift: Likewise, in the folder of predictions.
        ignore_index: Label in a folder `gt` that does not count.
    """
    if are_classes(gt, predictions):
        rows, names = predicted_rows(gt, predictions, classes)
        folder = gt if images is None and gt.is_dir() else images
        read = None if folder is None else _reader(folder, [row.file_name for row in rows])
        sections = classification_sections(ClassificationEvidence(rows, names, read))
    elif gt.is_dir():
        maps = match_label_maps(
            gt,
            predictions,
            label_shift=label_shift,
            ignore_index=ignore_index,
            prediction_shift=prediction_shift,
            classes=classes,
        )
        sections = segmentation_sections(segmentation_in_files(maps, images))
    else:
        sections = detection_sections(detections_in_files(gt, predictions, images))
    write_page(output, predictions.stem, [str(gt), str(predictions)], sections)


def _reader(folder: Path, names: Sequence[str]) -> Callable[[int], Tensor]:
    """What gives the image at a position among those named, of a video the frame in its middle."""
    if not any(name.lower().endswith(VIDEOS) for name in names):
        store = open_images(folder)
        return lambda place: store.read(names[place])

    def middle(place: int) -> Tensor:
        from swin_dense.videos.reader import VideoFile

        video = VideoFile(folder / names[place])
        frame: Tensor = video.read([len(video) // 2])[0]
        return frame

    return middle
