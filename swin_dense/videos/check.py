"""Checks a whole data set of videos, all of which are decoded, and reports all that is wrong with it at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from swin_dense.errors import DataError, Finding
from swin_dense.files import sha256_of
from swin_dense.images.labelled_check import LabelledReport, Place, Split, duplicates, report_of
from swin_dense.records import Progress, in_threads
from swin_dense.videos.clips import ClipSampling
from swin_dense.videos.ends import missing_bytes
from swin_dense.videos.labelled import (
    ListedVideo,
    absence,
    class_hint,
    class_missing,
    find_video_classes,
    list_videos,
    words_of,
)
from swin_dense.videos.reader import RESTORE, Decoded, VideoError, VideoFile

TOLERANCE = 1.0
"""Seconds by which a video may be longer or shorter than its list says: cuts lie at key frames."""

UNUSABLE = ("damaged-frames", "cut-off")
"""Faults of files that can be opened which are errors: others change what is learnt by less."""

CONVERT = "convert it, or leave it as it is: no count in a header is believed"


def check_videos(
    places: Mapping[str, Place],
    classes: Path | None = None,
    *,
    sampling: ClipSampling | None = None,
    progress: Progress | None = None,
) -> dict[str, LabelledReport]:
    """Checks the videos of splits, by name, and their classes; nothing that is wrong with the data raises.

    Args:
        places: Folder, and list of the labels if there is one, of each split; the first is learnt from.
        classes: Class list or labels.json; None takes the classes of the first split.
        sampling: How clips are cut out: videos that are too short for one are reported. None asks for two frames.
        progress: Wraps the videos, to show how far it is.

    Returns:
        A report for each split.
    """
    known: dict[str, int] | None = None
    listed: list[Finding] = []
    try:
        known = words_of(find_video_classes(places.values(), classes))
    except DataError as error:
        if classes is not None:
            listed.append(Finding.of_error("class-list", classes, error))
    seen: dict[str, list[tuple[str, str]]] = defaultdict(list)  # content to split and video
    splits: dict[str, tuple[Split, list[Finding]]] = {}
    for number, (name, place) in enumerate(places.items()):
        try:
            videos = list_videos(*place)
        except DataError as error:
            split = Split(place[0], None, {}, frozenset(), [Finding.of_error("folder", place[0], error)])
            splits[name] = split, [*(listed if number == 0 else ()), *split.problems]
            continue
        problems = [*(listed if number == 0 else ()), *_check_list(place, videos, known)]
        there: dict[str, ListedVideo] = {}
        for video in videos:
            if video.found:
                there.setdefault(video.name, video)
        words = {video.name: video.word for video in there.values()}
        split = Split(place[0], None, words, frozenset(words.values()) - {""}, problems)
        problems += _check_files(name, place[0], list(there.values()), sampling, seen, progress)
        splits[name] = split, problems
    for name, finding in duplicates({name: split for name, (split, _) in splits.items()}, seen):
        splits[name][1].append(finding)
    return {
        name: report_of(places[name][1] or places[name][0], split, problems, "videos")
        for name, (split, problems) in splits.items()
    }


def _check_list(place: Place, videos: list[ListedVideo], known: dict[str, int] | None) -> Iterator[Finding]:
    """What can be told without opening a file."""
    root, listed = place
    words: dict[str, str] = {}
    if not videos:
        yield Finding("no-videos", str(listed or root), "names no video", "name the right folder or list")
    for video in videos:
        path = str(root / video.name[:1000])
        if not video.found:
            fix = "restore it, or train with data.skip_broken=True"
            yield Finding("missing-video", path, absence(root / video.name), fix)
        if not video.word:
            message = "lies in no folder of a class" if listed is None else "has no class in its list"
            yield Finding("no-class", path, message, class_missing(listed))
        elif known is not None and video.word not in known:
            fix = f"name its class as the class list does; {class_hint(video.word, known)}"
            yield Finding("unknown-class", path, f"there is no class {video.word!r}", fix)
        before = words.get(video.name)
        if before is None:
            words[video.name] = video.word
        elif known is None or not {before, video.word} <= known.keys() or known[before] == known[video.word]:
            yield Finding("listed-twice", path, f"comes twice in {listed}", "leave it in once", severity="warning")
        else:
            message = f"comes in {listed} as {before!r} and as {video.word!r}"
            yield Finding("two-classes", path, message, "leave it in with the right one")


def _check_files(
    name: str,
    root: Path,
    videos: list[ListedVideo],
    sampling: ClipSampling | None,
    seen: dict[str, list[tuple[str, str]]],
    progress: Progress | None,
) -> list[Finding]:
    """Decodes all videos, several at a time, and notes what is in each."""
    problems: list[Finding] = []
    shortest = 2 if sampling is None else sampling.length
    for video, (digest, findings) in in_threads(lambda one: _check_file(root, one, shortest), videos, progress):
        problems += findings
        if digest and video.word:
            seen[digest].append((name, video.name))
    return problems


def _check_file(root: Path, listed: ListedVideo, shortest: int) -> tuple[str, list[Finding]]:
    """What a file contains, in short, or nothing where it cannot be read; and what is wrong with it."""
    path = root / listed.name
    try:
        video = VideoFile(path)
        decoded = video.decode_strictly()
        missing = missing_bytes(path)
        digest = sha256_of(path)
    except VideoError as error:
        return "", [Finding(error.kind, str(path), error.fault, error.fix)]
    except OSError as error:
        return "", [Finding("unreadable-video", str(path), f"cannot be read ({error.strerror})", "restore the file")]
    return digest, [
        Finding(kind, str(path), message, fix, severity="error" if kind in UNUSABLE else "warning")
        for kind, message, fix in _faults(video, listed, decoded, missing, shortest)
    ]


def _faults(
    video: VideoFile, listed: ListedVideo, decoded: Decoded, missing: int, shortest: int
) -> Iterator[tuple[str, str, str]]:
    """Kind, message and fix of what is wrong with a video that can be opened."""
    if missing:
        yield "cut-off", f"lacks its last {missing:,} bytes and ends at {video.duration:.2f} s", RESTORE
    elif decoded.faults:
        place = f"frame {decoded.first} of {len(video)}, at {video.times[decoded.first]:.2f} s"
        yield "damaged-frames", f"packets with damage: {decoded.faults}, the first at {place}", RESTORE
    elif decoded.frames != len(video):
        yield "damaged-frames", f"{decoded.frames} of its {len(video)} frames can be decoded", RESTORE
    if len(video) < shortest:
        message = f"has {len(video)} of the {shortest} frames of a clip, which begins again at the first one"
        yield "too-short", message, "take it out of the list, or use a smaller stride"
    if missing:
        return  # its header claims what it had
    claimed = video.stated_frames or int(video.stated_duration * video.rate)  # as OpenCV and others count
    if claimed and claimed != len(video):
        yield "frame-count", f"claims {claimed} frames and has {len(video)}", CONVERT
    if video.stated_duration and abs(video.stated_duration - video.duration) > TOLERANCE:
        message = f"claims {video.stated_duration:.1f} seconds and has {video.duration:.1f}"
        yield "wrong-duration", message, CONVERT
    elif listed.seconds is not None and abs(listed.seconds - video.duration) > TOLERANCE:
        message = f"is {video.duration:.1f} seconds long and should be {listed.seconds:.1f} by its list"
        yield "wrong-duration", message, "cut it out of the original again"
