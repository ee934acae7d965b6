"""The architecture that the code has is the one of the paper's Table 7."""

from __future__ import annotations

import json

import pytest

from helpers.commands import command
from swin_dense.stats.architecture import architecture

# Channels, heads and blocks of each stage; everything else is the same in all four columns of the table.
TABLE_7 = {
    "swin_tiny": ((96, 192, 384, 768), (3, 6, 12, 24), (2, 2, 6, 2)),
    "swin_small": ((96, 192, 384, 768), (3, 6, 12, 24), (2, 2, 18, 2)),
    "swin_base": ((128, 256, 512, 1024), (4, 8, 16, 32), (2, 2, 18, 2)),
    "swin_large": ((192, 384, 768, 1536), (6, 12, 24, 48), (2, 2, 18, 2)),
}


@pytest.mark.parametrize("variant", TABLE_7)
def test_the_architecture_is_that_of_table_7(variant: str) -> None:
    stages = architecture(variant)
    assert [stage.downsampling for stage in stages] == [4, 8, 16, 32]
    assert [stage.output for stage in stages] == [(56, 56), (28, 28), (14, 14), (7, 7)]
    assert [stage.joined for stage in stages] == [(4, 4), (2, 2), (2, 2), (2, 2)]
    assert [stage.window for stage in stages] == [(7, 7)] * 4
    assert (
        tuple(zip(*((stage.channels, stage.heads, stage.blocks) for stage in stages), strict=True)) == TABLE_7[variant]
    )


def test_the_command_prints_it_in_the_layout_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("stats", "swin_tiny", "--architecture", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["stages"][2]["output"] == [14, 14]
    row = next(line for line in captured.err.splitlines() if "14x14" in line)
    assert row.split() == "3 16x 14x14 concat 2x2, 384-d, LN [win 7x7, dim 384, head 12] x 6".split()


def test_maps_are_those_of_the_image_size_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("stats", "swin_tiny", "--architecture", "--shape", "800x1280", "--json") == 0
    assert [stage["output"] for stage in json.loads(capsys.readouterr().out)["stages"]][0] == [200, 320]


def test_that_of_videos_has_frames_before_rows_and_columns() -> None:
    first, second = architecture("swin3d_tiny")[:2]
    assert (first.output, first.joined, first.window) == ((16, 56, 56), (2, 4, 4), (8, 7, 7))
    assert (second.output, second.joined) == ((16, 28, 28), (2, 2))
