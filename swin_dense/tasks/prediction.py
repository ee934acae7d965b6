"""Predictions of many images and videos into a folder: pictures for people, files for programs.

Interrupted, it continues. An image or video that cannot be read does not stop the others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from swin_dense.errors import ConfigError, DataError, option
from swin_dense.files import atomic_write, check_output_folder, written
from swin_dense.images.finder import ImageFiles, read_batch, received, worker_options
from swin_dense.records import Batch
from swin_dense.tasks.run_folder import held, write_json
from swin_dense.videos.reader import VideoError, VideoFile
from swin_dense.videos.writer import video_like
from swin_dense.visualize.pictures import save_picture

Rows = list[dict[str, Any]]


def predict_to_folder(
    model: Any,
    images: Sequence[Path],
    output: Path,
    *,
    threshold: float | None = None,
    probabilities: bool = False,
    batch_size: int = 1,
) -> Rows:
    """Predicts on images, draws them, and writes what was found; returns the rows of `predictions.json`.

    Interrupted, the same call with the same weights and options continues; the images may be others. Those that cannot
    be read raise a DataError once the others are done.

    Args:
        model: A `swin_dense.models.Model` with a config and weights.
        images: Image files and videos, or folders that are searched for them; of a model of videos, videos alone.
        output: Folder for pictures, files and `predictions.json`.
        threshold: Detection: objects below it are in the JSON but not in the pictures; None is 0.3.
        probabilities: Segmentation: write every class's probability, too.
        batch_size: Images read at a time, and views that the model sees at a time; changes no result.
    """
    task, config = model.task, model.config
    assert config is not None and model.weights is not None
    files = images_to_predict(images, output, *task.prediction_folders, find=task.inputs(config).files)
    options = {"probabilities": True} if probabilities else {}
    inference = task.inference(config, batch_size, **options)
    identity = {
        "model": repr(config.model),
        "inference": asdict(config.inference),
        "test_size": task.test_size(config),
        "weights": file_identity(model.weights),
        "labels": model.labels.metadata(),
        "threshold": threshold,
        "probabilities": probabilities,
        "label_shift": getattr(config.data, "label_shift", None),
    }
    with held(output, "prediction", "output"):
        run = PredictionRun(files, output, identity, task.write_table)
        for batch in run.batches(batch_size, config.data.num_workers):
            for i, found in enumerate(inference.predict(model.module, batch.to(model.device))):
                image_id, (height, width) = batch.image_ids[i], batch.sizes[i]
                result = task.result(batch.images[i, ..., :height, :width], found, model.labels, task.lowest_score)
                stem = files.stem(image_id)
                save_picture(output / task.pictures / f"{stem}.png", np.asarray(task.shown(result, threshold).draw()))
                run.add(image_id, task.write(result, output, stem, config))
        for position in run.videos():
            try:
                video = VideoFile(files.paths[position])
                found = model.predict(iter(video), threshold=task.lowest_score, batch_size=batch_size, **options)
                run.add(position, _write_frames(task, config, video, found, output, files.stem(position), threshold))
            except VideoError as error:
                run.failures[position] = str(error)
        return run.finish()


def _write_frames(
    task: Any, config: Any, video: VideoFile, found: Iterator[Any], output: Path, stem: str, threshold: float | None
) -> Rows:
    """Draws what was found in the frames of a video as another one, and returns the rows of all frames."""
    rows: Rows = []
    with video_like(video, output / task.pictures / f"{stem}.mp4") as add:
        shown = track(found, f"frames of {escape(video.path.name)}", len(video), console=Console(stderr=True))
        for frame, (seconds, result) in enumerate(zip(video.times.tolist(), shown, strict=True)):
            add(np.asarray(task.shown(result, threshold).draw(as_frame=True)))
            place = {"frame": frame, "seconds": round(seconds, 6)}
            rows += [{**place, **row} for row in task.write(result, output, f"{stem}/{frame:06d}", config)]
    return rows


def images_to_predict(
    images: Sequence[Path], output: Path, *folders: str, find: Callable[[Sequence[Path], Path], ImageFiles] = ImageFiles
) -> ImageFiles:
    """Lists images, and makes sure that pictures in `output` and its `folders` overwrite none of them.

    What lies in `output` is no image, unless it is named itself.
    """
    check_output_folder(output)
    files = find(images, output)
    written = {(output / folder).resolve() for folder in (".", *folders)}
    for path in files.paths:
        if path.parent.resolve() in written:
            raise ConfigError(
                f"{path} lies where pictures are written and could be overwritten; name another folder: "
                f"{option('output', 'FOLDER')}"
            )
    return files


class PredictionRun:
    """Hands out the images that are left to do, keeps what is found in them, and writes it down at the end.

    Attributes:
        failures: By position, what is wrong with files that cannot be read.
    """

    def __init__(
        self,
        files: ImageFiles,
        output: Path,
        identity: Mapping[str, Any],
        write_table: Callable[[Rows, Path], None] | None = None,
    ) -> None:
        """Reads what an interrupted prediction with the same `identity` has left.

        That is all that the predictions depend on beside the images, as JSON can hold it. `write_table` gets the rows
        and the folder in the end.
        """
        self._files, self._predictions, self._write_table = files, output / "predictions.json", write_table
        # With the name of an image's pictures: where it changes because other images have come, they are drawn again.
        self._keys = [
            " ".join(map(str, (files.stem(position), *file_identity(path))))
            for position, path in enumerate(files.paths)
        ]
        self._journal = PredictionJournal(output / "unfinished.jsonl", identity)
        self.failures: dict[int, str] = {}
        self._left = [position for position, key in enumerate(self._keys) if key not in self._journal.done]
        if done := len(self._keys) - len(self._left):
            print(f"{done} of {len(self._keys)} files were done before; going on with the others", file=sys.stderr)

    def videos(self) -> list[int]:
        """Positions of the videos that are not done yet and are read frame by frame."""
        return [position for position in self._left if position in self._files.videos]

    def batches(self, batch_size: int, num_workers: int) -> Iterator[Batch]:
        """Reads the images that are not done yet, and shows the progress; ids are positions in the list of images."""
        left = [position for position in self._left if position not in self._files.videos]
        if not left:
            return
        loader = DataLoader(
            cast("Dataset[int]", left),  # any sequence will do; it is `read_batch` that reads
            batch_size=batch_size,
            collate_fn=partial(read_batch, self._files),
            **worker_options(num_workers),
        )
        readings: Iterator[tuple[Batch | None, dict[int, str]]] = received(loader)
        for batch, failures in track(readings, "predicting", len(loader), console=Console(stderr=True)):
            self.failures |= failures
            if batch is not None:
                yield batch

    def add(self, image_id: int, rows: Rows) -> None:
        """Keeps the rows of an image, without its id and name, whatever happens to this process."""
        self._journal.add(self._keys[image_id], rows)

    def finish(self) -> Rows:
        """Writes and returns `predictions.json`: rows in the order of the images, each with `image_id` and `file_name`.

        Where files could not be read it then raises a DataError; what is done is kept for another run.
        """
        images = enumerate(zip(self._files.paths, self._keys, strict=True))
        rows = [
            {"image_id": image_id, "file_name": str(path), **row}
            for image_id, (path, key) in images
            for row in self._journal.done.get(key, [])
        ]
        write_json(self._predictions, rows)
        if self._write_table is not None:
            self._write_table(rows, self._predictions.parent)
        if self.failures:
            summary = (
                f"{len(self.failures)} of {len(self._files)} files could not be read; {self._predictions} holds the "
                "results of the others. Fix or remove them and start again: what is done is kept"
            )
            raise DataError("\n  - ".join([summary, *self.failures.values()]))  # all of them, however many
        self._journal.close()
        return rows


class PredictionJournal:
    """A file of one line per image that is done, beside the results; it goes when they are written.

    The first line says what predicts and how, the others are each of one image, so that images may come and go. A
    journal of anything else is overwritten, and so are the lines after one that was cut short.

    Attributes:
        done: Rows by the name of an image, for the images that are done.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Reads what an interrupted prediction with the same identity has left."""
        self.path = path
        self._header = json.dumps({"journal_of": sha256(json.dumps(identity).encode()).hexdigest()})
        self.done: dict[str, Rows] = self._read()
        lines = [self._header, *map(json.dumps, self.done.items())]
        with atomic_write(path) as unfinished:
            unfinished.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def add(self, image: str, rows: Rows) -> None:
        """Notes that an image, named by its `file_identity`, is done."""
        self.done[image] = rows
        with written(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps((image, rows))}\n")

    def close(self) -> None:
        """Removes the file, once its content is kept elsewhere."""
        self.path.unlink()

    def _read(self) -> dict[str, Rows]:
        if not self.path.is_file():
            return {}
        header, *lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) or [""]
        done: dict[str, Rows] = {}
        if header.rstrip() != self._header:
            print(f"{self.path} is of other weights or options; starting over", file=sys.stderr)
            return done
        for line in lines:
            try:
                image, rows = json.loads(line)
            except (ValueError, TypeError, RecursionError):  # a process was killed while it wrote, or another file
                break
            if not isinstance(image, str) or not isinstance(rows, list):
                break
            done[image] = rows
        return done


def file_identity(path: Path) -> list[Any]:
    """Absolute path, size in bytes and time of change of a file: what differs in another file, or a changed one."""
    # An image in a zip file has the zip file's size and time.
    facts = next(file for file in (path, *path.parents) if file.is_file()).stat()
    return [str(path.resolve()), facts.st_size, facts.st_mtime_ns]
