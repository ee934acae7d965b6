"""What predictions of every task share: no image is overwritten, none is done twice, and none stops the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from swin_dense.errors import ConfigError
from swin_dense.workflows.prediction_run import images_to_predict


def picture(path: Path, size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (255, 0, 0)).save(path)
    return path


def test_an_image_that_a_picture_would_overwrite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = picture(tmp_path / "photos" / "a.png")
    monkeypatch.chdir(tmp_path)
    for images, output, folder in [
        (tmp_path / "photos", "photos", "."),
        (photo, "photos/../photos", "."),
        (Path("photos"), str(tmp_path), "photos"),
    ]:
        with pytest.raises(ConfigError, match=r"a\.png lies where .* name another folder with --output"):
            images_to_predict([images], Path(output), folder)
    assert images_to_predict([photo], tmp_path, "labels").paths == [photo]
    assert images_to_predict([tmp_path / "photos"], tmp_path / "photos" / "out").paths == [photo]


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    photo, notes = picture(tmp_path / "a.png"), tmp_path / "notes.txt"
    notes.write_text("mine")
    for output in (notes, notes / "out"):
        with pytest.raises(ConfigError, match=r"notes\.txt is a file; name a folder with --output"):
            images_to_predict([photo], output)
