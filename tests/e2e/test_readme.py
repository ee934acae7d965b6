"""Every command of the README runs, in the README's own order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from swin_dense.cli import main
from swin_dense.data.shapes import write_shapes

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text()
QUICK = ["schedule.epochs=1", "augmentation.short_sides=[64]", "augmentation.test_short_side=64", "training.pictures=1"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    write_shapes(tmp_path / "data" / "shapes", train=4, val=2)
    commands = [line for block in blocks("sh") for line in block.strip().splitlines()]
    assert len(commands) >= 9
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "swin-dense"
        if arguments[:2] == ["train", "configs/demo/mask-rcnn_swin-nano_shapes.py"]:
            arguments += [word for override in QUICK for word in ("--set", override)]
        if "--resume" in arguments:
            arguments[-1] = "schedule.epochs=2"
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0, command
    assert (tmp_path / "outputs" / "predictions.json").is_file()
    assert (tmp_path / "runs" / "mine" / "weights.safetensors").is_file()


def test_every_config_file_named_exists() -> None:
    named = re.findall(r"configs/[\w./-]+\.py", README) + [
        f"configs/{name}" for name in re.findall(r"`(detection/[\w./-]+\.py)`", README)
    ]
    assert named
    assert [name for name in named if not (REPOSITORY / name).is_file()] == []


def test_the_python_example_prints_the_maps(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [
        "stage1 96 4 (1, 96, 63, 78)",
        "stage2 192 8 (1, 192, 32, 39)",
        "stage3 384 16 (1, 384, 16, 20)",
        "stage4 768 32 (1, 768, 8, 10)",
    ]
