"""`swin-dense configs` lists the recipes and copies one, but never over a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.commands import answer, command
from swin_dense.config import list_recipes, load_config


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_recipe_is_listed_with_a_line_and_its_whole_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("configs") == 0
    printed = capsys.readouterr().out
    assert all(path.stem in printed for path in list_recipes().values())
    listed = answer(capsys, "configs", "--json")
    assert list(listed) == list(list_recipes()) and all(listed.values())


def test_a_word_chooses_among_them_in_any_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("configs", "Segmentation/UperNet_swin-t", "--json") == 0
    names = ["segmentation/upernet_swin-t_512_160k_ade20k", "segmentation/upernet_swin-t_640_160k_ade20k"]
    assert list(json.loads(capsys.readouterr().out)) == names


def test_a_copy_needs_no_other_file_and_reads_to_the_same_value(capsys: pytest.CaptureFixture[str]) -> None:
    name = "mask-rcnn_swin-t_fpn_1x_coco"
    assert command("configs", name, "--copy", "mine.py") == 0
    assert "swin-dense train mine.py" in capsys.readouterr().out
    assert "_base_" not in Path("mine.py").read_text()
    assert load_config("mine.py") == load_config(name)
    assert command("configs", name, "--copy") == 0
    assert sorted(path.name for path in Path().iterdir()) == [f"{name}.py", "mine.py"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("atss_swin-t_fpn_3x_coco", "--copy", "there.py"), "there.py exists; name another file"),
        (("atss_swin-t_fpn_3x_coco", "--copy", "no/such.py"), "no/such.py cannot be written: No such file"),
        (("atss_swin-t", "--copy"), "did you mean atss_swin-t_fpn_3x_coco"),
        (("--copy",), "name the recipe to copy"),
        (("atss", "mine.py"), "mine.py: a file is only written with --copy"),
        (("yolo",), 'no recipe has "yolo" in its name'),
    ],
)
def test_a_wrong_use_is_an_error_and_writes_nothing(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.py").write_text("mine")
    assert command("configs", *words) == 2
    assert message in capsys.readouterr().err
    assert [path.read_text() for path in Path().iterdir()] == ["mine"]
