"""COCO exports, one or many, whose lists of classes may differ: merged by the names of the classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from swin_dense.coco.parsing import Annotation, Image, read_records
from swin_dense.errors import DataError
from swin_dense.importing.files import SPLITS, SourceImages, annotation_files, folder_of
from swin_dense.importing.geometry import box_object, polygon_object, rle_object
from swin_dense.importing.layouts import format_of_file
from swin_dense.importing.records import Imported, ImportedImage, ImportedObject, UnusableError
from swin_dense.records import Size
from swin_dense.rle import check_rles


def read_coco(source: Path) -> Imported:
    """Reads every instances file below a folder, in the order of their names, or the one that is named.

    Classes stand in the order of the first file, then come the new ones of the others. A class that only groups others
    (Roboflow's first one) and has no annotation is no class.
    """
    root, imported = folder_of(source), Imported("coco")
    images = SourceImages(root)
    files = [path for path in annotation_files(source, ".json") if format_of_file(path) == "coco"]
    for path in files:
        try:
            records = read_records(path, need_file_names=True)
            annotations = list(records.annotations)
        except DataError as error:
            imported.drop("broken-json", path, str(error).removeprefix(f"{path}: "), "export it again")
            continue
        imported.dropped += records.findings
        names = {row.id: row.name.strip() for row in records.categories}
        used = {row.category_id for row in annotations}
        groups = {row.supercategory for row in records.categories}
        listed = [name for number, name in names.items() if number in used or name not in groups]
        imported.classes += [name for name in dict.fromkeys(listed) if name not in imported.classes]
        if len(files) > 1:
            imported.notes.append(f"{path.relative_to(root)}: {', '.join(listed)}")
        _images(path, records.images, annotations, names, images, imported)
    images.drop_unused(imported, "list it without annotations, if there is nothing on it")
    by_fold: dict[str, str] = {}
    for name in imported.classes:
        other = by_fold.setdefault(name.casefold(), name)
        if other != name:
            imported.notes.append(
                f"{other!r} and {name!r} are two classes; rename one in its file if they are the same"
            )
    return imported


def _images(
    path: Path,
    rows: list[Image],
    annotations: list[Annotation],
    names: dict[int, str],
    images: SourceImages,
    imported: Imported,
) -> None:
    objects: dict[int, list[ImportedObject]] = {row.id: [] for row in rows}
    sizes = {row.id: (row.height, row.width) for row in rows}
    for one in annotations:
        with imported.dropping(path, f"annotation {one.id}"):
            objects[one.image_id].append(_object(one, names[one.category_id], sizes[one.image_id], imported))
    split = _split(path)
    for row in rows:
        with imported.dropping(path, f"image {row.id}"):
            found = images.find(row.file_name, path.parent)
            image = ImportedImage(images.root / found, found, sizes[row.id], tuple(objects[row.id]), split)
            imported.images.append(image)


def _object(annotation: Annotation, name: str, size: Size, imported: Imported) -> ImportedObject:
    crowd, outline = bool(annotation.iscrowd), annotation.segmentation
    if isinstance(outline, dict):
        if list(outline["size"]) != list(size):
            raise UnusableError("rle-size", f"its mask is {outline['size']}, its image {list(size)}", "encode it again")
        compressed = outline if isinstance(outline["counts"], str) else coco_mask.frPyObjects(outline, *size)
        _, faults = check_rles([compressed["counts"]], np.array([size[0] * size[1]]))
        if faults:
            raise UnusableError("malformed-rle", faults[0], "encode it again")
        return rle_object(name, {"size": list(size), "counts": compressed["counts"]}, crowd)
    if outline:
        polygons = [list(zip(one[::2], one[1::2], strict=True)) for one in outline]
        one = polygon_object(name, polygons, size, imported.changed)
        return ImportedObject(name, one.box, one.area, one.outline, crowd)
    x, y, width, height = annotation.bbox
    if width < 0 or height < 0:
        raise UnusableError("negative-box", f"a box of {width:g} x {height:g}", "correct it")
    one = box_object(name, (x, y, x + width, y + height), size, imported.changed)
    return ImportedObject(name, one.box, one.area, crowd=crowd)


def _split(path: Path) -> str | None:
    """The split in the name of a file (`instances_val2017.json`) or of the folder around it (`valid`)."""
    words = path.stem.lower().replace("-", "_").replace(".", "_").split("_")
    for word in (*(word.rstrip("0123456789") for word in words), path.parent.name.lower()):
        if word in SPLITS:
            return SPLITS[word]
    return None
