"""Labelled images in the forms that hold many in a file: those of Hugging Face's `datasets`, and of WebDataset."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Row = tuple[str, bytes | None, int]
"""Name of the file, content, label."""

FORMS = ("arrow", "parquet", "webdataset")
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def table(rows: Sequence[Row], class_names: Sequence[str] | None) -> pa.Table:
    """With the features as `datasets` 4 notes them."""
    features = {"image": {"_type": "Image"}, "label": {"names": class_names, "_type": "ClassLabel"}}
    schema = pa.schema({"image": IMAGE, "label": pa.int64()})
    if class_names is not None:
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    images = [{"bytes": content, "path": name} for name, content, _ in rows]
    return pa.table({"image": images, "label": [label for _, _, label in rows]}, schema=schema)


def write_tar(path: Path, files: Sequence[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_split(root: Path, form: str, split: str, rows: Sequence[Row], class_names: Sequence[str], files: int) -> None:
    """Shares the rows of a split out among files, laid out as `save_to_disk`, the Hub and WebDataset do."""
    for number in range(files):
        part = rows[number * len(rows) // files : (number + 1) * len(rows) // files]
        if form == "arrow":
            path = root / split / f"data-{number:05d}-of-{files:05d}.arrow"
        else:
            folder, suffix = (root / "data", "parquet") if form == "parquet" else (root, "tar")
            path = folder / f"{'validation' if split == 'val' else split}-{number:05d}-of-{files:05d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if form == "parquet":
            pq.write_table(table(part, class_names), path, row_group_size=3)
        elif form == "arrow":
            held = table(part, class_names)
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, held.schema) as writer:
                writer.write_table(held, max_chunksize=3)
        else:
            words = [class_names[label] for _, _, label in part]
            samples = [Path(name).with_suffix("").as_posix().replace(".", "-") for name, _, _ in part]
            members = [
                (f"{sample}{suffix}", content or b"")
                for sample, word, (name, image, _) in zip(samples, words, part, strict=True)
                for suffix, content in ((Path(name).suffix, image), (".cls", word.encode()))
            ]
            write_tar(path, members)
