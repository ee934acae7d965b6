"""Measures clips of videos per second and core: our reader beside plain PyAV and decord, clip by clip in turns.

A clip is 32 frames, every second one, from a start that is drawn, as in training on Kinetics. Each contestant opens the
file for every clip, decodes with one thread and hands out the frames in their own size. The frames are compared first.

    python tools/benchmarks/clips.py FILE ... [--clips 20] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from swin_dense.benchmark.timing import take_turns
from swin_dense.videos.clips import ClipSampling
from swin_dense.videos.reader import VideoFile

Frames = NDArray[np.uint8]
Reader = Callable[[Path, Sequence[int]], Frames]


def ours(path: Path, indices: Sequence[int]) -> Frames:
    """Frames by index, from the last key frame before each."""
    return VideoFile(path).read(indices).permute(0, 2, 3, 1).numpy()


def plain(path: Path, indices: Sequence[int]) -> Frames:
    """What one writes with PyAV: decodes from the beginning to the last frame that is wanted."""
    wanted = set(indices)
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        found = {}
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                found[index] = frame.to_ndarray(format="rgb24")
            if index == max(wanted):
                break
    return np.stack([found[index] for index in indices])


def decord(path: Path, indices: Sequence[int]) -> Frames:
    """Seeks to a frame by its number, as decord does."""
    from decord import VideoReader  # not maintained since 2021, and so no dependency

    frames: Frames = VideoReader(str(path), num_threads=1).get_batch(list(indices)).asnumpy()
    return frames


def main() -> None:
    """Prints clips per second of each contestant, by file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    readers: dict[str, Reader] = {"ours": ours, "PyAV": plain}
    if find_spec("decord"):
        readers["decord"] = decord
    results: list[dict[str, Any]] = []
    for path in options.files:
        results.append(measured(path, readers, options.clips))
        if not options.json:
            rates = "  ".join(f"{name} {rate:.2f}" for name, rate in results[-1]["clips_per_second"].items())
            print(f"{path.name}, {results[-1]['frames']} frames of {results[-1]['size']}: {rates}", flush=True)
            print("   largest difference of a value from ours:", results[-1]["differences"], flush=True)
    if options.json:
        print(json.dumps(results))


def measured(path: Path, readers: dict[str, Reader], clips: int) -> dict[str, Any]:
    """Clips per second of one file by reader, and how far their frames are from ours."""
    video, sampling = VideoFile(path), ClipSampling()
    drawn = [sampling.draw(len(video)).tolist() for _ in range(clips)]
    expected = ours(path, drawn[0]).astype(int)
    differences = {name: int(np.abs(read(path, drawn[0]) - expected).max()) for name, read in readers.items()}
    left = {name: iter(drawn) for name in readers}

    def timed(name: str) -> float:
        begin = time.perf_counter()
        readers[name](path, next(left[name]))
        return time.perf_counter() - begin

    seconds = take_turns({name: lambda name=name: timed(name) for name in readers}, clips)
    return {
        "file": path.name,
        "frames": len(video),
        "size": video.size,
        "differences": differences,
        "clips_per_second": {name: 1 / statistics.mean(seconds[name]) for name in readers},
    }


if __name__ == "__main__":
    main()
