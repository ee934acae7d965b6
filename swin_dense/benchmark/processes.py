"""A process for each contestant: a crash, a slow compilation and the peak of memory are its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from swin_dense.benchmark.timing import Spread, take_turns
from swin_dense.errors import BenchmarkError

SPAWN = multiprocessing.get_context("spawn")


class RemoteContestant:
    """An object in a process of its own, whose methods are called one at a time.

    Asking and receiving are two steps, so that several contestants can get ready, and compile, side by side.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        """Starts the process, which calls `make(*arguments)`."""
        self._connection, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(theirs, multiprocessing.get_start_method(), make, arguments))
        self._process.start()
        self._ended = False
        theirs.close()  # so that receiving ends if the process dies

    def ask(self, method: str, *arguments: Any) -> None:
        """Has a method called; what it returns is to be received."""
        try:
            self._connection.send((method, arguments))
        except OSError as error:
            raise BenchmarkError("its process has ended") from error

    def receive(self, timeout: float | None = None) -> Any:
        """What the method has returned.

        Raises:
            BenchmarkError: It raised an error, it takes longer than `timeout` seconds, or its process has ended. The
                process is of no use then: close it.
        """
        if not self._connection.poll(timeout):
            raise BenchmarkError(f"no answer within {timeout:.0f} s")
        try:
            done, value = self._connection.recv()
        except (EOFError, OSError) as error:
            wait([self._process.sentinel], 5)
            self._end()
            raise BenchmarkError(f"its process has ended with status {self._process.exitcode}") from error
        if not done:
            raise BenchmarkError(value)
        return value

    def call(self, method: str, *arguments: Any) -> Any:
        """Asks and receives."""
        self.ask(method, *arguments)
        return self.receive()

    def close(self) -> None:
        """Ends the process and what it has started, such as the processes that compile for it."""
        self._connection.close()
        self._end()

    def _end(self) -> None:
        if self._ended:  # its number may be that of other processes now
            return
        self._ended = True
        if hasattr(os, "killpg") and self._process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()


def timed_rounds(contestants: Mapping[str, RemoteContestant], repeats: int) -> dict[str, Spread]:
    """The seconds that `round` of each returns, all in turn."""
    calls = {name: partial(one.call, "round") for name, one in contestants.items()}
    return {name: Spread.of(seconds) for name, seconds in take_turns(calls, repeats).items()}


def _serve(connection: Connection, start_method: str, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Answers until the other end is closed; `start_method` is how this process starts others, such as workers."""
    multiprocessing.set_start_method(start_method, force=True)
    if hasattr(os, "setsid"):
        os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(sys.stderr.fileno(), 1)  # stdout is for the results
    target: Any = None
    while True:
        try:
            method, values = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            target = make(*arguments) if target is None else target
            answer = True, getattr(target, method)(*values)
        except Exception as error:  # whatever a library raises is what is reported
            answer = False, " ".join(f"{type(error).__name__}: {error}".split())[:300]
        with suppress(OSError):
            connection.send(answer)


def _end_with_parent() -> None:
    """Ends this process, and what it has started, when the one that began it is gone, be it in the middle of a call."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
