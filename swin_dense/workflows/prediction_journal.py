"""What has been predicted so far, image by image, so that an interrupted prediction goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from swin_dense.files import atomic_write

Rows = list[dict[str, Any]]


class PredictionJournal:
    """A file of one line per image that is done, beside the results; it goes when they are written.

    The first line says what is predicted from what. A journal of anything else is begun anew, and so are the lines
    after one that was cut short.

    Attributes:
        done: Rows by image, for the images that are done.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Reads what an interrupted prediction has left.

        Args:
            path: The journal.
            identity: All that the predictions depend on, as JSON can hold it.
        """
        self.path = path
        self._header = json.dumps({"journal_of": sha256(json.dumps(identity).encode()).hexdigest()})
        self.done = self._read()
        lines = [self._header, *map(_line, self.done.items())]
        with atomic_write(path) as unfinished:
            unfinished.write_text("".join(f"{line}\n" for line in lines))

    def add(self, image: int, rows: Rows) -> None:
        """Notes that an image is done.

        Args:
            image: Its id.
            rows: What was predicted in it.
        """
        self.done[image] = rows
        with self.path.open("a") as file:
            file.write(f"{_line((image, rows))}\n")

    def rows(self) -> Rows:
        """Every row, in the order of the image ids."""
        return [row for _, rows in sorted(self.done.items()) for row in rows]

    def close(self) -> None:
        """Takes the file away, once its content is kept elsewhere."""
        self.path.unlink()

    def _read(self) -> dict[int, Rows]:
        if not self.path.is_file():
            return {}
        header, *lines = self.path.read_text(errors="replace").splitlines(keepends=True) or [""]
        done: dict[int, Rows] = {}
        if header.rstrip() == self._header:
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
        path: A file that exists.

    Returns:
        Its absolute path, size in bytes and time of change.
    """
    facts = path.stat()
    return [str(path.resolve()), facts.st_size, facts.st_mtime_ns]


def _line(image: tuple[int, Rows]) -> str:
    return json.dumps(image)
