import json
import zipfile
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from swin_dense.coco import ahead, instances
from swin_dense.coco.ahead import reading_ahead
from swin_dense.coco.instances import CocoInstances, read_instances
from swin_dense.errors import DataError
from swin_dense.records import Ragged

PERSON = {"id": 10**9, "name": "Zoë"}


@pytest.fixture
def file(scene, tmp_path, monkeypatch) -> Path:
    """A sound file, which counts as large."""
    monkeypatch.setattr(ahead, "LARGE", 0)
    rle = {"size": [100, 120], "counts": [0, 12000]}
    scene["annotations"].append(scene["annotations"][0] | {"id": 2**62, "segmentation": rle, "iscrowd": 1})
    scene["categories"].append(PERSON)
    for image in scene["images"]:
        image["file_name"] = f"{image['id']}.jpg"
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(scene))
    return path


def contents(data: CocoInstances) -> list[object]:
    values = [getattr(data, field.name) for field in fields(data)]
    tensors = [part for one in values for part in ((one.values, one.offsets) if isinstance(one, Ragged) else (one,))]
    return [(one.dtype, one.tolist()) if isinstance(one, torch.Tensor) else one for one in tensors]


def test_what_another_process_has_read_is_the_same(file, monkeypatch):
    expected, findings = read_instances(file)
    with reading_ahead(file), monkeypatch.context() as patched:
        patched.setattr(instances, "read_columns", None)
        found, same_findings = read_instances(file)
        found.boxes.add_(0)  # as memory that may be written
    assert contents(found) == contents(expected) and len(found.ids) == 4
    assert findings == same_findings == []


def test_a_file_is_handed_over_once_and_not_to_who_reads_it_otherwise(file, monkeypatch):
    reads = []
    monkeypatch.setattr(instances, "read_columns", lambda *_, **how: reads.append(how) or ({}, []))
    monkeypatch.setattr(instances, "CocoInstances", lambda **columns: columns)
    with reading_ahead(file):
        read_instances(file, need_file_names=False)
        read_instances(file.with_name("other.json"))
        read_instances(file)
        assert len(reads) == 2
        read_instances(file)
        assert len(reads) == 3
    read_instances(file)
    assert len(reads) == 4


def test_findings_and_errors_are_those_of_reading_it_here(file):
    scene = json.loads(file.read_text())
    scene["annotations"][0]["area"] = "large"
    for text in (json.dumps(scene), "[1, 2", '{"images": 3}'):
        file.write_text(text)
        answers = []
        for path in (None, file):
            with reading_ahead(path):
                try:
                    answers.append([str(one) for one in read_instances(file)[1]])
                except DataError as error:
                    answers.append(str(error))
        assert answers[0] == answers[1] != []


def test_a_member_of_a_zip_file_is_read_ahead(file, monkeypatch):
    with zipfile.ZipFile(file.with_name("all.zip"), "w") as archive:
        archive.write(file, "annotations/train.json")
    member = file.with_name("all.zip") / "annotations/train.json"
    with reading_ahead(member):
        monkeypatch.setattr(instances, "read_columns", None)
        assert read_instances(member)[0].class_names[-1] == PERSON["name"]


@pytest.mark.parametrize("raises", [True, False])
def test_no_process_is_left(file, raises):
    with pytest.raises(KeyboardInterrupt) if raises else reading_ahead(None):
        with reading_ahead(file):
            reader = ahead._readers[file]
            if raises:
                raise KeyboardInterrupt
    assert reader.poll() is not None
    assert reader.stdout.closed
    assert not ahead._readers


@pytest.mark.parametrize("name", ["instances.json", "nowhere.json", "x" * 999, None])
def test_small_files_and_none_start_no_process(file, monkeypatch, name):
    monkeypatch.setattr(ahead, "LARGE", 10**6)
    monkeypatch.setattr(ahead.subprocess, "Popen", None)
    with reading_ahead(name and file.with_name(name)):
        assert not ahead._readers


def test_the_other_process_does_without_pytorch(file, monkeypatch):
    monkeypatch.setattr(ahead, "_PROGRAM", f"import sys; sys.modules['torch'] = None; {ahead._PROGRAM}")
    with reading_ahead(file):
        monkeypatch.setattr(instances, "read_columns", None)
        assert read_instances(file)[0].class_names[-1] == PERSON["name"]
