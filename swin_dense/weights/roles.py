"""What a tensor of a backbone is for: the reasons why one side may lack it."""

from __future__ import annotations

import re

BUFFER = re.compile(r"layers\.\d+\.blocks\.\d+\.(attn\.relative_position_index|attn_mask)")
OUTPUT_NORM = re.compile(r"(norm\d+)\.(weight|bias)")

SETTING = "bbox_head.mask_head.head.sizes_of_interest"
"""A buffer of Mask RepPoints V2 that holds what its config says."""

OTHER_TASKS = {
    "head": "head of a classifier",
    "classifier": "head of a classifier",
    "fc": "head of a classifier",
    "norm": "last norm of a classifier",
    "decoder": "decoder of masked pre-training",
    "mask_token": "mask token of masked pre-training",
}
"""What other tasks put on a backbone, by the first word of its name."""

BESIDE = ("head", "classifier", "fc", "decoder")
"""Those that may also stand beside the backbone."""
