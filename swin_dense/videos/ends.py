"""How much of a video file is missing at its end, by what its container says of its own length.

A file that was cut off, by a download that broke off or a full disk, is read up to there like any shorter video.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

BOXES = frozenset((b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"sidx", b"uuid", b"pdin"))
"""What stands at the top of MP4 and QuickTime files; behind the last of them other programs may have left anything."""

EBML, SEGMENT = 0x1A45DFA3, 0x18538067
"""The two elements at the top of Matroska and WebM files."""

UNSTATED = 2**32 - 1
"""What FFmpeg leaves for the length of an AVI file that it cannot come back to, such as a pipe."""


def missing_bytes(path: Path) -> int:
    """How many bytes an MP4, QuickTime, Matroska, WebM or AVI file lacks at its end; 0 where it does not say."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(12)
        file.seek(0)
        if start[:4] == b"RIFF" and start[8:] == b"AVI ":
            length = int.from_bytes(start[4:8], "little")
            end = 0 if length == UNSTATED else 8 + length
        elif start[:4] == EBML.to_bytes(4, "big"):
            end = _matroska_end(file, size)
        else:
            end = _boxes_end(file, size)
    return max(0, end - size)


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last box of the file ends, by its own size."""
    end = 0
    while end < size:
        file.seek(end)
        head = file.read(16).ljust(16, b"\0")
        length, kind, long = struct.unpack(">I4sQ", head)
        length = long if length == 1 else length
        if kind not in BOXES or length < 8:  # a length of 0 means: up to the end of the file
            break
        end += length
    return end


def _matroska_end(file: BinaryIO, size: int) -> int:
    """Where the segment of the file ends; 0 where that was not known when it was written, as in streams."""
    end = 0
    for wanted in (EBML, SEGMENT):
        if end > size:
            break
        file.seek(end)
        head = file.read(12).ljust(12, b"\0")
        if int.from_bytes(head[:4], "big") != wanted or not head[4]:
            return 0
        width = 9 - head[4].bit_length()  # bytes of the length: as many as its first byte begins with zeros, and one
        length = int.from_bytes(head[4 : 4 + width], "big") - (1 << 7 * width)
        if length == (1 << 7 * width) - 1:
            return 0
        end += 4 + width + length
    return end
