"""Label maps of other sources: VOC's `SegmentationClass`, or a PNG per image in a folder of masks.

A `labelmap.txt` as CVAT writes it (`name:r,g,b::` in each line) gives the names of the classes. Label maps in colours
are left out, with the reason.
"""

from __future__ import annotations

from pathlib import Path

from swin_dense.errors import DataError
from swin_dense.importing.files import SourceImages, folder_of, text_lines
from swin_dense.importing.masks import mask_files, pixels_of
from swin_dense.importing.records import Imported, ImportedImage, UnusableError
from swin_dense.importing.voc import BACKGROUND_FIRST, splits_of

LABEL_FOLDERS = ("SegmentationClass", "masks", "labels", "annotations", "mask")
"""Where label maps lie; the first that is there counts."""


def read_label_maps(source: Path) -> Imported:
    """Reads the label map of every image that has one."""
    root, imported = folder_of(source), Imported("label maps")
    images = SourceImages(root)
    masks = mask_files(root)
    folder = next((one for one in LABEL_FOLDERS if any(one in name.split("/")[:-1] for name in masks)), None)
    if folder is None:
        raise DataError(f"{root}: no folder of label maps in it; call it SegmentationClass or masks")
    by_stem = {Path(name).stem: name for name in masks if folder in name.split("/")[:-1]}
    listed = next((root / name for name in ("labelmap.txt", "classes.txt") if (root / name).is_file()), None)
    if listed is not None:
        with imported.dropping(listed):
            imported.classes = [
                line.partition(":")[0].strip() for line in text_lines(listed) if not line.startswith("#")
            ]
    elif folder == "SegmentationClass":
        imported.classes = list(BACKGROUND_FIRST)
    else:
        imported.notes.append("the source lists no classes: they are called by the labels in the files")
    splits, used, highest = splits_of(root), set(), 0
    for name in images.names:
        stem = Path(name).stem
        if name in masks or stem not in by_stem:
            if name not in masks:
                imported.drop("no-label-map", root / name, "no label map belongs to it", "add it")
            continue
        with imported.dropping(root / by_stem[stem]):
            used.add(stem)
            labels = pixels_of(root / by_stem[stem])
            if labels.max() > 255 or labels.ndim != 2:
                raise UnusableError("label-format", "has colours for labels", "export it with an index per pixel")
            highest = max(highest, int(labels[labels != 255].max(initial=0)))
            path = root / name
            image = ImportedImage(path, Path(name).name, labels.shape, (), splits.get(stem), root / by_stem[stem])
            imported.images.append(image)
    for stem in sorted(by_stem.keys() - used):
        imported.drop("missing-image", root / by_stem[stem], "no image belongs to this label map", "add it")
    if not imported.classes:
        imported.classes = [str(label) for label in range(highest + 1)]
    return imported
