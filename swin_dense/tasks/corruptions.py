"""Scores on corrupted images: the 15 corruptions of ImageNet-C at 5 severities (Hendrycks and Dietterich, 2019).

The images are corrupted by `imagecorruptions-imaug`, the published functions for images of any size (Michaelis et al.,
2019, which also names the mean performance under corruption, mPC, and the relative one, rPC).
"""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from zlib import crc32

import numpy as np
import torch
from torchvision import tv_tensors

from swin_dense.config import Config, config_text
from swin_dense.errors import ConfigError, DataError, InstallationError, TrainingInterruptedError
from swin_dense.files import check_output_folder
from swin_dense.isolation import seeded
from swin_dense.records import Sample
from swin_dense.tasks.base import Task
from swin_dense.tasks.evaluation import evaluate_module
from swin_dense.tasks.run_folder import is_first_process, write_json
from swin_dense.training.base import metrics

CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
"""Those of ImageNet-C: noise, blur, weather, digital."""

SEVERITIES = (1, 2, 3, 4, 5)

OWN_GENERATOR = ("impulse_noise", "glass_blur")
"""Corruptions that draw from a generator of their own, which takes a seed."""

LEAST_SIDE = 32
"""Pixels that the functions need."""


@dataclass(frozen=True)
class Corruption:
    """One corruption of images at one severity; what is drawn depends on (seed, corruption, severity, image) alone."""

    name: str
    severity: int
    seed: int

    def __call__(self, sample: Sample) -> Sample:
        """The sample with its image corrupted."""
        corrupt = _library()
        pixels = sample.image
        if pixels.ndim != 3:
            raise ConfigError("corruptions are of images, and these are videos")
        if min(sample.size) < LEAST_SIDE:
            raise DataError(
                f"{sample.file_name}: {sample.size[1]} x {sample.size[0]} pixels, and corruptions need {LEAST_SIDE} x "
                f"{LEAST_SIDE}; leave it out of the validation images, or enlarge it"
            )
        place = (self.seed, crc32(self.name.encode()), self.severity, sample.image_id)
        own = int(np.random.SeedSequence(place).generate_state(1)[0]) >> 1
        options = {"seed": own} if self.name in OWN_GENERATOR else {}
        with seeded(*place):
            image = np.ascontiguousarray(pixels.numpy().transpose(1, 2, 0))
            found = corrupt(image, severity=self.severity, corruption_name=self.name, **options)
        return replace(sample, image=tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(found.transpose(2, 0, 1)))))


def _library() -> Any:
    try:
        from imagecorruptions import corrupt
    except ImportError as error:
        raise InstallationError(
            f"corruptions need imagecorruptions-imaug ({error}): install swin-dense[corruptions]"
        ) from error
    return corrupt


def evaluate_corruptions(
    task: Task[Any],
    config: Config,
    model: Any,
    class_names: Sequence[str],
    folder: Path,
    *,
    names: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Scores a model on the validation images of its config as they are, and corrupted in every way.

    Args:
        task: Of the config.
        config: Names the data.
        model: The detector, segmenter or classifier.
        class_names: What it was trained on.
        folder: Gets `corruptions.json` after each evaluation; what is in it already is not computed again.
        names: Of `CORRUPTIONS`.
        severities: 1 to 5.
        seed: What is drawn at random derives from it.
        **options: Of `evaluate_module`.

    Returns:
        By metric its value on "clean" images, "mPC" (the mean over corruptions and severities), "rPC" (mPC / clean),
        and by corruption the mean over the severities.

    Raises:
        ConfigError: The folder holds scores of another model, config or seed.
        TrainingInterruptedError: Ctrl+C; what is scored by then is kept.
    """
    _library()
    check_output_folder(folder)
    path = folder / "corruptions.json"
    known = {"config": config_text(config), "weights": _fingerprint(model), "seed": seed}
    scores: dict[str, dict[str, float]] = {}
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        if {key: content.get(key) for key in known} != known:
            raise ConfigError(f"{path} holds scores of another model, config or seed; name another folder")
        scores = content["scores"]
    evaluate = partial(evaluate_module, task, config, model, class_names, **options)
    wanted = [(name, severity) for name in names for severity in severities]
    cells = {"clean": None} | {f"{one[0]} {one[1]}": Corruption(*one, seed) for one in wanted}
    try:
        with _noting_interrupts() as interrupts:
            for key in [key for key in cells if key not in scores]:
                scores[key] = dict(metrics(evaluate(corruption=cells[key])))
                if is_first_process():
                    write_json(path, {**known, "scores": scores})
                if interrupts:
                    raise KeyboardInterrupt
    except (KeyboardInterrupt, SystemExit, SystemError) as error:  # Lightning and Numba make the others of the first
        if isinstance(error, SystemError) and not interrupts:
            raise
        done = sum(key in scores for key in cells)
        message = f"stopped after {done} of {len(cells)} evaluations, which {path} keeps; the same command goes on"
        raise TrainingInterruptedError(message) from error
    return corruption_summary(scores, names, severities)


@contextmanager
def _noting_interrupts() -> Iterator[list[int]]:
    """Takes note of every Ctrl+C: some are lost in Numba's compiler, which one of the corruptions needs."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> NoReturn:
        noted.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # no other may set handlers
        yield noted
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)  # None where it was set outside Python


def corruption_summary(
    scores: Mapping[str, Mapping[str, float]], names: Sequence[str], severities: Sequence[int]
) -> dict[str, Any]:
    """Per metric, of its values by "clean" and "NAME SEVERITY"; metrics that there are none of (-1) are left out."""
    summary: dict[str, Any] = {}
    for metric, clean in scores["clean"].items():
        if clean < 0 or math.isnan(clean):
            continue
        by_name = {name: _mean([scores[f"{name} {one}"][metric] for one in severities]) for name in names}
        mean = _mean(list(by_name.values()))
        relative = mean / clean if clean else float("nan")
        summary[metric] = {"clean": clean, "mPC": mean, "rPC": relative, "corruptions": by_name}
    return summary


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _fingerprint(model: Any) -> int:
    """Of all weights."""
    found = 0
    for tensor in model.state_dict().values():
        found = crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(), found)
    return found
