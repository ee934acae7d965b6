"""A JSON file is read as Python's `json` reads it, whoever reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swin_dense.coco import parsing
from swin_dense.coco.parsing import read_json
from swin_dense.errors import DataError

SOUND = [
    '[{"image_id": 1, "score": 0.1, "bbox": [1, 2.5, -0, 1e-320], "segmentation": {"counts": "a\\\\b\\u00e9"}}]',
    "[18446744073709551616, -9223372036854775809, 100000000000000016777215.0, 9007199254740993]",
    '{"a": 1, "a": [true, false, null, "\\u732b\u732b"]}',
    " 7 ",
]
ODD = ["[NaN, Infinity, -Infinity, 1e999]", '["\\ud800", "a\\udc00"]']
BROKEN = ["", "[1,]", "nan", "01", '"\x01"', '{"a": 1} {', "<annotation/>", "[" * 100_000, "'text'", "[1 2]"]


@pytest.mark.parametrize("text", [*SOUND, *ODD])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_what_it_holds_is_what_json_says(text: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text.encode(encoding))
    assert repr(read_json(tmp_path / "a.json")) == repr(json.loads(text))


@pytest.mark.parametrize("text", SOUND)
def test_usual_files_are_read_the_quick_way(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = json.loads(text)
    monkeypatch.setattr(parsing, "_text", None)
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert read_json(tmp_path / "a.json") == expected


@pytest.mark.parametrize("content", [*(text.encode() for text in BROKEN), b'["\xff"]'])
def test_what_is_wrong_is_said_with_json_s_words_and_place(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises((ValueError, RecursionError)) as expected:
        json.loads(content)
    with pytest.raises(DataError, match=r"a\.json: not a JSON file \(") as error:
        read_json(tmp_path / "a.json")
    assert f"({expected.value})" in str(error.value)
