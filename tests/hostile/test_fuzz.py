"""Some hundreds of the cases that `tools/fuzz.py` runs by the thousand, and that the fuzzer sees what it looks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile import kinds
from hostile.kinds import KINDS
from hostile.pool import Worker, run_cases

EACH = 12
"""Cases of each kind; number 0 is sound."""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as started:
        yield started


def test_cases_end_in_an_answer_or_a_clear_error(tmp_path: Path) -> None:
    summary = run_cases([(kind, 0, number) for kind in KINDS for number in range(1, EACH)], tmp_path)
    assert not summary.failures, [f"{one.kind} {one.number}: {one.message[-1500:]}" for one in summary.failures]
    assert sum(summary.cases.values()) == len(KINDS) * (EACH - 1)
    ended = sum(summary.outcomes.values(), start=type(summary.cases)())
    assert min(ended["answer"], ended["refused"]) > 50  # neither are all harmless nor is all refused


def test_sound_files_are_answered(worker: Worker) -> None:
    assert {kind: worker.run(kind, number=0).outcome for kind in KINDS} == dict.fromkeys(KINDS, "answer")


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"store", "store-parts", "weights", "run"}))
def test_a_case_is_always_the_same(kind: str, tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        kinds.prepare(kind, 3, 7, tmp_path / name)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append([(str(path.relative_to(tmp_path / name)), path.read_bytes()) for path in files])
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("code", "outcome", "message"),
    [
        ("raise KeyError('bounds')", "failure", "KeyError"),
        ("import os; os.abort()", "crash", "status -6"),
        ("\nwhile True: pass", "timeout", "processor"),
        ("x = b'x' * 300_000_000", "failure", "MB of memory"),
        ("open('../secret.png')", "failure", "no reader may"),
        ("open('../new', 'w')", "failure", "no reader may"),
        ("import os; os.rename('../secret.png', '../gone.png')", "failure", "no reader may"),
        ("import subprocess; subprocess.run(['true'])", "failure", "no reader may"),
        ("import os; os.system('touch ../owned')", "failure", "code in the case was run"),
        ("raise SystemExit(0)", "failure", "SystemExit"),
        ("import swin_dense.errors as e; raise e.DataError('what, where, what to do')", "refused", "what, where"),
        ("open('mine', 'w')", "answer", ""),
    ],
)
def test_the_fuzzer_sees(code: str, outcome: str, message: str, worker: Worker, tmp_path: Path) -> None:
    """A program stands for a reader that does what none may."""
    (tmp_path / "program.py").write_text(f"import os\nos.chdir({str(worker.case)!r})\n{code}\n")
    ended = worker.run("program", files=tmp_path, seconds=2, memory=200_000_000)
    assert ended.outcome == outcome and message in ended.message
