"""What predictions of every task share: no image is overwritten, none is done twice, and none stops the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from swin_dense.errors import ConfigError, DataError
from swin_dense.images.finder import ImageFiles
from swin_dense.tasks.prediction import PredictionRun, images_to_predict


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
        with pytest.raises(ConfigError, match=r"a\.png lies where .* name another folder: output=.FOLDER"):
            images_to_predict([images], Path(output), folder)
    assert images_to_predict([photo], tmp_path, "labels").paths == [photo]
    assert images_to_predict([tmp_path / "photos"], tmp_path / "photos" / "out").paths == [photo]


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    photo, notes = picture(tmp_path / "a.png"), tmp_path / "notes.txt"
    notes.write_text("mine")
    for output in (notes, notes / "out"):
        with pytest.raises(ConfigError, match=r"notes\.txt is a file; name a folder to write to"):
            images_to_predict([photo], output)


def predict(paths: list[Path], output: Path, num_workers: int = 0, **options: int) -> list[tuple[int, ...]]:
    """Finds the height of every image, and returns the ids in batches."""
    run = PredictionRun(ImageFiles(paths), output, {"weights": 1, **options})
    batches = []
    for batch in run.batches(2, num_workers):
        batches.append(batch.image_ids)
        for image_id, size in zip(batch.image_ids, batch.sizes, strict=True):
            run.add(image_id, [{"height": size[0]}])
    run.finish()
    return batches


def heights(output: Path) -> list[tuple[int, str, int]]:
    rows = json.loads((output / "predictions.json").read_text())
    return [(row["image_id"], Path(row["file_name"]).name, row["height"]) for row in rows]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Five images of different sizes, of which the second is damaged and the last two are nothing."""
    paths = [picture(tmp_path / "photos" / f"{name}.png", (6, 4 + i)) for i, name in enumerate("abcde")]
    paths[1].write_bytes(paths[1].read_bytes()[:-30])
    for path in paths[3:]:
        path.write_text("<html>")
    return paths


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_that_cannot_be_read_stops_no_other(photos: list[Path], tmp_path: Path, num_workers: int) -> None:
    output = tmp_path / "out"
    with pytest.raises(DataError, match="3 of 5 files could not be read") as error:
        predict(photos, output, num_workers)
    assert heights(output) == [(0, "a.png", 4), (2, "c.png", 6)]
    summary, *reasons = str(error.value).splitlines()
    assert str(output / "predictions.json") in summary
    for path, reason in zip((photos[1], photos[3], photos[4]), reasons, strict=True):
        assert reason.startswith(f"  - {path}: ")
    assert "cannot be decoded" in reasons[0] and "not an image" in reasons[1]


def test_images_that_are_fixed_removed_or_added_leave_the_others_done(
    photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    with pytest.raises(DataError):
        predict(photos, output)
    before, fixed = picture(tmp_path / "photos" / "0.png", (6, 90)), picture(photos[3], (6, 70))
    capsys.readouterr()
    assert predict([before, photos[0], photos[2], fixed], output) == [(0, 3)]
    assert "2 of 4 files were done before" in capsys.readouterr().err
    assert heights(output) == [(0, "0.png", 90), (1, "a.png", 4), (2, "c.png", 6), (3, "d.png", 70)]
    assert [path.name for path in output.iterdir()] == ["predictions.json"]


def test_an_image_that_has_changed_or_whose_results_are_named_otherwise_is_done_again(
    photos: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError):
        predict(photos, tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    assert predict([photos[2], picture(tmp_path / "other" / "a.png"), photos[0]], tmp_path / "copy") == [(0, 1), (2,)]
    picture(photos[0], (6, 60))
    assert predict([photos[0], photos[2]], tmp_path / "out") == [(0,)]


def test_other_options_are_another_prediction(photos: list[Path], tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(DataError):
            predict(photos, tmp_path / "out")
    assert predict([photos[0]], tmp_path / "out", score_threshold=2) == [(0,)]
