"""What predictions of every task share: which images are left to do, and what becomes of those that cannot be read."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from swin_dense.data.loaders import set_worker_signals
from swin_dense.errors import ConfigError, DataError
from swin_dense.images.finder import ImageFiles, read_batch
from swin_dense.records import Batch
from swin_dense.tasks.outputs import check_output_folder
from swin_dense.tasks.prediction_journal import PredictionJournal, Rows, file_identity
from swin_dense.tasks.run_folder import write_json


def images_to_predict(images: Sequence[Path], output: Path, *folders: str) -> ImageFiles:
    """Lists images, and makes sure that results can be written without touching any of them.

    Args:
        images: Image files, or folders that are searched for images.
        output: Folder of the results; it need not exist.
        *folders: Those below it that pictures are written to, besides `output` itself.

    Returns:
        The images; what lies in `output` is none, unless it is named itself.

    Raises:
        ConfigError: `output` cannot be written to, or a picture could overwrite an image.
        DataError: There is no image.
    """
    check_output_folder(output)
    files = ImageFiles(images, output)
    written = {(output / folder).resolve() for folder in (".", *folders)}
    for path in files.paths:
        if path.parent.resolve() in written:
            raise ConfigError(
                f"{path} lies where pictures are written and could be overwritten; name another folder with --output"
            )
    return files


class PredictionRun:
    """Hands out the images that are left to do, keeps what is found in them, and writes it down at the end."""

    def __init__(self, files: ImageFiles, output: Path, identity: Mapping[str, Any]) -> None:
        """Reads what an interrupted prediction with the same weights and options has left.

        Args:
            files: The images.
            output: Folder of the results.
            identity: All that the predictions depend on beside the images, as JSON can hold it.
        """
        self._files, self._predictions = files, output / "predictions.json"
        # With the name of an image's pictures: where it changes because other images have come, they are drawn again.
        self._keys = [
            " ".join(map(str, (files.stem(position), *file_identity(path))))
            for position, path in enumerate(files.paths)
        ]
        self._journal = PredictionJournal(output / "unfinished.jsonl", identity)
        self._failures: dict[int, str] = {}

    def batches(self, batch_size: int, num_workers: int) -> Iterator[Batch]:
        """Reads the images that are not done yet, and shows the progress.

        Args:
            batch_size: Images of a batch; fewer where some cannot be read.
            num_workers: Processes that read; 0 reads in this process.

        Yields:
            Images at the size that they have on disk; their ids are positions in the list of images.
        """
        left = [position for position, key in enumerate(self._keys) if key not in self._journal.done]
        if len(left) < len(self._keys):
            done = len(self._keys) - len(left)
            print(f"{done} of {len(self._keys)} images were done before; going on with the others", file=sys.stderr)
        if not left:
            return
        loader = DataLoader(
            cast("Dataset[int]", left),  # any sequence will do; it is `read_batch` that reads
            batch_size=batch_size,
            collate_fn=partial(read_batch, self._files),
            num_workers=num_workers,
            worker_init_fn=set_worker_signals,
            # Its own generator, so that a prediction does not disturb the caller's random numbers.
            generator=torch.Generator(),
        )
        readings = cast("Iterable[tuple[Batch | None, dict[int, str]]]", loader)
        for batch, failures in track(readings, "predicting", len(loader), console=Console(stderr=True)):
            self._failures |= failures
            if batch is not None:
                yield batch

    def add(self, image_id: int, rows: Rows) -> None:
        """Keeps what was found in an image, whatever happens to this process.

        Args:
            image_id: Its position.
            rows: What was found, without the image's id and name.
        """
        self._journal.add(self._keys[image_id], rows)

    def finish(self) -> Rows:
        """Writes `predictions.json`.

        Returns:
            Its rows in the order of the images, each with `image_id`, the position, and `file_name`.

        Raises:
            DataError: Some images could not be read; the results of the others are written, and kept for another run.
        """
        images = enumerate(zip(self._files.paths, self._keys, strict=True))
        rows = [
            {"image_id": image_id, "file_name": str(path), **row}
            for image_id, (path, key) in images
            for row in self._journal.done.get(key, [])
        ]
        write_json(self._predictions, rows)
        if self._failures:
            summary = (
                f"{len(self._failures)} of {len(self._files)} images could not be read; {self._predictions} holds the "
                "results of the others. Mend or remove them and start again: what is done is kept"
            )
            raise DataError("\n  - ".join([summary, *self._failures.values()]))  # all of them, however many
        self._journal.close()
        return rows
