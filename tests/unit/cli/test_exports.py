"""`swin-dense export-features` and `visualize-features`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from swin_dense.cli import main
from swin_dense.export import FeatureStore

Command = Callable[..., int]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs in a folder with images of two sizes, `images/{0,1,2}.png`."""
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    for number, size in enumerate(((40, 60), (50, 30), (40, 60))):
        noise = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(f"images/{number}.png")

    def run(*words: str) -> int:
        with pytest.raises(SystemExit) as stop:
            main(("export-features", *words))
        assert isinstance(stop.value.code, int)
        return stop.value.code

    return run


NANO = ("swin_nano", "images", "--random-weights", "--output", "f")


def test_everything_at_once(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    Path("images/3.png").write_text("<html>")
    Path("boxes.json").write_text(json.dumps({"1.png": [[0, 0, 20, 30]]}))
    options = ["--stages", "2,3", "--pool", "--roi", "boxes.json", "--dtype", "bfloat16", "--size", "32x48"]
    assert command(*NANO, *options, "--on-error", "skip", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    names = ["stage2", "stage2.pool", "stage3", "stage3.pool", "stage2.roi", "stage3.roi", "boxes"]
    assert summary["features"] == names and summary["images"] == 3 and summary["complete"] is True
    assert list(summary["failures"]) == ["images/3.png"]
    item = FeatureStore("f")[1]
    assert {name: tuple(item[name].shape) for name in names} == {
        "stage2": (64, 4, 6),
        "stage2.pool": (64,),
        "stage3": (128, 2, 3),
        "stage3.pool": (128,),
        "stage2.roi": (1, 64, 7, 7),
        "stage3.roi": (1, 128, 7, 7),
        "boxes": (1, 4),
    }
    assert item["stage3"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ((), [(40, 60), (50, 30), (40, 60)]),
        (("--native",), [(40, 60), (50, 30), (40, 60)]),
        (("--short-side", "20"), [(20, 30), (33, 20), (20, 30)]),
        (("--size", "16x24"), [(16, 24)] * 3),
    ],
)
def test_images_of_a_variant_keep_their_size_unless_told(
    command: Command, options: tuple[str, ...], sizes: list[tuple[int, int]]
) -> None:
    assert command(*NANO, "--pool", "--no-maps", "--stages", "1", *options) == 0
    store = FeatureStore("f")
    assert store.names == ("stage1.pool",)
    assert [store.record(index, "stage1.pool").resized_size for index in range(3)] == sizes


def test_processes_share_the_work(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3, 12):
        Path(f"images/{number}.png").symlink_to("0.png")
    words = ("swin_nano", "images", "--random-weights", "--output", "f", "--stages", "1", "--world-size", "2")
    assert command(*words, "--rank", "1") == 0
    assert "4 images in f: stage1\nother processes are still at work" in capsys.readouterr().out
    assert command(*words, "--rank", "0") == 0
    assert capsys.readouterr().out == "12 images in f: stage1\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("swin_nano", "images", "--output", "f"), "this needs weights: pass --weights FILE, or --random-weights"),
        (("swin_nano", "images", "--output", "f", "--weights", "absent.pth"), "there is no file absent.pth"),
        ((*NANO[:1], "absent", *NANO[2:]), "no such image, folder, list or zip file\n  - absent"),
        ((*NANO, "--stages", "one"), "--stages takes numbers with commas between"),
        ((*NANO, "--size", "32"), "--size takes HEIGHTxWIDTH"),
        ((*NANO, "--native", "--short-side", "5"), "exclude each other"),
        ((*NANO, "--roi", "absent.json"), "absent.json: cannot be read"),
        ((*NANO, "--dtype", "float8"), 'unknown "float8"'),
        ((*NANO, "--device", "warp"), 'device "warp" cannot be used'),
    ],
)
def test_an_error_is_one_message_and_status_2(
    command: Command, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("error: ") and captured.out == ""
    assert not Path("f").exists()


@pytest.mark.parametrize("window", ["2", "2,", "2,3,4,5", "-1,2", "\u00b2,3"])
def test_a_window_is_a_row_and_a_column(window: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(("visualize-features", "swin_nano", "absent.png", "--output", "f", f"--window={window}"))
    assert stop.value.code == 2
    assert capsys.readouterr().err == f'error: --window takes ROW,COLUMN, for instance 2,3, not "{window}"\n'


@pytest.mark.usefixtures("command")
def test_pictures_are_computed_on_the_device_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("visualize-features", "swin_nano", "images/0.png", "--output", "f", "--random-weights", "--stage", "4")
    for device, status in (("cpu", 0), ("warp", 2)):
        with pytest.raises(SystemExit) as stop:
            main((*words, "--short-side", "32", "--device", device))
        assert stop.value.code == status
    assert capsys.readouterr().err.startswith('error: device "warp" cannot be used')
