"""Images in tables: Arrow files that `datasets.save_to_disk` has written, or Parquet files as the Hugging Face Hub has.

A row has an image, whose bytes lie in the table with the name of its file, and a label. Which columns these are and
what the classes are called stands in the file, in what `datasets` notes there.
"""

from __future__ import annotations

import io
import json
import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from swin_dense.errors import DataError
from swin_dense.images.store import MAX_BYTES, ImageError, ImageStore

Stamped = tuple[Path, int, int]
"""A file as it was when it was looked at: its path, time and size."""


class TableImages(ImageStore):
    """The rows of tables in one folder; an image is named by its file, its row, and what it was called as a file.

    Arrow files are mapped into memory, which forked and spawned processes share, and give any row at once. Of Parquet
    files a row group is the least that can be read; two of them stay in memory.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Looks for the columns in the first table; the others must have the same."""
        super().__init__(files[0].parent)
        self._files = {file.name: file for file in files}
        self._image, self._label, self.class_names = _columns(files[0])

    def label_rows(self) -> list[tuple[str, str]]:
        """Names and classes of all rows, in their order."""
        rows: list[tuple[str, str]] = []
        for file in self._files.values():
            if _columns(file) != (self._image, self._label, self.class_names):
                raise DataError(f"{file}: has other columns or classes than the other tables; keep them in two folders")
            paths, labels = _read_labels(file, self._image, self._label)
            if self.class_names and (none := [row for row, one in enumerate(labels) if not self._is_class(one)]):
                fault = f"{len(none)} rows have no class of the {len(self.class_names)}, the first is row {none[0]}"
                raise DataError(f"{file}: {fault} with the label {labels[none[0]]}; take a split that has them")
            words = [str(self.class_names[label]) for label in labels] if self.class_names else map(str, labels)
            names = (f"{file.name}/{row:06d}/{_last_part(path)}" for row, path in enumerate(paths))
            rows += zip(names, words, strict=True)
        return rows

    def _is_class(self, label: Any) -> bool:
        return isinstance(label, int) and 0 <= label < len(self.class_names)

    def names(self, suffixes: Collection[str] | None = None) -> list[str]:
        """Names of all rows: every one is an image."""
        return [name for name, _ in self.label_rows()]

    def missing(self, file_names: Iterable[str]) -> list[str]:
        """Those of some names that are no rows here."""
        known = set(self.names())
        return [name for name in file_names if name not in known]

    def empty(self, file_names: Iterable[str]) -> list[str]:
        """Nothing: the lengths of images would have to be read with them. Reading an empty one is an error."""
        return []

    def _source(self, file_name: str) -> tuple[Path | io.BytesIO, int]:
        path = self.root / file_name
        name, row, *_ = [*file_name.split("/"), ""]
        if name not in self._files or not re.fullmatch("[0-9]{1,12}", row):
            raise self.missing_image(file_name)
        try:
            content = _image(_stamped(self._files[name]), self._image, int(row))
        except (pa.ArrowException, DataError, OSError, IndexError, MemoryError) as error:
            fault = f"cannot be read ({error})"
            raise ImageError(path, "unreadable-image", fault, f"restore {name}") from error
        if content is None or len(content) > MAX_BYTES:
            fault = "its bytes are not in the table" if content is None else f"has {len(content)} bytes"
            raise ImageError(path, "unreadable-image", fault, "write the table with the bytes of its images")
        return io.BytesIO(content), len(content)


def _stamped(file: Path) -> Stamped:
    status = file.stat()
    return file, status.st_mtime_ns, status.st_size


def _last_part(path: Any) -> str:
    """The name of an image's file without what leads elsewhere."""
    return re.sub(r"[^\w. -]", "_", re.split(r"[/\\]", path)[-1])[-120:] if isinstance(path, str) and path else "image"


def _columns(file: Path) -> tuple[str, str, tuple[str, ...]]:
    """The columns of images and of labels, and the names of the classes, if they are noted."""
    try:
        schema = pq.read_schema(file) if file.suffix == ".parquet" else _mapped(_stamped(file)).schema
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read as a table ({error}); download it again") from error
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        kinds = {name: feature["_type"] for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        features, kinds = {}, {}
    images = [name for name in schema.names if kinds.get(name) == "Image"]
    labels = [name for name in schema.names if kinds.get(name) == "ClassLabel"]
    image, label = (found[0] if len(found) == 1 else usual for found, usual in ((images, "image"), (labels, "label")))
    types = dict(zip(schema.names, schema.types, strict=True))
    held, kind = types.get(image), types.get(label)
    if held is None or not pa.types.is_struct(held) or held.get_field_index("bytes") < 0:
        columns = ", ".join(f"{name} ({type_})" for name, type_ in types.items())[:500]
        fix = "write an Image column of `datasets`, a struct of bytes and path, called image"
        raise DataError(f"{file}: has no images in its columns {columns}; {fix}")
    if kind is None or not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        fault = "is missing" if kind is None else f"is of type {kind}"
        raise DataError(f"{file}: its column {label!r} {fault}; write a number or a word as the label of each image")
    names = features[label].get("names") if label in labels else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or pa.types.is_string(kind):
        return image, label, ()
    if len(set(names)) != len(names):
        raise DataError(f"{file}: two classes of its column {label!r} have one name; give each its own")
    for name in names:
        if not name.strip() or name.encode("utf-8", "replace").decode() != name:
            raise DataError(f"{file}: a class of its column {label!r} is called {ascii(name)}; give it a name")
    return image, label, tuple(names)


def _read_labels(file: Path, image: str, label: str) -> tuple[list[Any], list[Any]]:
    """What the image of each row was called as a file, where that is known, and its label."""
    try:
        if file.suffix == ".parquet":
            reader = pq.ParquetFile(file)
            table = reader.read([f"{image}.path", label], use_threads=False)
        else:
            table = _mapped(_stamped(file)).select([image, label])
        has_paths = image in table.column_names and table.schema.field(image).type.get_field_index("path") >= 0
        paths = pc.struct_field(table.column(image), "path").to_pylist() if has_paths else [None] * len(table)
        return paths, table.column(label).to_pylist()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{file}: its labels cannot be read ({error}); download it again") from error


@lru_cache(maxsize=256)
def _mapped(stamped: Stamped) -> pa.Table:
    """The table in an Arrow file, mapped into memory once a process; places in it are checked, no image is read."""
    table = pa.ipc.open_stream(pa.memory_map(str(stamped[0]))).read_all()
    table.validate(full=True)
    return table


@lru_cache(maxsize=4096)
def _group_ends(stamped: Stamped) -> list[int]:
    """The rows up to the end of each row group of a Parquet file."""
    metadata = pq.read_metadata(stamped[0])
    return [*accumulate(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))]


@lru_cache(maxsize=2)
def _group(stamped: Stamped, image: str, number: int) -> pa.ChunkedArray:
    reader = pq.ParquetFile(stamped[0])
    if (size := reader.metadata.row_group(number).total_byte_size) > MAX_BYTES:
        raise DataError(f"a row group of {size} bytes would be read for each image; write smaller ones")
    return reader.read_row_group(number, [image], use_threads=False).column(image)


def _image(stamped: Stamped, image: str, row: int) -> bytes | None:
    """The bytes of the image in a row; None where there are none."""
    if stamped[0].suffix == ".parquet":
        ends = _group_ends(stamped)
        number = bisect_right(ends, row)
        values = _group(stamped, image, number)
        row -= ends[number - 1] if number else 0
    else:
        values = _mapped(stamped).column(image)
    content: bytes | None = (values[row].as_py() or {}).get("bytes")
    return content
