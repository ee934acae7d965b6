"""One of several gloo processes that score label maps together: `mean_iou_ranks.py RANK WORLD_SIZE STORE OUTPUT`.

They score three data sets: of seven images, of one image (which a distributed sampler hands to every rank), and of
seven of which the last rank's are missing.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from swin_dense.errors import DataError
from swin_dense.metrics import MeanIoU

IMAGE_IDS = [3, 5, 8, 13, 21, 34, 55]
NAMES = [str(number) for number in range(9)]  # the last of them never occurs


def metric_of(image_ids: list[int], handed_in: list[int]) -> MeanIoU:
    metric = MeanIoU(NAMES, image_ids, ignore_index=255)
    for image_id in handed_in:
        random = torch.Generator().manual_seed(image_id)
        truth = torch.randint(0, 8, (20, 30 + image_id), generator=random)
        noise = torch.rand(truth.shape, generator=random)
        metric.update([image_id], [torch.where(noise < 0.5, truth, truth.flip(1))], [truth.where(noise > 0.1, 255)])
    return metric


def main(rank: int, world_size: int, store: str, output: Path) -> None:
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world_size, timeout=timedelta(seconds=30))
    shares = [*IMAGE_IDS, *IMAGE_IDS[: -len(IMAGE_IDS) % world_size]]
    metric = metric_of(IMAGE_IDS, shares[rank::world_size])
    answer = {"seven": str(metric.compute()), "confusion": metric.confusion().tolist()}
    answer["one"] = str(metric_of(IMAGE_IDS[:1], IMAGE_IDS[:1]).compute())
    try:
        metric_of(IMAGE_IDS, [] if rank == world_size - 1 else IMAGE_IDS[rank::world_size]).compute()
    except DataError as error:
        answer["incomplete"] = str(error)
    output.write_text(json.dumps(answer))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
