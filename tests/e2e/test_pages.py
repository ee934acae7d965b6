"""Every command of the README and of the pages in docs runs, in the page's own order."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import REPOSITORY, command
from swin_dense.backbones import create_backbone
from swin_dense.config import find_config, list_recipes, load_config
from swin_dense.data.shapes import write_shapes
from swin_dense.weights import save_weights

PAGES = {
    page.name: page.read_text() for page in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
}
SMALL = ["schedule.epochs=1", "augmentation.short_sides=[64]", "augmentation.test_short_side=64", "data.num_workers=0"]
QUICK = {
    "mask-rcnn_swin-nano_shapes": [*SMALL, "model.backbone.depths=[1, 1, 1, 1]", "training.pictures=1"],
    "mine": SMALL,
    "swin-nano_shapes": ["schedule.epochs=1", "data.num_workers=0", "training.pictures=1"],
    "upernet_swin-nano_shapes": ["schedule.steps=2", "data.num_workers=0", "training.validate_every=2"],
    "swin3d-nano_moving-shapes": ["schedule.epochs=1", "data.num_workers=0", "training.pictures=1"],
    "swin-nano_single-frames": ["schedule.epochs=1", "data.num_workers=0", "training.pictures=1"],
}
"""What makes the trainings of the pages short, by config."""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def shortened(words: list[str]) -> list[str]:
    """A command that does the same in seconds."""
    if "--resume" in words:
        return [*words[:-1], "schedule.epochs=2"]
    overrides = QUICK.get(Path(words[1]).stem, []) if words[0] == "train" else []
    return [*words, *(word for override in overrides for word in ("--set", override))]


@pytest.mark.parametrize(
    ("page", "count", "left"),
    [
        ("README.md", 20, ["outputs/predictions.json", "runs/mine/weights.safetensors"]),
        ("detection.md", 9, ["outputs/found/predictions.json", "outputs/slices/predictions.json"]),
        ("classification.md", 8, ["outputs/classified/predictions.csv", "outputs/classifier.onnx"]),
        ("reports.md", 6, ["report.html", "files.html", "data.html", "outputs/metrics/summary.csv"]),
        ("segmentation.md", 8, ["outputs/predicted/predictions.json", "runs/shapes/weights.safetensors"]),
    ],
)
def test_every_command_runs(
    page: str, count: int, left: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "data" / "shapes", train=8, val=8 if page == "classification.md" else 2)  # of all classes
    lines = [line for block in blocks(page, "sh") for line in block.strip().splitlines()]
    assert len(lines) >= count
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "swin-dense"
        assert command(*shortened(words)) == 0, line
    assert [name for name in left if not (tmp_path / name).is_file()] == []


def test_every_command_of_the_page_on_video_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two training videos and one for validation of each class."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("swin_dense.tasks.training.DEMO_VIDEOS", {"train": 2, "val": 1})
    lines = [line for block in blocks("video.md", "sh") for line in block.strip().splitlines()]
    assert len(lines) >= 9
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "swin-dense"
        assert command(*shortened(words)) == 0, line
    assert (
        Path("outputs/moving/predictions.json").is_file() and Path("runs/single-frames/weights.safetensors").is_file()
    )


def test_every_command_of_the_page_on_migration_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of a trained segmenter stand in by those of a small one."""
    monkeypatch.chdir(tmp_path)
    save_weights(create_backbone("swin_nano"), "segmenter.safetensors")
    lines = [line for block in blocks("migration.md", "sh") for line in block.strip().splitlines()]
    assert [command(*shlex.split(line)[1:]) for line in lines] == [0] * 4
    assert load_config("segmenter.py").task == "segmentation" and Path("mmseg.pth").is_file()
    assert callable(run_blocks("migration.md")["init_detector"])


def test_the_python_of_the_page_on_ablations_runs() -> None:
    assert run_blocks("ablations.md")["backbone"].depths == (2, 2, 6, 2)


def test_clips_find_themselves_as_the_page_on_video_says() -> None:
    assert run_blocks("video.md")["recall"] > 0.8


def test_every_recipe_named_exists() -> None:
    named = [
        name
        for text in PAGES.values()
        for name in re.findall(r"(?<![\w/-])([a-z][a-z-]*(?:-v2)?_(?:swin-\w+|r50|x101[\w-]*)_[\w-]+)(?![\w.])", text)
    ]
    assert len(named) > 60
    assert {name for name in named if name not in {path.stem for path in list_recipes().values()}} == set()
    assert [path for text in PAGES.values() for path in re.findall(r"configs/[\w./-]+\.py", text)] == []
    assert find_config("mask-rcnn_swin-nano_shapes").is_file()


def run_blocks(page: str, *replacements: tuple[str, str]) -> dict[str, Any]:
    """The Python of a page, in its order; each block sees what those before it have defined."""
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks(page, "python")):
        for old, new in replacements:
            block = block.replace(old, new)
        exec(compile(block, f"{page}, block {number}", "exec"), names)
    return names


def test_the_python_of_the_readme_trains_predicts_and_prints_the_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On fewer images and for one epoch."""
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "data/shapes", train=8, val=4)
    shorter = 'run="runs/first", epochs=1, **{"augmentation.short_sides": [64], "data.num_workers": 0}'
    run_blocks("README.md", ('run="runs/first"', shorter))
    assert (tmp_path / "runs/first/weights.safetensors").is_file() and (tmp_path / "found.png").is_file()
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "stage1 96 4 (1, 96, 63, 78)",
        "stage2 192 8 (1, 192, 32, 39)",
        "stage3 384 16 (1, 384, 16, 20)",
        "stage4 768 32 (1, 768, 8, 10)",
    ]


def test_a_users_own_trainer_trains_as_the_page_on_training_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small model for the published one, and two images of every epoch for all of them."""
    monkeypatch.chdir(tmp_path)
    shapes = write_shapes(tmp_path / "data/mine", train=4, val=2, size=96)
    save_weights(create_backbone("swin_nano"), "backbone.safetensors")
    shutil.copy(next(one for one in sorted(shapes.rglob("*")) if one.suffix in (".jpg", ".png")), "street.jpg")
    names = run_blocks(
        "training.md",
        ("mask-rcnn_swin-t_fpn_1x_coco", "mask-rcnn_swin-nano_shapes"),
        ("swin_tiny_patch4_window7_224.pth", "backbone.safetensors"),
        ("max_epochs=24, accumulate_grad_batches=8", "max_epochs=1, limit_train_batches=1, accelerator='cpu'"),
        ("batch_size=2", "batch_size=2, num_workers=0"),
    )
    assert set(names["module"].scores) == {"bbox", "segm"} and type(names["found"]).__name__ == "DetectionResult"


def test_the_python_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_blocks("python.md")
    assert [type(one).__name__ for one in names["several"]] == ["DetectionResult"] * 4
    assert (tmp_path / "segmented.png").is_file() and len(names["store"]) == 4
