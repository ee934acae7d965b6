"""Runs many cases in processes that are replaced when they die, and sums up how they ended."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
WALL = 180
"""Seconds after which a case that waits for something, and uses no processor, is given up."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended: "answer", "refused" (by a `SwinDenseError`), "failure", "crash" or "timeout"."""

    kind: str
    seed: int
    number: int
    outcome: str
    message: str = ""
    seconds: float = 0.0
    memory: int = 0

    @property
    def ok(self) -> bool:
        """Whether it ended as any case must."""
        return self.outcome in ("answer", "refused")


class Worker:
    """A process for cases, and the folder that it works in, beside which lies what no case may touch."""

    def __init__(self) -> None:
        self.box = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.case = self.box / "case"
        (self.box / "tmp").mkdir()
        (self.box / "secret.png").write_bytes(b"secret")
        (self.box / "secret.safetensors").write_bytes(b"secret")
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()
        shutil.rmtree(self.box, ignore_errors=True)

    def run(self, kind: str, seed: int = 0, number: int = 0, files: Path | None = None, **bounds: Any) -> Outcome:
        """Reads one case: that of a seed and a number, or some files that are copied as they are."""
        shutil.rmtree(self.case, ignore_errors=True)
        if files is None:
            self.case.mkdir()
        else:
            shutil.copytree(files, self.case)
        if self.process is None or self.process.poll() is not None:
            self._start()
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        request = {
            "kind": kind,
            "seed": seed,
            "number": number,
            "folder": str(self.case),
            "prepared": files is not None,
        }
        self.process.stdin.write(json.dumps({**request, **bounds}) + "\n")
        self.process.stdin.flush()
        ready = select.select([self.process.stdout], [], [], WALL)[0]
        reply = self.process.stdout.readline() if ready else ""
        if reply:
            return Outcome(kind, seed, number, **json.loads(reply))
        code = self._end()
        if not ready or code == -signal.SIGXCPU:
            return Outcome(kind, seed, number, "timeout", f"took too long ({'processor' if ready else 'wall'} time)")
        return Outcome(kind, seed, number, "crash", f"the interpreter ended with status {code}: {self._log()}")

    def _start(self) -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",
            "TMPDIR": str(self.box / "tmp"),
            "TORCHINDUCTOR_CACHE_DIR": str(self.box / "tmp" / "inductor"),
            "MPLCONFIGDIR": str(self.box / "tmp" / "matplotlib"),
        }
        with (self.box / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hostile.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=self.box / "tmp",
                env=environment,
            )

    def _end(self) -> int | None:
        if self.process is None:
            return None
        assert self.process.stdin is not None and self.process.stdout is not None
        if self.process.poll() is None:
            try:
                self.process.wait(timeout=1)  # one that breaks down may still be at it
            except subprocess.TimeoutExpired:
                self.process.kill()
        code = self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process = None
        return code

    def _log(self) -> str:
        return (self.box / "log.txt").read_text("utf-8", "replace")[-4000:]


@dataclass
class Summary:
    """How many cases of each kind ended how, and those that ended wrongly."""

    cases: Counter[str] = field(default_factory=Counter)
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[Outcome] = field(default_factory=list)
    slowest: float = 0.0
    most_memory: int = 0

    def add(self, outcome: Outcome) -> None:
        """Counts one."""
        self.cases[outcome.kind] += 1
        self.outcomes.setdefault(outcome.kind, Counter())[outcome.outcome] += 1
        self.slowest = max(self.slowest, outcome.seconds)
        self.most_memory = max(self.most_memory, outcome.memory)
        if not outcome.ok:
            self.failures.append(outcome)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "cases": sum(self.cases.values()),
            "failures": len(self.failures),
            "slowest_seconds": round(self.slowest, 2),
            "most_memory_mb": self.most_memory // 10**6,
            "kinds": {kind: dict(counts) for kind, counts in sorted(self.outcomes.items())},
            "failed": [
                {"kind": one.kind, "seed": one.seed, "number": one.number, "outcome": one.outcome}
                for one in self.failures
            ],
        }


def run_cases(
    cases: Iterable[tuple[str, int, int]],
    keep: Path | None = None,
    jobs: int = 1,
    progress: Callable[[Outcome], None] | None = None,
) -> Summary:
    """Runs cases of (kind, seed, number).

    Args:
        cases: All of them; `jobs` processes take every so manieth.
        keep: Folder that gets the files of every case that ended wrongly, and how in `outcome.txt`.
        jobs: Processes.
        progress: Called with each outcome.
    """
    ordered, summary = list(cases), Summary()

    def work(part: Sequence[tuple[str, int, int]]) -> None:
        with Worker() as worker:
            for case in part:
                outcome = worker.run(*case)
                summary.add(outcome)
                if progress is not None:
                    progress(outcome)
                if keep is not None and not outcome.ok:
                    target = keep / "-".join(map(str, case))
                    shutil.rmtree(target, ignore_errors=True)
                    shutil.copytree(worker.case, target / "files")
                    (target / "outcome.txt").write_text(f"{outcome.outcome}\n{outcome.message}\n", encoding="utf-8")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, (ordered[start::jobs] for start in range(jobs))))
    return summary
