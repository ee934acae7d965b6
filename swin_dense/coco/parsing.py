"""Reads JSON files, and sorts the records of a COCO instances file into well-formed ones and problems.

A record is well-formed when it has the right keys with values of the right type, an outline of polygons or RLE, and an
image and a category that exist. Whether the values make sense is for `rules` to say.
"""

from __future__ import annotations

import gc
import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec

from swin_dense.errors import DataError, Finding
from swin_dense.images.files import read_bytes

Record = dict[str, Any]
"""One as it is in the file."""

MAX_BYTES = 2**33
"""Largest JSON file taken from a zip file; LVIS, the largest set of instances in use, has 2**30."""

INT64 = range(-(2**63), 2**63)
RUNS = range(2**31)
"""What a side or a run of a mask may be: the C code of pycocotools counts in 32 bits."""

IN_MEMORY = "the ground truth"
"""Stands for the file in messages where there is none."""

UNSTATED = math.nan
"""Area of an annotation that states none, while it is read: no number in JSON."""

NAMELESS = "."
"""File name of an image that has none and needs none."""


class Fault(NamedTuple):
    """What is wrong with one value: the rule that it breaks, how, and what to do."""

    kind: str
    message: str
    fix: str


FieldCheck = Callable[[Any], Fault | None]


