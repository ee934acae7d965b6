"""A contestant takes what it has started with it, and no signal is sent to a number that may be another's by then."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swin_dense.benchmark.processes import RemoteContestant
from swin_dense.errors import BenchmarkError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("alone", [True, False], ids=["it ends by itself", "it is ended"])
def test_no_signal_is_sent_once_it_has_been_waited_for(alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    contestant = RemoteContestant(subprocess.Popen, ["sleep", "60"])
    helper = contestant.call("__getattribute__", "pid")
    assert is_running(helper)
    if alone:
        contestant._process.kill()  # as a crash would
        with pytest.raises(BenchmarkError, match="its process has ended with status -9"):
            contestant.receive()
    else:
        contestant.close()
    until = time.monotonic() + 10
    while is_running(helper) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(helper)
    sent = []
    monkeypatch.setattr(os, "killpg", lambda *words: sent.append(words))
    contestant.close()
    assert sent == []
