"""What all commands share: errors, streams, and numbers that are typed."""

from __future__ import annotations

import errno
import gc
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from helpers.commands import REPOSITORY, command
from swin_dense import config
from swin_dense.cli.app import device_count, height_and_width, importing, whole_numbers
from swin_dense.errors import ConfigError

DEMO = str(REPOSITORY / "configs" / "demo" / "mask-rcnn_swin-nano_shapes.py")
UNBUILDABLE = ("stats", DEMO, "--shape", "64x64", "--set", "model.rpn_head.anchor_generator.scales='eight'")


def test_an_error_inside_mmdet_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*UNBUILDABLE) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: model: mmdet cannot build it")


@pytest.mark.parametrize("words", [("--debug", *UNBUILDABLE), (*UNBUILDABLE, "--debug")])
def test_debug_shows_the_traceback_of_an_error_and_its_cause(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 2
    shown = capsys.readouterr().err
    cause, direct, after = shown.partition("direct cause")
    assert direct and "anchor_generator.py" in cause, "the line of mmdet that fails"
    assert after.splitlines()[-1].startswith("error: model: mmdet cannot build it")


def test_debug_can_be_set_for_every_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, shown in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("SWIN_DENSE_DEBUG", value)
        assert command("stats", "swin_tini") == 2
        assert ("Traceback" in capsys.readouterr().err) is shown


def test_what_the_system_refuses_is_one_line_with_the_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "secret.py")

    monkeypatch.setattr(config, "list_recipes", refuse)
    assert command("configs") == 2
    assert capsys.readouterr().err == "error: secret.py: Permission denied (--debug shows where)\n"


def test_no_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("stats", "swin_nano", "--shape", "99999999x99999999") == 2
    assert re.fullmatch("error: out of memory: .*; take smaller images or .*\n", capsys.readouterr().err)


def swin_dense(*words: str, **options: object) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "swin_dense.cli", *words]
    return subprocess.Popen(program, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]  # options of Popen


def test_a_reader_that_goes_away_gets_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for words in (("configs",), ("configs", "--json"), ("--help",)):
        process = swin_dense(*words, stdout=writing)
        assert (process.communicate()[1], process.returncode) == ("", 1)
    os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_under_stdout_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        process = swin_dense("configs", "--json", stdout=full)
        error = process.communicate()[1]
    assert process.returncode == 2
    assert error.startswith("error: ") and "No space left" in error and error.count("\n") == 1


def test_a_closed_stdout_is_no_error() -> None:
    words = ["sh", "-c", '"$0" -m swin_dense.cli configs --json >&-', sys.executable]  # its path may have spaces
    closed = subprocess.run(words, capture_output=True, text=True)
    assert closed.returncode == 0
    assert "Traceback" not in closed.stderr


def test_names_in_any_script_are_printed_on_a_stdout_of_few_letters(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(REPOSITORY)}
    words = ("configs", "atss_swin-t_fpn_3x_coco", "--copy", "\u732b.py")
    process = swin_dense(*words, stdout=subprocess.PIPE, cwd=tmp_path, env=environment)
    out, error = process.communicate()
    assert (process.returncode, error) == (0, "")
    assert out.startswith("\\u732b.py written")
    assert (tmp_path / "\u732b.py").is_file()


@pytest.mark.parametrize("text", ["", ",", "1,", "1.5", "-1", "+1", "1_0", "\u00b2", "\u0663", "1" * 10, "one"])
def test_a_number_is_written_in_plain_digits(text: str) -> None:
    assert whole_numbers(text, ",") is None
    with pytest.raises(ConfigError, match="--devices takes a number"):
        device_count(text)
    with pytest.raises(ConfigError, match="--size takes HEIGHTxWIDTH"):
        height_and_width(f"{text}x10", "--size")


def test_numbers_are_read() -> None:
    assert whole_numbers("0, 12,3", ",") == [0, 12, 3]
    assert (device_count("2"), device_count("auto")) == (2, "auto")
    assert height_and_width("800x1280") == (800, 1280)


@pytest.mark.parametrize("text", ["0x10", "10x0", "10", "10x", "10x20x3", "10X20", "999999999x999999999"])
def test_a_size_has_two_sides(text: str) -> None:
    with pytest.raises(ConfigError, match="--shape takes HEIGHTxWIDTH"):
        height_and_width(text)


def test_nothing_looks_for_garbage_while_a_command_imports():
    for error in (None, ImportError):
        with pytest.raises(error) if error else nullcontext():
            with importing():
                assert not gc.isenabled()
                if error:
                    raise error
        assert gc.isenabled()
    gc.unfreeze()


@pytest.mark.parametrize("maker", ["nanobind", "pybind11_builtins"])
def test_what_a_command_leaves_to_the_system_is_not_listed_as_leaked(maker: str) -> None:
    """By Triton's bindings, since they are nanobind's; a handler that is registered first is the last to run."""
    script = f"""
import atexit, os, sys, types
attribute = type("nb_type_0", (type,), {{"__module__": {maker!r}}})("attribute", (), {{}})
sys.modules["triton._C.libtriton"] = types.SimpleNamespace(ir=types.SimpleNamespace(attribute=attribute))
atexit.register(os.write, 2, b"nanobind: leaked 64 types!")
from swin_dense.cli.app import importing
with importing():
    atexit.register(os.write, 2, b"a logger's last line; ")
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    leaked = "" if maker == "nanobind" else "nanobind: leaked 64 types!"
    assert result.stderr == "a logger's last line; " + leaked


@pytest.mark.parametrize(
    ("words", "loader"),
    [
        (("predict", DEMO, "a.jpg", "--weights", "w.pth", "--output", "out"), "load"),
        (("evaluate", DEMO, "--weights", "w.pth"), "load"),
        (("serve", DEMO, "--weights", "w.pth"), "load"),
        (("export-onnx", DEMO, "out.onnx", "--random-weights"), "parts.load_part"),
        (("export-features", "swin_nano", "a.jpg", "--output", "out", "--random-weights"), "parts.features_of"),
        (("visualize-features", "swin_nano", "a.jpg", "--output", "out", "--random-weights"), "parts.load_inspected"),
    ],
)
def test_no_command_looks_for_garbage_while_it_loads_a_model(
    words: tuple[str, ...], loader: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object, **__: object) -> None:
        raise ConfigError(f"searched: {gc.isenabled()}")

    monkeypatch.setattr(f"swin_dense.models.{loader}", load)
    assert command(*words) == 2
    assert "searched: False" in capsys.readouterr().err and gc.isenabled()
