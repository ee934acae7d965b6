"""Videos of which each has one class: by the folder that it lies in, or by a list.

root/abseiling/any.mp4           a folder for each class
list.txt, list.csv               lines "abseiling/any.mp4 0", "any.mp4 abseiling" or "any.mp4,0"
train.csv of Kinetics            columns label, youtube_id, time_start, time_end: the files ID_START_END or ID
train.json of Something-         a record each with id and template, and labels.json, the classes; the files ID
  Something V2

The suffix of a video that is named without one does not matter, nor the folder below the root in which it lies.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from swin_dense.errors import DataError, nearest, setting
from swin_dense.files import is_there
from swin_dense.images.files import escapes, list_files, missing_files
from swin_dense.images.finder import VIDEOS
from swin_dense.images.labelled import ClassList, label_rows, list_text, read_class_list
from swin_dense.records import Ragged

logger = logging.getLogger(__name__)


class ListedVideo(NamedTuple):
    """A video as its list has it.

    Attributes:
        name: Below the root; of one that is not there, what was looked for.
        word: Its class as it is called there: a name, a folder or a number; "" where it has none.
        found: Whether there is such a file.
        seconds: How long the list says it is; None where it does not.
    """

    name: str
    word: str
    found: bool = True
    seconds: float | None = None


@dataclass(frozen=True)
class LabelledVideos:
    """The videos of one split, in flat arrays.

    Attributes:
        root: Where they lie.
        names: Of the files, below the root.
        labels: (n,) int64, the class of each.
        missing: How many of the list are left out because there is no such file.
    """

    root: Path
    names: Ragged
    labels: Tensor
    missing: int = 0

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.names)

    def path(self, index: int) -> Path:
        """Where one of them lies."""
        return self.root / self.names.text(index)


def list_videos(root: Path, listed: Path | None) -> list[ListedVideo]:
    """The videos of a split with the words for their classes; nothing is opened.

    Raises:
        DataError: Folder or list is missing or cannot be read.
    """
    if not (is_there(root) and root.is_dir()):
        raise DataError(f"{root}: no such folder of videos")
    if listed is None:
        names = list_files(root, VIDEOS)
        return [ListedVideo(name, name.partition("/")[0] if "/" in name else "") for name in names]
    if listed.suffix.lower() == ".json":
        return _with_files(root, _something_something(listed))
    try:
        table = _kinetics(listed) if listed.suffix.lower() == ".csv" else None
        return _with_files(root, table) if table is not None else _named(root, listed)
    except csv.Error as error:
        raise DataError(f"{listed}: is no csv file ({error}); restore the list") from error


def find_video_classes(places: Iterable[tuple[Path, Path | None]], classes: Path | None) -> ClassList:
    """The classes by label: of a class list or labels.json, or else those of the first split that has any, sorted."""
    if classes is not None and classes.suffix.lower() == ".json":
        return _labels_json(classes)
    if classes is not None:
        return read_class_list(classes)
    places = list(places)
    for root, listed in places:
        words = sorted({video.word for video in list_videos(root, listed)} - {""})
        if any(word.isdigit() for word in words):
            raise DataError(
                f"{listed}: its labels are numbers; name a file with one class name per line as data.classes"
            )
        if words:
            return ClassList(tuple(words), tuple(words))
    raise DataError(
        f"{', '.join(str(listed or root) for root, listed in places)}: no video with a class; put the videos of each "
        "class into a folder of its own, or name a list with a class in each line"
    )


def words_of(classes: ClassList) -> dict[str, int]:
    """Labels by everything that a class may be called in a list; spaces may be written as underscores."""
    words: dict[str, int] = {}
    for names in (tuple(map(str, range(len(classes.names)))), classes.names, classes.folders):
        for label, name in enumerate(names):
            words |= {name.replace(" ", "_"): label, name: label}
    return words


def class_missing(listed: Path | None) -> str:
    """What to do about a video without a class."""
    return "move it into the folder of its class" if listed is None else f"write it behind the name in {listed.name}"


def class_hint(word: str, words: Mapping[str, int]) -> str:
    """What may have been meant by a class that there is not."""
    if word.isdigit():
        return f"numbers of classes are 0 to {max(words.values())}"
    return nearest(word, [name for name in words if not name.isdigit()])


def read_labelled_videos(
    root: Path, listed: Path | None, classes: ClassList, *, skip_missing: bool = False
) -> LabelledVideos:
    """Lists the videos of a split with their labels.

    Args:
        root: Where the videos lie.
        listed: The list; None takes the class of each video from the folder that it lies in.
        classes: What labels mean.
        skip_missing: Leave out videos whose files are not there, and say how many.

    Raises:
        DataError: There is no video, or one has no class or an unknown one, or is not there.
    """
    words, names, labels, problems, missing = words_of(classes), [], [], [], 0
    for video in list_videos(root, listed):
        if not video.word:
            problems.append(f"{video.name[:80]}: has no class; {class_missing(listed)}")
        elif video.word not in words:
            problems.append(f"{video.name}: there is no class {video.word!r}; {class_hint(video.word, words)}")
        elif not video.found:
            missing += 1
            if not skip_missing:
                problems.append(
                    f"{root / video.name}: {absence(root / video.name)}; restore it, take it out of the list, or leave "
                    f"out all that are missing: {setting('data.skip_broken', True)}"
                )
        else:
            names.append(video.name)
            labels.append(words[video.word])
    place = root if listed is None else listed
    if problems:
        raise DataError(f"{place}: {len(problems)} videos have no file or no known class", problems)
    if not names:
        raise DataError(f"{place}: no video ({', '.join(VIDEOS)})")
    if missing:
        logger.warning("%s: %d of %d videos are not in %s and left out", place, missing, missing + len(names), root)
    return LabelledVideos(root, Ragged.from_texts(names), torch.tensor(labels, dtype=torch.int64), missing)


def absence(path: Path) -> str:
    """What is there instead of a video that is not found."""
    return "is a folder, not a video" if os.path.isdir(path) else "no such video"


class _Row(NamedTuple):
    """A row of a list whose files are named by ids."""

    stems: tuple[str, ...]  # names without suffix, the likelier first
    word: str
    seconds: float | None = None


def _with_files(root: Path, rows: Iterable[_Row]) -> list[ListedVideo]:
    """Finds the file of each row wherever it lies below the root; of several, that in the folder of its class."""
    by_stem: dict[str, list[str]] = {}
    for name in list_files(root, VIDEOS):
        by_stem.setdefault(Path(name).stem, []).append(name)
    videos = []
    for row in rows:
        names = next((by_stem[stem] for stem in row.stems if stem in by_stem), [])
        folders = (row.word, row.word.replace(" ", "_"))
        name = next((one for one in names if Path(one).parent.name in folders), names[0] if names else row.stems[0])
        videos.append(ListedVideo(name, row.word, bool(names), row.seconds))
    return videos


def _named(root: Path, listed: Path) -> list[ListedVideo]:
    """A list of names and labels; absolute names have to lie below the root."""
    if listed.suffix.lower() == ".csv" and "," in (text := list_text(listed, "list of videos")):
        rows = [(row[0].strip(), row[-1].strip() if row[1:] else "") for row in csv.reader(text.splitlines()) if row]
    else:
        rows = label_rows(listed, VIDEOS)
    pairs = []
    for number, (name, word) in enumerate(rows, start=1):
        if Path(name).is_absolute() and Path(name).is_relative_to(root.absolute()):
            name = Path(name).relative_to(root.absolute()).as_posix()
        if escapes(name):
            raise DataError(
                f"{listed}: row {number}: {name!r} leads out of {root}; name videos relative to that folder"
            )
        pairs.append((name, word))
    missing = set(missing_files(root, [name for name, _ in pairs]))
    return [ListedVideo(name, word, name not in missing) for name, word in pairs]


def _kinetics(listed: Path) -> list[_Row] | None:
    """The rows of an official list of Kinetics; None of a list without its columns."""
    table = csv.DictReader(list_text(listed, "list of videos").splitlines())
    columns = {"label", "youtube_id", "time_start", "time_end"}
    if not columns <= set(table.fieldnames or ()):
        return None
    rows = []
    for number, row in enumerate(table, start=2):
        try:
            start, end = float(row["time_start"]), float(row["time_end"])
            video = row["youtube_id"]
            rows.append(_Row((f"{video}_{int(start):06d}_{int(end):06d}", video), row["label"].strip(), end - start))
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{listed}: line {number} is no row of Kinetics ({error}); restore the list") from error
    return rows


def _something_something(listed: Path) -> list[_Row]:
    """The rows of train.json or validation.json; the class is the template without its brackets."""
    records = _json(listed)
    if not isinstance(records, list):
        raise DataError(f"{listed}: is no list of records; name train.json or validation.json")
    rows = []
    for number, record in enumerate(records):
        found = record if isinstance(record, Mapping) else {}
        if not isinstance(found.get("id"), str | int) or not isinstance(found.get("template"), str):
            raise DataError(f"{listed}: record {number} has no id and template; restore the list")
        rows.append(_Row((str(found["id"]),), re.sub(r"[\[\]]", "", found["template"])))
    return rows


def _labels_json(path: Path) -> ClassList:
    """The classes of labels.json: {"Bending something so that it deforms": "4", ...}."""
    content = _json(path)
    try:
        labels = {int(label): name for name, label in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path}: does not give each class a number ({error})") from error
    if not labels or sorted(labels) != list(range(len(content))):
        raise DataError(f"{path}: its numbers must be from 0 to {len(content) - 1}, each once")
    names = tuple(labels[label] for label in range(len(labels)))
    return ClassList(names, names)


def _json(path: Path) -> Any:
    try:
        return json.loads(list_text(path, "list of videos"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON ({error}); restore it") from error
