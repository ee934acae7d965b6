"""Corrupted images depend on the seed and the image alone, and an evaluation that was stopped goes on."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import tv_tensors

from swin_dense.config import load_config
from swin_dense.errors import ConfigError, DataError, TrainingInterruptedError
from swin_dense.records import Sample
from swin_dense.tasks import corruptions, task_of
from swin_dense.tasks.corruptions import CORRUPTIONS, Corruption, corruption_summary, evaluate_corruptions

IMAGE = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def sample(image_id: int, image: torch.Tensor = IMAGE) -> Sample:
    return Sample(tv_tensors.Image(image), image_id, f"{image_id}.png", (40, 56))


@pytest.mark.parametrize(
    "name", sorted({*CORRUPTIONS} - {"glass_blur"})
)  # its loop takes a quarter of a minute to compile
def test_what_is_drawn_depends_on_seed_and_image_alone(name: str) -> None:
    corrupt = Corruption(name, 3, seed=1)
    first = corrupt(sample(7)).image
    torch.rand(3)
    corrupt(sample(8))
    assert first.dtype == torch.uint8 and first.shape == IMAGE.shape and not torch.equal(first, IMAGE)
    assert torch.equal(corrupt(sample(7)).image, first)


def test_the_corruptions_are_those_of_imagenet_c() -> None:
    from imagecorruptions import get_corruption_names

    assert set(CORRUPTIONS) == set(get_corruption_names("common")) and len(CORRUPTIONS) == 15


def test_small_images_are_named() -> None:
    with pytest.raises(DataError, match=r"7\.png: 56 x 20 pixels.*32 x 32"):
        Corruption("fog", 1, 0)(sample(7, IMAGE[:, :20]))


def test_the_mean_under_corruption_and_its_share_of_the_clean_score() -> None:
    scores = {"clean": {"AP": 0.5, "APl": -1.0}, "fog 1": {"AP": 0.4}, "fog 2": {"AP": 0.2}}
    scores |= {"snow 1": {"AP": 0.1}, "snow 2": {"AP": 0.1}}
    found = corruption_summary(scores, ["fog", "snow"], [1, 2])
    assert list(found) == ["AP"]
    assert found["AP"]["mPC"] == pytest.approx(0.2) and found["AP"]["rPC"] == pytest.approx(0.4)
    assert found["AP"]["corruptions"] == pytest.approx({"fog": 0.3, "snow": 0.1})


def test_an_evaluation_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("swin-nano_shapes")
    done: list[Any] = []

    def evaluate(*_: Any, corruption: Corruption | None, **options: Any) -> dict[str, Any]:
        if len(done) == 2:
            done.append("stopped")
            raise KeyboardInterrupt
        if len(done) == 4:  # and is swallowed
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        done.append(corruption)
        return {"top1": 0.5 if corruption is None else 0.1 * corruption.severity, "per_class": {}}

    monkeypatch.setattr(corruptions, "evaluate_module", evaluate)
    arguments: Any = (task_of(config), config, torch.nn.Linear(2, 2), ("a", "b"), tmp_path)
    options: Any = {"names": ["fog"], "severities": [1, 2, 3]}
    for count in (2, 4):
        with pytest.raises(TrainingInterruptedError, match=f"after {count} of 4 evaluations.*the same command goes on"):
            evaluate_corruptions(*arguments, **options)
    found = evaluate_corruptions(*arguments, **options)
    assert found["top1"]["mPC"] == pytest.approx(0.2)
    assert [one for one in done if one != "stopped"] == [None, *(Corruption("fog", level, 0) for level in (1, 2, 3))]
    with pytest.raises(ConfigError, match="another model, config or seed"):
        evaluate_corruptions(*arguments, **options, seed=1)
