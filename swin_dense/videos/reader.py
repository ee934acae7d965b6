"""Video files as uint8 RGB frames, any frame by its index, within stated memory.

PyAV reads them: its wheels bring FFmpeg along, so that pip alone installs it. What holds for every file:

Index: frame i is the i-th that is shown, i = 0, 1, ..., exactly as if all frames had been decoded one after another.
    No count in a header is believed: the packets are read, without being decoded, and their times sorted.
Time: a frame is on show from its own time until the time of the next one. Frames of a variable rate are indexed like
    any others: none is repeated and none left out.
Memory: one frame is decoded at a time, and only the frames asked for are kept, already resized.
Threads: one. Many files are read at a time, by processes or threads, and decoding holds no lock of Python's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from packaging.version import Version
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as kernels

from swin_dense.errors import DataError
from swin_dense.records import Size
from swin_dense.videos.ends import missing_bytes

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
"""Containers that are read, in FFmpeg's words; others that it knows, such as playlists, open further files."""

TIMED = ("mov", "matroska", "mpegts", "flv", "ogg")
"""Those that say of each packet when its frames are shown; others say when it is decoded."""

MAX_PIXELS = 2**25
"""Most pixels of a frame: 8K video has 33,177,600."""

MAX_FRAMES = 2**24
"""Most frames of a file: 155 hours at 30 a second."""

MAX_CLIP_BYTES = 2**31
"""Most bytes of the frames that one call may ask for: 32 frames of 4K are 796 MB."""

ANY_METADATA: dict[str, Any] = {} if Version(av.__version__) >= Version("19") else {"metadata_errors": "replace"}
"""Lets titles that are not UTF-8 pass, as PyAV 19 does by itself."""

WHILE_OPENING = Version(av.__version__) >= Version("18")
"""Whether decoders get options as a file is opened: PyAV 17, the last for Python 3.10, crashes there on MPEG files."""

RESTORE = "restore the file, or take it out of the list"
REPAIR = "restore the file, or convert it, for instance to H.264, which covers the damage up"


class VideoError(DataError):
    """A video cannot be used.

    Attributes:
        kind: "missing-video", "unreadable-video", "no-frames", "video-size", "cut-off" or "damaged-frames".
        fault: What is wrong with it.
        fix: What to do.
    """

    def __init__(self, path: Path, kind: str, fault: str, fix: str = RESTORE) -> None:
        super().__init__(f"{path}: {fault}; {fix}")
        self.kind, self.fault, self.fix = kind, fault, fix


