"""What has been predicted so far, image by image, so that an interrupted prediction goes on where it stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from swin_dense.files import atomic_write

Rows = list[dict[str, Any]]


class PredictionJournal:
    """A file of one line per image that is done, beside the results; it goes when they are written.

    The first line says what predicts and how, the others are each of one image, so that images may come and go. A
    journal of anything else is begun anew, and so are the lines after one that was cut short.

    Attributes:
        done: Rows by the name of an image, for the images that are done.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Reads what an interrupted prediction has left.

        Args:
            path: The journal.
            identity: All that the predictions depend on beside the images, as JSON can hold it.
        """
        self.path = path
        self._header = json.dumps({"journal_of": sha256(json.dumps(identity).encode()).hexdigest()})
        self.done: dict[str, Rows] = self._read()
        lines = [self._header, *map(_line, self.done.items())]
        with atomic_write(path) as unfinished:
            unfinished.write_text("".join(f"{line}\n" for line in lines))

    def add(self, image: str, rows: Rows) -> None:
        """Notes that an image is done.

        Args:
            image: What tells it from all others, and from what it was before it was changed.
            rows: What was predicted in it.
        """
        self.done[image] = rows
        with self.path.open("a") as file:
            file.write(f"{_line((image, rows))}\n")

    def close(self) -> None:
        """Takes the file away, once its content is kept elsewhere."""
        self.path.unlink()

    def _read(self) -> dict[str, Rows]:
        if not self.path.is_file():
            return {}
        header, *lines = self.path.read_text(errors="replace").splitlines(keepends=True) or [""]
        done: dict[str, Rows] = {}
        if header.rstrip() != self._header:
            print(f"{self.path} is of other weights or options; beginning anew", file=sys.stderr)
            return done
        for line in lines:
            try:
                image, rows = json.loads(line)
            except ValueError:  # a process was killed while it wrote
                break
            done[image] = rows
        return done


def file_identity(path: Path) -> list[Any]:
    """Tells a file from another, and from what it was before it was changed.

    Args:
        path: A file that exists, or one in a zip file.

    Returns:
        Its absolute path, size in bytes and time of change.
    """
    # An image in a zip file has the zip file's size and time.
    facts = next(file for file in (path, *path.parents) if file.is_file()).stat()
    return [str(path.resolve()), facts.st_size, facts.st_mtime_ns]


def _line(image: tuple[str, Rows]) -> str:
    return json.dumps(image)
