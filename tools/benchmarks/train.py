"""Times real training steps of a full-size Mask R-CNN Swin-T, with our backbone and with mmdet's.

Both start from the same weights and see the same batches of a COCO data set at the largest size of the official policy
(short side 800, long side up to 1333). Each runs in a process of its own, so that the peak memory is its own.

    python tools/benchmarks/train.py --data DATA/coco2017_tiny --steps 10
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "detection" / "mask-rcnn_swin-t_fpn_1x_coco.py"
MMDET_SWIN_T = {
    "type": "SwinTransformer",
    "embed_dims": 96,
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
    "drop_path_rate": 0.0,
}
WIDTHS = [96, 192, 384, 768]


def configured(data: Path, batch_size: int) -> Any:
    """The official config without crops, at one size, reading the training split."""
    from swin_dense.config import load_config

    overrides = {
        "data.root": str(data),
        "data.batch_size": batch_size,
        "data.num_workers": 0,
        "augmentation.short_sides": [800],
        "augmentation.crop_short_sides": None,
        "model.backbone.drop_path_rate": 0.0,
    }
    return load_config(CONFIG, [f"{key}={value!r}" for key, value in overrides.items()])


def steps(backbone: str, data: Path, batch_size: int, count: int, threads: int) -> dict[str, Any]:
    """Runs `count` steps and tells what they cost."""
    import torch

    from swin_dense import tasks
    from swin_dense.openmmlab.detection import OpenMMLabDetector
    from swin_dense.training.base import seeded, total_loss
    from swin_dense.training.optim import adamw
    from swin_dense.weights import load_weights

    torch.set_num_threads(threads)
    config = configured(data, batch_size)
    module = tasks.data_module(config)
    module.setup("fit")
    torch.manual_seed(0)
    peer = {**config.model, "backbone": MMDET_SWIN_T, "neck": {**config.model["neck"], "in_channels": WIDTHS}}
    detector = OpenMMLabDetector(peer, len(module.class_names))
    if backbone == "ours":
        weights = detector.network.state_dict()
        detector = OpenMMLabDetector(config.model, len(module.class_names))
        load_weights(detector.network, weights)
        del weights
    detector.train()
    optimizer = adamw(detector, **vars(config.optimizer))
    losses, seconds = [], []
    batches = iter(module.train_dataloader())
    for step in range(count):
        batch = next(batches)
        begin = time.perf_counter()
        with seeded(torch.device("cpu"), 0, 0, step, 0):
            total = total_loss(detector.losses(batch))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
        losses.append(float(total.detach()))
        print(f"{backbone}: step {step + 1} loss {losses[-1]:.3f} {seconds[-1]:.1f} s", file=sys.stderr, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"losses": losses, "seconds_per_step": statistics.median(seconds), "peak_memory_gib": peak}


def in_own_process(*arguments: Any) -> dict[str, Any]:
    """Calls `steps` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(steps, arguments)


def main() -> None:
    """Parses the command line, runs both and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of a COCO data set")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    results = {
        backbone: in_own_process(backbone, options.data, options.batch_size, options.steps, options.threads)
        for backbone in ("ours", "mmdet")
    }
    if options.json:
        print(json.dumps(results))
        return
    for backbone, result in results.items():
        print(
            f"{backbone:6} {result['seconds_per_step']:6.2f} s/step  {result['peak_memory_gib']:5.2f} GiB peak  "
            f"loss {result['losses'][0]:.3f} -> {result['losses'][-1]:.3f}"
        )
    print(f"ratio  {results['mmdet']['seconds_per_step'] / results['ours']['seconds_per_step']:.2f}x")


if __name__ == "__main__":
    main()
