"""Changes to what file formats say about themselves: sizes in headers, entries of zip files, opcodes of pickles."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from random import Random
from typing import Any

from hostile.mutations import NUMBERS, TEXTS, mutate_bytes, mutate_tree, odd_value

SIDES = (0, 1, 2, 3, 255, 256, 13_000, 30_000, 40_000, 65_535, 2**20, 2**31 - 1, 2**31, 2**32 - 1)


def _put(content: bytes, place: int, size: int, number: int, order: Any) -> bytes:
    return content[:place] + (number % 2 ** (8 * size)).to_bytes(size, order) + content[place + size :]


def mutate_image(random: Random, content: bytes) -> bytes:
    """Sizes and kinds that an image file states, with sums of checking that are right again; or its bytes."""
    change = {b"\x89PN": _png, b"\xff\xd8\xff": _jpeg, b"II*": _tiff}.get(content[:3])
    return mutate_bytes(random, content) if change is None or random.random() < 0.5 else change(random, content)


def _png(random: Random, content: bytes) -> bytes:
    chunks, place = [], 8
    while place + 12 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    for _ in range(random.choice((1, 1, 2))):
        index = random.choice((0, random.randrange(len(chunks))))
        kind, data = chunks[index]
        what = random.randrange(5)
        if kind == b"IHDR" and what < 3:
            data = _put(data, random.choice((0, 4)), 4, random.choice(SIDES), "big")
        elif kind == b"IHDR":
            data = _put(data, random.randrange(8, 13), 1, random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255)), "big")
        elif what == 0:
            chunks.insert(index, (random.choice((b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"zTXt", b"IEND")), data))
        elif what == 1 and kind == b"IDAT":
            data = zlib.compress(mutate_bytes(random, zlib.decompress(data)))
        elif what == 2 and kind == b"IDAT":  # a megabyte that unpacks to a thousand
            data = zlib.compress(bytes(10_000_000))
        else:
            data = mutate_bytes(random, data)
        chunks[index] = (kind, data)
    packed = (struct.pack(">I", len(data)) + kind + data for kind, data in chunks)
    return content[:8] + b"".join(one + struct.pack(">I", zlib.crc32(one[4:])) for one in packed)


def _jpeg(random: Random, content: bytes) -> bytes:
    place = next((at for at in range(len(content)) if content[at : at + 2] in (b"\xff\xc0", b"\xff\xc2")), 0)
    at = place + random.choice((5, 7))
    return _put(content, at, 2, random.choice(SIDES), "big") if place else mutate_bytes(random, content)


def _tiff(random: Random, content: bytes) -> bytes:
    start = int.from_bytes(content[4:8], "little")
    count = int.from_bytes(content[start : start + 2], "little")
    entry = start + 2 + 12 * random.randrange(count)  # tag, type, count, value
    offset, size = random.choice(((0, 2), (2, 2), (4, 4), (8, 4), (8, 4), (8, 4)))
    number = random.choice((*SIDES, random.randrange(len(content)), 256, 257, 259, 273, 277, 279))
    return _put(content, entry + offset, size, number, "little")


def mutate_zip(random: Random, content: bytes) -> bytes:
    """Names, sizes and kinds of packing in the directory of a zip file; or what its members hold."""
    if random.random() < 0.3:
        return mutate_bytes(random, content)
    if random.random() < 0.5:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            members = {info.filename: file.read(info) for info in file.infolist()}
        names = list(members)
        for _ in range(random.choice((1, 2))):
            name = random.choice(names)
            data = members[name]
            kind = random.randrange(4)
            if kind == 0:
                text = random.choice(TEXTS).encode("utf-8", "replace").decode()
                members[text or "../secret.png"] = data
            elif kind == 1:
                members[name] = mutate_bytes(random, data)
            elif kind == 2:
                members[name] = bytes(20_000_000)
            else:
                members.pop(name, None)
                members[name + "/"] = b""
        target = io.BytesIO()
        packing = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        with zipfile.ZipFile(target, "w", packing) as file:
            for name, data in members.items():
                file.writestr(name, data)
        return target.getvalue()
    fields = {b"PK\x01\x02": (6, 8, 10, 20, 24, 28, 30, 32, 42), b"PK\x03\x04": (6, 8, 18, 22, 26, 28)}
    fields[b"PK\x05\x06"] = (8, 10, 12, 16, 20)
    places = [at + field for at in range(len(content)) for field in fields.get(content[at : at + 4], ())]
    for _ in range(random.choice((1, 1, 2))):
        size = random.choice((2, 4))
        numbers = (0, 1, 8, 12, 14, 93, 2**16 - 1, 2**31, 2**32 - 1, 10**6, len(content))
        content = _put(content, random.choice(places), size, random.choice(numbers), "little")
    return content


class RunsCode:
    """A pickle of this makes a file when it is read without care."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("touch ../owned",)


