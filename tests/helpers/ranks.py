"""Two processes that compute together.

They are started, not forked: what has threads, as PyTorch and COCO's metrics do, may stand still in a forked process.
"""

from __future__ import annotations

import inspect
import io
import multiprocessing
import os
import runpy
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

from helpers.commands import command

Result = TypeVar("Result")


class Ended(NamedTuple):
    """How a command ended on a rank, and what it printed."""

    status: int
    out: str
    err: str


def together(*commands: Sequence[str]) -> list[Ended]:
    """Runs commands, one after the other, on both ranks; gives what became of them on the first.

    As in the processes that Lightning starts itself, the environment says which rank each is.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return _started(_commands, port, commands)[0]


def _commands(rank: int, port: int, commands: Sequence[Sequence[str]]) -> list[Ended]:
    from lightning.pytorch.utilities import rank_zero_only

    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    rank_zero_only.rank = rank  # which Lightning reads when it is imported
    torch.set_num_threads(1)
    ended = []
    for number, words in enumerate(commands):
        if number:
            dist.barrier()  # until the first rank has written what the next command reads
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            status = command(*words)
        ended.append(Ended(status, out.getvalue(), err.getvalue()))
    return ended


def on_two_ranks(work: Callable[[int], Result], store: Path) -> list[Result]:
    """What `work(rank)`, a function of a test file, returns on each rank of a gloo group that meets in a file."""
    return _started(_in_group, inspect.getfile(work), work.__name__, store)


def _in_group(rank: int, file: str, name: str, store: Path) -> Any:
    work = runpy.run_path(file)[name]  # pytest imports test files in a way that other processes cannot
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=30))
    result = work(rank)
    dist.destroy_process_group()
    return result


def _started(work: Callable[..., Any], *arguments: Any) -> list[Any]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        ranks = [processes.submit(work, rank, *arguments) for rank in range(2)]
        return [rank.result(timeout=240) for rank in ranks]
