"""Results of images that several ranks have seen, and scores of them: exchanged on any backend, and without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any, TypeVar

import torch.distributed as dist

from swin_dense.errors import DataError, SwinDenseError

T = TypeVar("T")
Scores = TypeVar("Scores")


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


def merged_on_first_rank(results: Mapping[int, T]) -> dict[int, T] | None:
    """The results of all ranks by image, on rank 0; of an image that several ranks saw, that of the first one."""
    gathered = gather_to_first_rank(results)
    if gathered is None:
        return None
    return {image_id: one for rank in reversed(gathered) for image_id, one in rank.items()}


def scored_together(
    results: Mapping[int, T], image_ids: Set[int], score: Callable[[dict[int, T]], Scores], file: str = ""
) -> Scores:
    """What rank 0 makes of the results of all ranks by image, on every rank; every rank has to call it.

    Raises:
        DataError: Not every image has been seen, or `score` raises one, on every rank.
    """
    merged = merged_on_first_rank(results)
    scores: Scores | None = None
    failure: Exception | None = None
    if merged is not None:
        try:
            if missing := sorted(image_ids - merged.keys()):
                raise DataError(
                    f"{file}{len(missing)} of {len(image_ids)} images to score were never seen, the first is "
                    f"{missing[0]}; predict on them all, or name the images to score"
                )
            scores = score(merged)
        except Exception as error:  # the other ranks wait for an answer, whatever went wrong
            failure = error
    message = None if failure is None else str(failure)
    scores, message, is_users = broadcast_from_first_rank((scores, message, isinstance(failure, SwinDenseError)))
    if failure is not None:
        raise failure
    if message is not None:
        raise DataError(message) if is_users else RuntimeError(f"scoring failed on rank 0: {message}")
    assert scores is not None
    return scores
