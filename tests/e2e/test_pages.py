"""Every command of the README and of the pages in docs runs, in the page's own order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from helpers.commands import REPOSITORY, command
from swin_dense.data.shapes import write_shapes

PAGES = {
    page.name: page.read_text() for page in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
}
QUICK = {
    "mask-rcnn_swin-nano_shapes.py": [
        "schedule.epochs=1",
        "augmentation.short_sides=[64]",
        "augmentation.test_short_side=64",
        "training.pictures=1",
    ],
    "upernet_swin-nano_shapes.py": ["schedule.steps=2", "data.num_workers=0", "training.validate_every=2"],
}
"""What makes the trainings of the pages short, by config."""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def shortened(words: list[str]) -> list[str]:
    """A command that does the same in seconds."""
    if "--resume" in words:
        return [*words[:-1], "schedule.epochs=2"]
    overrides = QUICK.get(Path(words[1]).name, []) if words[0] == "train" else []
    return [*words, *(word for override in overrides for word in ("--set", override))]


@pytest.mark.parametrize(
    ("page", "count", "left"),
    [
        ("README.md", 15, ["outputs/predictions.json", "runs/mine/weights.safetensors"]),
        ("detection.md", 9, ["outputs/found/predictions.json", "outputs/slices/predictions.json"]),
        ("segmentation.md", 8, ["outputs/predicted/predictions.json", "runs/shapes/weights.safetensors"]),
    ],
)
def test_every_command_runs(
    page: str, count: int, left: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    write_shapes(tmp_path / "data" / "shapes", train=8, val=2)
    lines = [line for block in blocks(page, "sh") for line in block.strip().splitlines()]
    assert len(lines) >= count
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "swin-dense"
        assert command(*shortened(words)) == 0, line
    assert [name for name in left if not (tmp_path / name).is_file()] == []


def test_every_config_file_named_exists() -> None:
    named = [name for text in PAGES.values() for name in re.findall(r"configs/[\w./-]+\.py", text)]
    named += [
        f"configs/{folder}/{name}"
        for text in PAGES.values()
        for folder in ("detection", "segmentation")
        for name in re.findall(rf"`(?:{folder}/)?([\w-]+_(?:swin-[tsbl]|r50|x101)[\w.-]+\.py)`", text)
        if (folder == "segmentation") == name.startswith("upernet")
    ]
    assert len(named) > 40
    assert [name for name in named if not (REPOSITORY / name).is_file()] == []


def test_the_python_example_prints_the_maps(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("README.md", "python")
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [
        "stage1 96 4 (1, 96, 63, 78)",
        "stage2 192 8 (1, 192, 32, 39)",
        "stage3 384 16 (1, 384, 16, 20)",
        "stage4 768 32 (1, 768, 8, 10)",
    ]