class VideoFile:
    """One video file: its packets are read when it is opened, frames when they are asked for.

    Attributes:
        path: The file.
        times: (frames,) float64 seconds from the first frame, ascending.
        time_base: Seconds of the unit that the file counts times in.
        duration: Seconds, from the first frame to the end of the last one.
        stated_frames: Number of frames that the header claims; 0 where it claims nothing.
        stated_duration: Seconds that the header claims, likewise.

    Example:
        >>> import tempfile
        >>> from swin_dense.data.moving_shapes import write_moving_shapes
        >>> root = write_moving_shapes(Path(tempfile.mkdtemp()) / "videos", train=1, val=1, size=32)
        >>> video = VideoFile(next(root.glob("train/*/*.mp4")))
        >>> len(video), video.size, tuple(video.read([0, 5, 5]).shape)
        (24, (32, 32), (3, 3, 32, 32))
    """

    def __init__(self, path: Path | str) -> None:
        """Reads the packets of a file, which takes some milliseconds for a minute of video.

        Raises:
            VideoError: It is missing, is no video, or claims frames of more than `MAX_PIXELS`.
        """
        self.path = Path(path)
        with _opened(self.path) as (container, stream):
            self.stated_frames = stream.frames
            stated = stream.duration
            self.time_base = stream.time_base or Fraction(0)
            base = float(self.time_base)
            self.stated_duration = (stated * base if stated is not None else (container.duration or 0) / 1e6) or 0.0
            packets = _packets(self.path, container, stream)
        self._seekable = packets.stamps is not None
        self._keys = packets.keys
        self._corrupt = packets.corrupt
        if packets.stamps is None:  # some frames have no time of their own until they are decoded
            packets = self._decode_all()
        assert packets.stamps is not None
        self._stamps = packets.stamps
        self.times: NDArray[np.float64] = (self._stamps - self._stamps[0]) * base
        self.duration = float(self.times[-1]) + packets.last_duration * base

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._stamps)

    @property
    def rate(self) -> float:
        """Frames per second, on average."""
        return len(self) / self.duration

    @cached_property
    def size(self) -> Size:
        """Height and width of a frame as it is shown, turned as the file says; decodes the first frame."""
        height, width = self.read([0]).shape[-2:]
        return height, width

    def index_at(self, seconds: float) -> int:
        """The frame on show at a time from the first frame: the last one that has begun."""
        return max(0, int(np.searchsorted(self.times, seconds + 1e-6, side="right")) - 1)

    def read(
        self,
        indices: Sequence[int] | NDArray[np.int64],
        short_side: int | None = None,
        *,
        size: Size | None = None,
    ) -> tv_tensors.Video:
        """Decodes frames by their index, in any order and as often as wanted.

        Args:
            indices: T >= 1 frames, each from 0 to `len(video) - 1`.
            short_side: Pixels of the shorter side to which each frame is resized, at unchanged aspect ratio (bilinear,
                without antialiasing, as OpenCV does it); None leaves frames as they are.
            size: Height and width instead, whatever the aspect ratio was.

        Returns:
            (T, 3, H, W) uint8 RGB.

        Raises:
            VideoError: A frame cannot be decoded, or they would be more than `MAX_CLIP_BYTES` bytes.
            IndexError: There is no such frame.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"{self.path} has frames 0 to {len(self) - 1}, not {wanted.min()} to {wanted.max()}")
        clip: Tensor | None = None  # colours last, as they are decoded
        converter = VideoReformatter()
        with _opened(self.path) as (container, stream):
            for index, frame in self._decoded(container, stream, np.unique(wanted).tolist()):
                shown = _shown(frame, converter)
                if clip is None:
                    stored = shown.shape[1], shown.shape[2]
                    clip = self._room_for(len(wanted), size or _rescaled(stored, short_side))
                if shown.shape[1:] != clip.shape[1:3]:  # to be resized, or of another size than the first frame
                    shown = kernels.resize(shown, list(clip.shape[1:3]), antialias=False)
                for place in np.flatnonzero(wanted == index).tolist():
                    clip[place] = shown.permute(1, 2, 0)
        assert clip is not None
        return tv_tensors.Video(clip.permute(0, 3, 1, 2))

    def __iter__(self) -> Iterator[Tensor]:
        """Decodes all frames one after another, (3, H, W) uint8 RGB each, resized where the first has another size.

        Raises:
            VideoError: The file is cut off or damaged, which `read` passes over where decoders cover it up.
        """
        if missing := missing_bytes(self.path):
            fault = f"lacks its last {missing:,} bytes and ends at {self.duration:.2f} s"
            raise VideoError(self.path, "cut-off", fault, REPAIR)
        if self._corrupt is not None:
            raise self._damaged(self._corrupt)
        size: list[int] | None = None
        done = 0
        converter = VideoReformatter()
        with _opened(self.path) as (container, stream):
            stream.codec_context.options |= {"err_detect": "explode"}
            try:
                for _, frame in self._decoded(container, stream, range(len(self))):
                    shown = _shown(frame, converter)
                    size = size or list(shown.shape[1:])
                    yield shown if list(shown.shape[1:]) == size else kernels.resize(shown, size, antialias=False)
                    done += 1
            except av.FFmpegError as error:
                raise self._damaged(done) from error

    def _damaged(self, frame: int) -> VideoError:
        place = min(frame, len(self) - 1)
        fault = f"is damaged near frame {place} of {len(self)}, at {self.times[place]:.2f} s"
        return VideoError(self.path, "damaged-frames", fault, REPAIR)

    def decode_strictly(self) -> Decoded:
        """Decodes the file once, and counts as damage what decoders otherwise cover up with pixels of other frames."""
        frames, faults, first = 0, 0, 0
        converter = VideoReformatter()
        with _opened(self.path) as (container, stream):
            context: Any = stream.codec_context
            context.options |= {"err_detect": "explode"}
            packet: Any
            for packet in container.demux(stream):
                damaged = packet.is_corrupt
                try:
                    shown = [_shown(frame, converter) for frame in context.decode(packet if packet.size else None)]
                    frames += len(shown)
                except av.EOFError:  # the decoder was asked for its last frames before
                    break
                except av.FFmpegError:
                    damaged = True
                if damaged and not faults:
                    stamp = packet.pts if packet.pts is not None else packet.dts
                    place = frames if stamp is None else int(np.searchsorted(self._stamps, stamp))
                    first = min(place, len(self) - 1)
                faults += damaged
        return Decoded(frames, faults, first)

    def _room_for(self, frames: int, size: Size) -> Tensor:
        height, width = size
        if frames * 3 * height * width > MAX_CLIP_BYTES:
            fault = f"{frames} frames of {width} x {height} pixels are more than {MAX_CLIP_BYTES} bytes"
            raise VideoError(self.path, "video-size", fault, "ask for fewer frames, or for a smaller short side")
        return torch.empty((frames, height, width, 3), dtype=torch.uint8)

    def _decoded(
        self, container: InputContainer, stream: VideoStream, wanted: Sequence[int]
    ) -> Iterator[tuple[int, VideoFrame]]:
        """The wanted frames, ascending; what lies between two of them is jumped over where a key frame does."""
        frames: Iterator[tuple[int, VideoFrame]] = enumerate(container.decode(stream))
        position = -2  # of the frame decoded last
        for index in wanted:
            if self._seekable and self._key_before(index) > position + 1:
                frames = self._from_key_before(container, stream, index)
            position, frame = next((one for one in frames if one[0] >= index), (-1, None))
            if frame is None or position != index:
                raise VideoError(self.path, "damaged-frames", f"frame {index} of {len(self)} cannot be decoded")
            yield index, frame

    def _key_before(self, index: int) -> int:
        """Index of the last key frame that is shown no later than a frame; -1 where there is none."""
        place = int(np.searchsorted(self._keys, self._stamps[index], side="right")) - 1
        return -1 if place < 0 else int(np.searchsorted(self._stamps, self._keys[place]))

    def _from_key_before(
        self, container: InputContainer, stream: VideoStream, index: int
    ) -> Iterator[tuple[int, VideoFrame]]:
        """Decodes from a key frame that is shown no later than a frame, and gives frames with their indices.

        Containers seek by times of decoding, which are not those at which frames are shown: what is found may begin too
        late, and the key frame before it is tried.
        """
        target = int(self._stamps[index])
        for key in self._keys[self._keys <= target][::-1].tolist():
            container.seek(key, stream=stream)
            frames = container.decode(stream)
            first = next(frames, None)
            if first is not None and first.pts is not None and first.pts <= target:
                yield from self._indexed(first)
                for frame in frames:
                    yield from self._indexed(frame)
                return
        container.seek(0, stream=stream)
        for frame in container.decode(stream):
            yield from self._indexed(frame)

    def _indexed(self, frame: VideoFrame) -> Iterator[tuple[int, VideoFrame]]:
        """A frame with its index; nothing for one before the first, which only others are decoded from."""
        place = len(self) if frame.pts is None else int(np.searchsorted(self._stamps, frame.pts))
        if place < len(self) and self._stamps[place] == frame.pts:
            yield place, frame

    def _decode_all(self) -> _Packets:
        """Decodes the whole file, for the times of its frames; those without one are set between their neighbours."""
        with _opened(self.path) as (container, stream):
            step = _step(stream)
            stamps: list[int] = []
            for frame in container.decode(stream):
                follows = stamps[-1] + 1 if stamps else 0
                stamps.append(max(frame.pts, follows) if frame.pts is not None else follows + round(step) - 1)
                if len(stamps) > MAX_FRAMES:
                    raise VideoError(self.path, "video-size", f"more than {MAX_FRAMES} frames", "cut it into parts")
        if not stamps:
            raise VideoError(self.path, "no-frames", "holds no frame of video")
        return _Packets(np.array(stamps, dtype=np.int64), np.empty(0, np.int64), step)


class Decoded(NamedTuple):
    """What decoding a whole file once found."""

    frames: int  # that were decoded
    faults: int  # packets with damage
    first: int  # the frame at the first of them


class _Packets(NamedTuple):
    """What the packets of a file say."""

    stamps: NDArray[np.int64] | None  # of frames as they are shown, in units of the time base; None where unsaid
    keys: NDArray[np.int64]  # of key frames, ascending
    last_duration: float  # of the last frame
    corrupt: int | None = None  # how many frames are before the first packet that is said to be corrupt


def _packets(path: Path, container: InputContainer, stream: VideoStream) -> _Packets:
    stamps: list[int] = []
    keys: list[int] = []
    corrupt: int | None = None
    last = (-(2**63), 0)  # stamp and duration of the frame that is shown last
    complete = container.format.name.startswith(TIMED) or not stream.codec_context.has_b_frames
    packet: Any
    for packet in container.demux(stream):
        if packet.is_corrupt and corrupt is None:
            corrupt = len(stamps)
        if not packet.size or packet.is_discard or packet.is_corrupt:
            continue
        complete = complete and packet.pts is not None
        if not complete:
            break
        stamps.append(packet.pts)
        last = max(last, (packet.pts, packet.duration or 0))
        if packet.is_keyframe:
            keys.append(packet.pts)
        if len(stamps) > MAX_FRAMES:
            raise VideoError(path, "video-size", f"more than {MAX_FRAMES} frames", "cut it into parts")
    if not stamps and complete:
        raise VideoError(path, "no-frames", "holds no frame of video")
    shown = np.unique(np.array(stamps, dtype=np.int64))
    found = complete and len(shown) == len(stamps)
    return _Packets(
        shown if found else None, np.unique(np.array(keys, dtype=np.int64)), last[1] or _step(stream), corrupt
    )


def _rescaled(size: Size, short_side: int | None) -> Size:
    """Height and width at a short side, rounded down as in the official test pipeline."""
    if short_side is None:
        return size
    height, width = (short_side * side // min(size) for side in size)
    return height, width


def _step(stream: VideoStream) -> float:
    """Units of the time base from one frame to the next, by the rate that the file states; 25 a second without one."""
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    return 1 / (rate * float(stream.time_base or 1))


def _shown(frame: VideoFrame, converter: VideoReformatter) -> Tensor:
    """(3, H, W) uint8 RGB, turned as the file says.

    A frame's own converter begins threads, for which a process that is forked later waits for ever.
    """
    picture = converter.reformat(frame, format="rgb24", threads=1)
    pixels: NDArray[np.uint8] = np.asarray(picture.to_ndarray(), dtype=np.uint8)
    turns = round(frame.rotation / 90) % 4
    if turns:
        pixels = np.ascontiguousarray(np.rot90(pixels, turns))
    return torch.from_numpy(pixels).permute(2, 0, 1)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its video stream; whatever FFmpeg says to the block becomes an error that names the file."""
    _check_file(path)
    try:
        container = av.open(
            f"file:{path}",  # a plain file, whatever its name looks like
            container_options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
            options={"max_pixels": str(MAX_PIXELS)} if WHILE_OPENING else {},
            **ANY_METADATA,
        )
        with container:
            stream: Any = container.streams.best("video")
            if stream is None or "attached_pic" in str(stream.disposition):
                raise VideoError(path, "no-frames", "holds no video stream")
            context: Any = stream.codec_context
            if context is None:
                raise VideoError(
                    path, "unreadable-video", "its codec is not known", "convert it, for instance to H.264"
                )
            if context.width * context.height > MAX_PIXELS:
                fault = f"claims frames of {context.width} x {context.height} pixels, more than {MAX_PIXELS}"
                raise VideoError(path, "video-size", fault)
            context.thread_count = 1
            context.options = {"max_pixels": str(MAX_PIXELS)}  # of frames that grow later on, too
            yield container, stream
    except VideoError:
        raise
    except (av.FFmpegError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(path, "unreadable-video", f"cannot be read as a video ({reason})") from error


def _check_file(path: Path) -> None:
    """Says what is there instead of a file."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, UnicodeEncodeError, ValueError):
        if path.is_symlink():
            fault = f"a link to {os.readlink(path)}, which cannot be reached"
            raise VideoError(path, "missing-video", fault, "restore it or remove the link") from None
        raise VideoError(path, "missing-video", "no such video", "restore it, or take it out of the list") from None
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
        raise VideoError(path, "unreadable-video", fault, "check the link or the name") from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(path, "unreadable-video", "is a folder, not a video", "name a file in it")
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise VideoError(path, "unreadable-video", "not a file", "put the video file there")
    if not status.st_size:
        raise VideoError(path, "unreadable-video", "cannot be read as a video (the file is empty)")