def read_json(path: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """What a JSON file holds; `NaN` and `Infinity` come through as floats, for the caller to refuse with their place.

    The path may be that of a member of a zip file, written as if the zip file were a folder:
    `annotations_trainval2017.zip/annotations/instances_val2017.json`. `object_hook` is called as in `json.loads`.
    """
    content = read_bytes(Path(path), MAX_BYTES)
    if object_hook is None:
        with suppress(msgspec.MsgspecError, ValueError, RecursionError), without_garbage_collection():
            return msgspec.json.decode(content)  # in a third of the time; `json` takes other encodings and NaN
    text = _text(path, content)
    del content  # half a gigabyte for COCO
    try:
        with without_garbage_collection():
            return json.loads(text, object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        hint = "; this looks like XML (Pascal VOC?), convert it to COCO" if text[:99].lstrip()[:1] == "<" else ""
        raise DataError(f"{path}: not a JSON file ({error}){hint}") from error


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Leaves out collections, which millions of new objects set off again and again; there are no cycles to find."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _text(path: Path, content: bytes) -> str:
    try:
        return content.decode(json.detect_encoding(content))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a JSON file ({error})") from error


class Records(NamedTuple):
    """The well-formed records of a COCO instances file.

    Attributes:
        file: The file, for messages.
        annotations: Those whose image and category exist, each read when it is asked for: all of them would take
            gigabytes.
        findings: What is left out; complete when the last annotation has been read.
    """

    file: str
    images: list[Image]
    categories: list[Category]
    annotations: Iterator[Annotation]
    findings: list[Finding]


def read_records(source: Path | Mapping[str, Any], *, need_file_names: bool) -> Records:
    """Reads a COCO instances file as `read_json` does, or what one holds."""
    findings: list[Finding] = []
    file = IN_MEMORY if isinstance(source, Mapping) else str(source)
    sections = _sections(file, source if isinstance(source, Mapping) else _read_document(Path(source)))
    images, categories, annotations = (
        _well_formed(file, name, sections[name], findings, need_file_names=need_file_names) for name in CHECKS
    )
    known = list(images), list(categories)
    return Records(file, *known, _with_known(file, annotations, *known, findings), findings)


def _read_document(path: Path) -> Any:
    """What a JSON file holds, each record of a COCO instances file as `msgspec.Raw` where that is possible."""
    try:
        return _DOCUMENT.decode(read_bytes(path, MAX_BYTES))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return read_json(path, _pack_polygons)  # which takes other encodings and NaN, and names what is wrong


def _pack_polygons(record: Record) -> Record:
    """Packs an annotation's polygons while the file is being read, so that millions of floats never pile up."""
    segmentation = record.get("segmentation")
    if isinstance(segmentation, list):
        try:
            packed = [array("d", polygon) for polygon in segmentation]
        except (TypeError, OverflowError):
            return record  # not lists of numbers: left for `_check_outline` to name
        if not any(bool in map(type, polygon) for polygon in segmentation):
            record["segmentation"] = packed
    return record


def _sections(file: str, document: Any) -> dict[str, list[Any]]:
    """The three lists that make a COCO instances file."""
    expected = "a COCO instances file is an object with images, annotations and categories"
    if isinstance(document, list):
        is_results = bool(document) and isinstance(document[0], dict) and "score" in document[0]
        what = "a results file, a list of detections" if is_results else "a list"
        raise DataError(f"{file}: this is {what}; {expected}")
    if not isinstance(document, Mapping):
        raise DataError(f"{file}: this is a single value; {expected}")
    faulty = [key for key in CHECKS if not isinstance(document.get(key), list)]
    if faulty:
        found = ", ".join(map(str, list(document)[:8])) or "nothing"
        raise DataError(f"{file}: {' and '.join(faulty)} missing or not a list (found: {found}); {expected}")
    return {key: document[key] for key in CHECKS}


def _well_formed(
    file: str, section: str, records: list[Any], findings: list[Finding], *, need_file_names: bool
) -> Iterator[Any]:
    """The records that pass all checks; the others are noted."""
    for place, record in enumerate(records):
        if isinstance(record, msgspec.Raw):
            complete = _decode(section, record)
            if complete is not None:
                yield complete
                continue
            record = _decode_any(f"{file}: {section}[{place}]", record)
        if not isinstance(record, Mapping):
            message = f"{section}[{place}] is {_shorten(record)}, not an object"
            findings.append(Finding("wrong-type", file, message, "write it as an object or remove it"))
            continue
        record = _completed(section, record, need_file_names=need_file_names)
        faults = [(key, fault) for key, check in CHECKS[section].items() if (fault := check(record.get(key)))]
        if not faults:
            yield _sound(section, record)
        image_id = record.get("id" if section == "images" else "image_id")
        annotation_id = record.get("id") if section == "annotations" else None
        for key, fault in faults:
            if record.get(key) is None:
                fault = Fault("missing-key", "is null" if key in record else "is missing", "add it")
            message = f"{section}[{place}]: {key!r} {fault.message}"
            findings.append(Finding(fault.kind, file, message, fault.fix, _id(image_id), _id(annotation_id)))


def _decode(section: str, text: msgspec.Raw) -> Any:
    """A record that has all keys with values of the right types, as nearly all have; None where it is another."""
    try:
        record = _DECODERS[section].decode(text)
    except (msgspec.MsgspecError, ValueError):
        return None
    if section != "annotations":
        return record
    outline = record.segmentation
    if record.area is UNSTATED:
        if outline:
            return None
        record.area = float(record.bbox[2]) * float(record.bbox[3])
    if isinstance(outline, list):
        for polygon in outline:
            if len(polygon) % 2:
                return None
    elif not (isinstance(outline["counts"], list) or outline["counts"].isascii()):
        return None
    return record


def _sound(section: str, record: Record) -> Any:
    """What `_decode` makes of a record, of one that has passed all checks."""
    kind = _DECODERS[section].type
    values = {name: record.get(name) for name in kind.__struct_fields__}
    outline = values.get("segmentation")
    if isinstance(outline, list):
        values["segmentation"] = [polygon.tolist() for polygon in outline]
    return kind(**values)


def _decode_any(place: str, text: msgspec.Raw) -> Any:
    """A record whose form is known, but not what its texts and numbers are."""
    try:
        return json.loads(bytes(text).decode(), object_hook=_pack_polygons)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is not JSON ({error})") from error


def _completed(section: str, given: Mapping[str, Any], *, need_file_names: bool) -> Record:
    """The record with packed polygons and what it may leave out."""
    record = _pack_polygons(dict(given))
    if section == "images" and not need_file_names and record.get("file_name") is None:
        record["file_name"] = NAMELESS
    # An outline that is absent, null or empty means the same; without one, the box is the area if none is stated.
    if section == "annotations" and record.get("segmentation") in (None, []):
        box: Any = record.get("bbox")
        record["segmentation"] = []
        if record.get("area") is None and _check_box(box) is None:
            record["area"] = float(box[2]) * float(box[3])
    return record


def _with_known(
    file: str,
    annotations: Iterable[Annotation],
    images: Iterable[Image],
    categories: Iterable[Category],
    findings: list[Finding],
) -> Iterator[Annotation]:
    """The annotations whose image and category exist; the others are noted."""
    image_ids, category_ids = {image.id for image in images}, {category.id for category in categories}
    strays: dict[str, list[Annotation]] = {"image": [], "category": []}
    for one in annotations:
        if one.image_id not in image_ids:
            strays["image"].append(one)
        elif one.category_id not in category_ids:
            strays["category"].append(one)
        else:
            yield one
    for what, found in strays.items():
        for one in found:
            message = f"{what}_id {getattr(one, f'{what}_id')} is not the id of any sound {what} in the file"
            fix = f"add the {what} or remove the annotation"
            findings.append(Finding(f"unknown-{what}", file, message, fix, one.image_id, one.id))


def _shorten(value: Any) -> str:
    """A value as a message shows it."""
    text = ascii(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _id(value: Any) -> int | None:
    """The value where it can be an id."""
    return value if _check_id(value) is None else None


def _check_id(value: Any) -> Fault | None:
    if type(value) is int and value in INT64:
        return None
    return Fault("wrong-type", f"is {_shorten(value)}, not an integer", "number it with integers")


def _check_side(value: Any) -> Fault | None:
    if type(value) is int and 0 < value < RUNS.stop:
        return None
    return Fault("wrong-type", f"is {_shorten(value)}, not a positive integer", "state the size of the image in pixels")


def _check_text(value: Any) -> Fault | None:
    if not (isinstance(value, str) and value):
        return Fault("wrong-type", f"is {_shorten(value)}, not a text", "write it as a text")
    try:
        value.encode("utf-8", "surrogateescape")  # as names of files that are no UTF-8 come from `os.listdir`
    except UnicodeEncodeError:
        return Fault("wrong-type", f"is {ascii(value)[:40]}, half a character", "write it in UTF-8")
    return None


def _check_number(value: Any) -> Fault | None:
    if type(value) is float or (type(value) is int and value in INT64):
        return None
    return Fault("wrong-type", f"is {_shorten(value)}, not a number", "write it as a number")


def _check_box(value: Any) -> Fault | None:
    if isinstance(value, list) and len(value) == 4 and not any(map(_check_number, value)):
        return None
    return Fault("wrong-type", f"is {_shorten(value)}, not four numbers", "write it as [x, y, width, height] in pixels")


def _check_flag(value: Any) -> Fault | None:
    if value is None or value in (0, 1):
        return None
    return Fault("wrong-type", f"is {_shorten(value)}, neither 0 nor 1", "write 1 for a crowd region, else 0")


def _check_outline(value: Any) -> Fault | None:
    """Polygons of at least three points each, none at all, or an RLE."""
    if isinstance(value, dict):
        return _check_rle(value)
    if isinstance(value, list) and any(isinstance(one, list) and bool in map(type, one) for one in value):
        return Fault("wrong-type", "has true or false among its coordinates", "write numbers")
    if not isinstance(value, list) or not all(isinstance(polygon, array) for polygon in value):
        fix = "write a list of polygons [[x1, y1, x2, y2, ...], ...] or an RLE"
        return Fault("wrong-type", f"is {_shorten(value)}", fix)
    for polygon in value:
        if len(polygon) % 2:
            return Fault("odd-length", f"has a polygon of {len(polygon)} coordinates", "write x and y for every point")
        if len(polygon) < 6:
            return Fault(
                "few-points", f"has a polygon of {len(polygon) // 2} points", "a polygon needs at least 3 points"
            )
    return None


def _check_rle(value: Record) -> Fault | None:
    """An RLE, compressed or not; whether its runs fill the image is checked when all are decoded."""
    size, counts = value.get("size"), value.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(_check_side(side) is None for side in size)):
        return Fault("malformed-rle", f"has an RLE of size {_shorten(size)}", "write its size as [height, width]")
    if isinstance(counts, str) and counts.isascii():
        return None
    if isinstance(counts, list) and all(type(run) is int and run in RUNS for run in counts):
        return None
    return Fault("malformed-rle", f"has an RLE of counts {_shorten(counts)}", "encode the mask with pycocotools")


CHECKS: dict[str, dict[str, FieldCheck]] = {
    "images": {"id": _check_id, "file_name": _check_text, "width": _check_side, "height": _check_side},
    "categories": {"id": _check_id, "name": _check_text},
    "annotations": {
        "id": _check_id,
        "image_id": _check_id,
        "category_id": _check_id,
        "bbox": _check_box,
        "area": _check_number,
        "iscrowd": _check_flag,
        "segmentation": _check_outline,
    },
}
"""What each record must have. `iscrowd` may be absent, and is then 0; for `segmentation` and `area` see above."""

_Integer = Annotated[int, msgspec.Meta(ge=INT64.start, le=INT64.stop - 1)]
_Number = _Integer | float
_Side = Annotated[int, msgspec.Meta(gt=0, lt=RUNS.stop)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Polygon = Annotated[list[float], msgspec.Meta(min_length=6)]


class Image(msgspec.Struct, gc=False):
    """As in the file."""

    id: _Integer
    file_name: _Text
    width: _Side
    height: _Side


class Category(msgspec.Struct, gc=False):
    """As in the file."""

    id: _Integer
    name: _Text
    supercategory: Any = None


class _Rle(TypedDict):
    size: Annotated[list[_Side], msgspec.Meta(min_length=2, max_length=2)]
    counts: str | list[Annotated[int, msgspec.Meta(ge=0, lt=RUNS.stop)]]


class Annotation(msgspec.Struct, gc=False):
    """As in the file, with an `area`, and without polygons where there is a box alone."""

    id: _Integer
    image_id: _Integer
    category_id: _Integer
    bbox: Annotated[list[_Number], msgspec.Meta(min_length=4, max_length=4)]
    area: _Number = UNSTATED
    segmentation: list[_Polygon] | _Rle = []
    iscrowd: Literal[0, 1] | None = None


class _Document(TypedDict):
    images: list[msgspec.Raw]
    categories: list[msgspec.Raw]
    annotations: list[msgspec.Raw]


_DOCUMENT = msgspec.json.Decoder(_Document)
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "images": msgspec.json.Decoder(Image),
    "categories": msgspec.json.Decoder(Category),
    "annotations": msgspec.json.Decoder(Annotation),
}
"""`CHECKS` of a whole record at once, in a hundredth of the time; what they refuse `CHECKS` judges."""