def mutate_checkpoint(random: Random, content: bytes) -> bytes:
    """A checkpoint of `torch.save` with other values, other pickled instructions, or other bytes."""
    import torch

    kind = random.randrange(6)
    if kind == 0:
        return mutate_bytes(random, content)
    if kind == 1:
        return mutate_zip(random, content) if content[:2] == b"PK" else mutate_bytes(random, content)
    if kind == 2 and content[:2] == b"PK":  # the instructions alone
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            members = [(info.filename, file.read(info)) for info in file.infolist()]
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as file:
            for name, data in members:
                is_pickle = name.endswith("data.pkl")
                file.writestr(name, mutate_bytes(random, data, random.choice((1, 1, 2))) if is_pickle else data)
        return target.getvalue()
    if kind == 3:
        odd = (RunsCode(), {"state_dict": RunsCode()}, {"a": [RunsCode()]}, range(3), [1], "text", None, 1 << 20_000)
        if random.random() < 0.5:
            return pickle.dumps(random.choice(odd), protocol=random.randrange(5))
        target = io.BytesIO()
        torch.save(random.choice(odd), target)
        return target.getvalue()
    checkpoint = torch.load(io.BytesIO(content), weights_only=True)
    for _ in range(random.choice((1, 1, 2, 5))):
        checkpoint = _odd_checkpoint(random, checkpoint)
    target = io.BytesIO()
    torch.save(checkpoint, target, _use_new_zipfile_serialization=random.random() < 0.8)
    return target.getvalue()


def _odd_checkpoint(random: Random, checkpoint: Any) -> Any:
    """One of its dicts with a key renamed, or a value replaced."""
    dicts = [value for value in _dicts(checkpoint) if value]
    if not dicts:
        return {"state_dict": odd_value(random)}
    chosen = random.choice(dicts)
    key = random.choice(list(chosen))
    if random.random() < 0.3:
        names = (*TEXTS, "backbone.x", "module." * 500, "a" * 10**5, "layers.²", f"layers.{'9' * 5000}.x")
        chosen[random.choice((*names, 1, None, (1, 2)))] = chosen.pop(key)
    else:
        chosen[key] = _odd_tensor(random, chosen[key])
    return checkpoint


def _dicts(value: Any) -> list[dict[Any, Any]]:
    return [value, *(one for item in value.values() for one in _dicts(item))] if isinstance(value, dict) else []


def _odd_tensor(random: Random, value: Any) -> Any:
    import torch

    if not isinstance(value, torch.Tensor) or random.random() < 0.3:
        return odd_value(random)
    kind = random.randrange(9)
    if kind == 0:
        return value.to(random.choice((torch.int64, torch.bool, torch.float64, torch.complex64, torch.float8_e5m2)))
    if kind == 1:
        return value.new_full((1,), random.choice((float("nan"), 0.0, 1e38))).expand(10**6, 10**6)
    if kind == 2:
        return torch.full_like(value, float("nan")) if value.is_floating_point() else -value
    if kind == 3:
        return value.flatten()[:0]
    if kind == 4:
        return value[None]
    if kind == 5:
        return value.to_sparse()
    if kind == 6:
        return value.new_empty((3, 0, 2**40))
    if kind == 7:
        return torch.empty(2**40, 2**10, device="meta")
    return torch.nn.Parameter(value.float())


