"""Exchange of Python objects between ranks, on any backend and without one."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def is_distributed() -> bool:
    """Whether several ranks work together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_to_first_rank(value: T) -> list[T] | None:
    """The picklable objects of all ranks, in their order, on rank 0; None on the others. Every rank has to call it.

    Over NCCL the pickled bytes travel through the rank's current CUDA device, so that `torch.cuda.set_device` must have
    been called, as every launcher's recipe and Lightning do.
    """
    if not is_distributed():
        return [value]
    gathered: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, gathered, dst=0)
    return gathered


def broadcast_from_first_rank(value: T | None) -> T:
    """Rank 0's picklable object, on every rank; every rank has to call it."""
    box: list[Any] = [value]
    if is_distributed():
        dist.broadcast_object_list(box, src=0)
    received: T = box[0]
    return received
