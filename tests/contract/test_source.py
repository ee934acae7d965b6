"""Rules about the source: files that one can read, checkpoints that cannot run code, suppressions with a reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCT = [
    path for folder in ("swin_dense", "tools", "configs") for path in sorted((REPOSITORY / folder).rglob("*.py"))
]
EVERYTHING = [*PRODUCT, *sorted((REPOSITORY / "tests").rglob("*.py"))]
LONGEST = 300
"""Lines of code in a file that is read in one sitting; docstrings, comments and blank lines do not count."""

SUPPRESSION = re.compile(r"#\s*(?:noqa|type:\s*ignore|pragma)\b(?P<rest>.*)")
RULE_NAMES = re.compile(r"^[:\[\s]*[\w\-, ]*?\]?(?=\s{2}|\s\(|\s#|$)")


def test_the_files_are_found() -> None:
    assert len(PRODUCT) > 30 and Path(__file__) in EVERYTHING


def test_every_file_is_short_enough_to_be_read_in_one_go() -> None:
    lengths = {str(path.relative_to(REPOSITORY)): code_lines(path.read_text("utf-8")) for path in EVERYTHING}
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST} == {}


def test_checkpoints_are_never_loaded_as_code_nor_loosely() -> None:
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line}" for path in PRODUCT for line in unsafe_loads(path.read_text("utf-8"))
    ]
    assert wrong == []


def test_text_files_are_read_and_written_in_a_stated_encoding() -> None:
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line}"
        for path in PRODUCT
        for line in unstated_encodings(path.read_text("utf-8"))
    ]
    assert wrong == []


def test_every_suppressed_warning_states_its_reason() -> None:
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in EVERYTHING
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if path != Path(__file__) and has_bare_suppression(line)
    ]
    assert wrong == []


def test_messages_name_options_in_the_way_of_whoever_reads_them() -> None:
    """`errors.option` says `--weights` in a terminal and `weights=` in Python; a text that is written once does not."""
    package = REPOSITORY / "swin_dense"
    wrong = [
        f"{path.relative_to(package)}: {text}"
        for path in sorted(package.rglob("*.py"))
        if not {"cli", "benchmark"} & {*path.parts} and path.name != "errors.py"  # what only a terminal shows
        for text in texts(path.read_text("utf-8"))
        if re.search(r"(?<![\w-])--[a-z]", text) and not re.search(r"\b(pip|docker) ", text)
    ]
    assert wrong == []


def texts(source: str) -> Iterator[str]:
    """The text constants of a program but its docstrings."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def code_lines(source: str) -> int:
    """Lines that are neither blank, nor comments, nor part of a docstring."""
    prose: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            prose.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(
        number not in prose and bool(line.strip()) and not line.strip().startswith("#") for number, line in lines
    )


def unsafe_loads(source: str) -> Iterator[int]:
    """Lines that call `torch.load` without `weights_only=True`, or load anything with `strict=False`."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        constants = {one.arg: one.value.value for one in node.keywords if isinstance(one.value, ast.Constant)}
        loosely = "load" in name and constants.get("strict") is False
        if loosely or (name == "torch.load" and constants.get("weights_only") is not True):
            yield node.lineno


def unstated_encodings(source: str) -> Iterator[int]:
    """Lines that read or write text in whatever encoding the machine prefers."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        stated = any(one.arg == "encoding" for one in node.keywords)
        modes = [one.value for one in node.args[:1] if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        opens_text = node.func.attr == "open" and bool(modes) and set(modes[0]) <= set("rwax+")
        reads = node.func.attr == "read_text" and not node.args
        if not stated and (opens_text or reads or (node.func.attr == "write_text" and len(node.args) < 2)):
            yield node.lineno


def has_bare_suppression(line: str) -> bool:
    match = SUPPRESSION.search(line)
    return match is not None and not re.search(r"[a-z]{2,}", RULE_NAMES.sub("", match["rest"], count=1))


def test_docstrings_comments_and_blank_lines_are_no_code() -> None:
    assert (
        code_lines('"""What it is,\nand why."""\n\nx = 1\n# one\n"""Of x."""\n\ndef f():\n    """F."""\n    return x\n')
        == 3
    )


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("torch.load(path)", [1]),
        ("torch.load(path, weights_only=False)", [1]),
        ("torch.load(path, weights_only=True)", []),
        ("x = 1\nmodel.load_state_dict(state, strict=False)", [2]),
        ("model.load_state_dict(state)", []),
        ("zip(a, b, strict=False)", []),
    ],
)
def test_unsafe_loads_are_seen(source: str, lines: list[int]) -> None:
    assert list(unsafe_loads(source)) == lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("path.read_text()", [1]),
        ("path.read_text('utf-8')", []),
        ("path.write_text(text)", [1]),
        ("path.write_text(text, encoding='utf-8')", []),
        ("path.open('w')", [1]),
        ("path.open('rb')", []),
        ("Image.open(path)", []),
    ],
)
def test_unstated_encodings_are_seen(source: str, lines: list[int]) -> None:
    assert list(unstated_encodings(source)) == lines


@pytest.mark.parametrize(
    ("comment", "bare"),
    [
        ("noqa", True),
        ("noqa: F401", True),
        ("noqa: F401, N812", True),
        ("type: ignore", True),
        ("type: ignore[no-untyped-call]", True),
        ("noqa: F401  (importing it fills the registry)", False),
        ("noqa: N811 (the library's class name)", False),
        ("type: ignore[override]  # the base promises its private class", False),
    ],
)
def test_bare_suppressions_are_seen(comment: str, bare: bool) -> None:
    assert has_bare_suppression(f"import x  # {comment}") is bare
