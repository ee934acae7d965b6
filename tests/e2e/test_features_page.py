"""Everything on docs/features.md runs, in the page's own order."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from swin_dense.backbones import create_backbone
from swin_dense.cli import main
from swin_dense.data.shapes import write_shapes
from swin_dense.export import FeatureStore
from swin_dense.weights import save_weights

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "features.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_commands_export_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "shapes", train=1, val=3)
    (tmp_path / "photos").symlink_to("shapes/images/val")
    save_weights(create_backbone("swin_tiny"), "swin_tiny_patch4_window7_224.pth")
    commands = "".join(blocks("sh")).strip().splitlines()
    assert len(commands) == 2
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "swin-dense"
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0, command
    assert [record.shape for record in FeatureStore("features/photos").records(2).values()] == [
        (96, 24, 24),
        (192, 12, 12),
        (384, 6, 6),
        (768, 3, 3),
    ]
    vectors = FeatureStore("features/vectors")[0]
    assert [(name, vectors[name].dtype) for name in vectors if name != "path"] == [
        ("stage3.pool", torch.float16),
        ("stage4.pool", torch.float16),
    ]


def test_the_python_examples_run_and_print_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each block sees what those before it have defined; the examples hold assertions of their own."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Callable[..., object]] = {}
    for number, block in enumerate(blocks("python")):
        exec(compile(block, f"docs/features.md, block {number}", "exec"), names)
    said = [tuple(map(float, pair)) for pair in re.findall(r"^This prints ([\d.]+) and ([\d.]+)\.$", PAGE, re.M)]
    printed = [tuple(map(float, re.findall(r"\d\.\d+", line))) for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(printed) == 3
    assert printed == [pytest.approx(pair, abs=0.05) for pair in said]