def mutate_safetensors(random: Random, content: bytes) -> bytes:
    """Names, types, shapes and places in the header of a safetensors file; or its bytes."""
    if random.random() < 0.3:
        return mutate_bytes(random, content)
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    if random.random() < 0.2:
        header["__metadata__"] = {"class_names": json.dumps(odd_value(random)), "category_ids": "[1, 2"}
    changed = json.dumps(mutate_tree(random, header)).encode()
    length = random.choice((len(changed),) * 6 + (0, 2**63, size))
    return length.to_bytes(8, "little") + changed + content[8 + size :]


def mutate_parquet(random: Random, content: bytes) -> bytes:
    """Values or columns of a table; or its bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if random.random() < 0.4:
        return mutate_bytes(random, content)
    table = pq.read_table(io.BytesIO(content))
    rows = table.to_pylist()
    for _ in range(random.choice((1, 2, 3))):
        row = random.choice(rows)
        name = random.choice(list(row))
        odd = {
            "shard": ("../secret.safetensors", "shards/../../secret.safetensors", "/etc/passwd", "²", ""),
            "key": ("", "\0", "x"),
            "stage": ("../stage", "/tmp/x", ".", "a/b", ""),
            "dtype": ("int8", "float16", "F32"),
        }.get(name, (None, 0, -1, "", [], *NUMBERS[:8]))
        if isinstance(row[name], list):
            row[name] = random.choice(([], None, [0], [-1, 2], [2**62] * 3, [1.5, float("nan")], row[name] * 3))
        else:
            row[name] = random.choice((None, *odd))
    try:
        changed = pa.Table.from_pylist(rows, schema=table.schema if random.random() < 0.9 else None)
    except (pa.ArrowException, OverflowError, TypeError):
        changed = table.slice(0, random.randrange(len(rows))).drop_columns(random.choice(table.column_names))
    target = io.BytesIO()
    pq.write_table(changed, target)
    return target.getvalue()


def mutate_video(random: Random, content: bytes) -> bytes:
    """A video cut short, without pictures, with other sizes and counts in its tables; or its bytes."""
    kind = random.randrange(5)
    if kind == 0:
        return content[: random.randrange(len(content))]
    if kind == 1:
        return _sound_alone(random.choice(("mp4", "matroska", "avi")))
    boxes = (b"tkhd", b"stsz", b"stts", b"stsc", b"stco", b"mvhd", b"mdhd", b"avc1", b"mp4v", b"ctts", b"stss", b"moov")
    chunks = (b"avih", b"strh", b"strf", b"idx1", b"movi", b"LIST")  # of avi
    elements = (b"\xb0", b"\xba", b"\x44\x89", b"\x23\xe3\x83", b"\xae")  # width, height, duration, rate, track
    names = [name for name in (*boxes, *chunks, *elements) if name in content]
    if kind == 2 or not names:
        return mutate_bytes(random, content)
    for _ in range(random.choice((1, 1, 2))):
        name = random.choice(names)
        place = content.index(name) + len(name) + random.randrange(0, 96 if len(name) == 4 else 3)
        content = _put(content, min(place, len(content) - 4), random.choice((1, 2, 4)), random.choice(SIDES), "big")
    return content


def _sound_alone(container: str) -> bytes:
    """A file with a second of silence, and no video stream."""
    import av
    import numpy as np

    target = io.BytesIO()
    with av.open(target, "w", format=container) as file:
        stream = file.add_stream("aac" if container != "avi" else "mp3", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        for packet in (*stream.encode(frame), *stream.encode()):
            file.mux(packet)
    return target.getvalue()
