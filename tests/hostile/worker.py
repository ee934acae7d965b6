"""A process that reads cases, one line of JSON for each, within bounds of time and memory, and watched.

`python -m hostile.worker` gets {"kind", "seed", "number", "folder"} on stdin, prepares the case in the empty folder
(unless "prepared" is true), reads it, and says on stdout how that ended. A case that takes too much processor time, or
breaks the interpreter, ends the process; whoever started it sees the signal.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from hostile import kinds

SECONDS = 20
MEMORY = 1_500_000_000
MOST_ADDRESSES = 4_000_000_000
"""Bytes that a process may ask for beside what it starts with, so that no case endangers the machine."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
RUNNING = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "pty.spawn"}
CHANGING = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}


class Watch:
    """Notes what a case does that no reader may do: run something, write elsewhere, read beside its folder."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.confined = True
        self.seen: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in RUNNING:
            self.seen.append(f"{event}{arguments!r}"[:500])
        elif event == "open" and not isinstance(arguments[0], int):
            path, _, flags = arguments
            if self._is_wrong(path, bool(flags & WRITING)):
                self.seen.append(f"open{arguments!r}"[:500])
        elif event in CHANGING:
            paths = [one for one in arguments if isinstance(one, str | bytes | os.PathLike)]
            folders = [one for one in arguments if isinstance(one, int) and one >= 0]  # what the paths are relative to
            if folders and event in ("os.remove", "os.rmdir"):
                paths = [os.path.join(os.readlink(f"/proc/self/fd/{folders[-1]}"), path) for path in paths]
            if any(self._is_wrong(path, True) for path in paths):
                self.seen.append(f"{event}{arguments!r}"[:500])

    def _is_wrong(self, path: Any, writes: bool) -> bool:
        """Everything beside the folder is out of bounds; beyond that, reading is free (the interpreter does it)."""
        assert self.folder is not None
        try:
            real = os.path.realpath(os.fsdecode(path))
        except (ValueError, TypeError):
            return False
        beside = os.path.dirname(self.folder)
        free = (self.folder, os.path.join(beside, "tmp"))
        if any(real == one or real.startswith(one + os.sep) for one in free):
            return False
        return (writes and not real.startswith("/dev/")) or (self.confined and real.startswith(beside + os.sep))


def peak() -> int:
    """Most bytes of memory that this process has had since `reset_peak`, or ever where the system cannot forget it."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak() -> int:
    """Forgets the peak, so that the next one is that of a case; the memory in use now."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def run_case(request: dict[str, Any], watch: Watch) -> dict[str, Any]:
    """Reads one case and says how it ended: "answer", "refused", or "failure" and why."""
    from swin_dense.errors import SwinDenseError

    folder = Path(request["folder"])
    if not request.get("prepared"):
        kinds.prepare(request["kind"], request["seed"], request["number"], folder)
    seconds = request.get("seconds", SECONDS)
    before, start = reset_peak(), time.process_time()
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(start + seconds) + 1, hard))
    watch.confined, watch.seen = kinds.of_name(request["kind"]).confined, []
    watch.folder = os.path.realpath(folder)
    outcome, message = "answer", ""
    try:
        kinds.read(request["kind"], folder)
    except SwinDenseError as error:
        outcome, message = "refused", str(error)
    except BaseException as error:  # SystemExit too: no reader may end the program
        watch.folder = None
        outcome, message = "failure", "".join(traceback.format_exception(error))[-6000:]
    watch.folder = None
    os.chdir(folder.parent / "tmp")
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    used = peak() - before
    if used > request.get("memory", MEMORY):
        outcome, message = "failure", f"took {used // 10**6} MB of memory ({outcome}: {message})"
    if watch.seen:
        outcome, message = "failure", f"did what no reader may: {watch.seen[:5]}"
    owned = folder.parent / "owned"
    if owned.exists():
        owned.unlink()
        outcome, message = "failure", "code in the case was run"
    message = message.encode("utf-8", "backslashreplace").decode()
    return {"outcome": outcome, "message": message, "seconds": time.process_time() - start, "memory": used}


def main() -> None:
    """Reads requests until stdin ends; what the readers print goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import matplotlib.font_manager  # noqa: F401 (asks a program for the fonts, once)
    import torch  # noqa: F401 (its own memory must not count as that of a case)

    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MOST_ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    watch = Watch()
    for line in sys.stdin:
        reply = run_case(json.loads(line), watch)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
