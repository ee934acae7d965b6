"""Features of videos: clip by clip, with their times, resumable and shared as those of images."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.video_files import write_frames
from swin_dense.backbones import create_backbone
from swin_dense.config import load_config
from swin_dense.errors import ConfigError, DataError
from swin_dense.export import FeatureStore, export_features
from swin_dense.export.models import IMAGENET
from swin_dense.models.parts import view_of
from swin_dense.videos.reader import VideoFile

CLIP: dict[str, Any] = {"frames": 8, "stride": 2, "short_side": 32, "device": "cpu"}


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_backbone("swin3d_nano").eval()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips per video: 3 (the last one cut short), 1 and 2."""
    folder = tmp_path_factory.mktemp("videos")
    for name, count in (("a", 40), ("b", 10), ("c", 32)):
        write_frames(folder / f"{name}.mp4", count=count, seed=ord(name), size=(48, 64))
    return folder


def test_maps_and_means_are_those_of_the_backbone_clip_by_clip(
    tmp_path: Path, backbone: torch.nn.Module, videos: Path
) -> None:
    store = export_features(backbone, videos, tmp_path / "store", pool=True, **CLIP)
    assert [Path(path).name for path in store.paths] == [
        "a.mp4#t=0.000,0.640",
        "a.mp4#t=0.640,1.280",
        "a.mp4#t=1.280,1.600",
        "b.mp4#t=0.000,0.400",
        "c.mp4#t=0.000,0.640",
        "c.mp4#t=0.640,1.280",
    ]
    for index, name, frames in ((1, "a", range(16, 32, 2)), (2, "a", [32, 34, 36, 38, 39, 39, 39, 39])):
        video = VideoFile(videos / f"{name}.mp4")
        clip = video.read(list(frames), size=(32, 43)).as_subclass(torch.Tensor)
        with torch.inference_mode():
            expected = backbone(IMAGENET(clip).transpose(0, 1)[None])
        item = store[index]
        for spec, maps in zip(backbone.feature_specs, expected, strict=True):
            assert torch.allclose(item[spec.name], maps[0], atol=1e-5)
            assert torch.allclose(item[f"{spec.name}.pool"], maps[0].mean(dim=(1, 2, 3)), atol=1e-5)
        assert torch.allclose(item["seconds"], torch.from_numpy(video.times[list(frames)]).float())


def test_cells_lie_in_frames_rows_and_columns(tmp_path: Path, backbone: torch.nn.Module, videos: Path) -> None:
    store = export_features(backbone, videos / "b.mp4", tmp_path / "store", **CLIP)
    record = store.record(0, "stage2")
    assert record.shape == (64, 4, 4, 6) and record.stride == (2, 8, 8)
    assert record.original_size == (16, 48, 64) and record.resized_size == (8, 32, 43) and record.padding == (0, 0, 0)
    assert record.to_feature([4.0, 24.0, 32.0]).tolist() == pytest.approx([1.0, 2.0, 21.5 / 8])
    assert tuple(record.centers().shape) == (4, 4, 6, 3)
    assert record.centers()[1, 0, 0, 0] == 6.0  # frames 4 to 8 of the video


def test_an_interrupted_export_goes_on_and_several_processes_write_the_same(
    tmp_path: Path, backbone: torch.nn.Module, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**CLIP, "maps": False, "pool": True, "shard_size": 0.001}
    whole = export_features(backbone, videos, tmp_path / "whole", **options)
    monkeypatch.setattr("swin_dense.export.features.SMALLEST_BLOCK", 2)
    shared = tmp_path / "shared"
    assert not export_features(backbone, videos, shared, rank=1, world_size=2, **options).is_complete
    store = export_features(backbone, videos, shared, rank=0, world_size=2, **options)
    assert store.is_complete and store.paths == whole.paths
    part = sorted((shared / "parts").iterdir())[1]
    part.unlink()
    (shared / "manifest.parquet").unlink()
    store = export_features(backbone, videos, shared, **options)
    for one, other in zip(whole, store, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in whole.names)
    with pytest.raises(ConfigError, match="clips was"):
        export_features(backbone, videos, shared, **{**options, "stride": 3})


def test_a_broken_video_stops_or_is_listed(tmp_path: Path, backbone: torch.nn.Module, videos: Path) -> None:
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    (folder / "b.mp4").write_text("nothing")
    options = {**CLIP, "maps": False, "pool": True}
    with pytest.raises(DataError, match=r"b\.mp4: cannot be read as a video"):
        export_features(backbone, folder, tmp_path / "stopped", **options)
    store = export_features(backbone, folder, tmp_path / "store", on_error="skip", **options)
    assert len(store) == 5 and [Path(path).name for path in store.failures] == ["b.mp4"]
    assert len(FeatureStore(tmp_path / "store")) == 5


def test_with_segments_a_video_is_one_clip_spread_over_it(
    tmp_path: Path, backbone: torch.nn.Module, videos: Path
) -> None:
    store = export_features(backbone, videos, tmp_path / "store", maps=False, pool=True, segments=True, **CLIP)
    assert [Path(path).name for path in store.paths] == [
        "a.mp4#t=0.080,1.480",
        "b.mp4#t=0.000,0.360",
        "c.mp4#t=0.080,1.200",
    ]
    video = VideoFile(videos / "a.mp4")
    clip = video.read([2, 7, 12, 17, 22, 26, 31, 36], size=(32, 43)).as_subclass(torch.Tensor)
    with torch.inference_mode():
        expected = backbone(IMAGENET(clip).transpose(0, 1)[None])
    assert torch.allclose(store[0]["stage4.pool"], expected[-1][0].mean(dim=(1, 2, 3)), atol=1e-5)
    config = load_config("swin3d-b_32_ssv2", {"data.root": "."})
    assert view_of(config, resized=False) == {"frames": 32, "stride": config.data.stride, "segments": True}


def test_clips_are_of_videos_alone(tmp_path: Path, backbone: torch.nn.Module, videos: Path) -> None:
    with pytest.raises(ConfigError, match="this model takes images"):
        export_features(create_backbone("swin_nano"), videos, tmp_path / "store", frames=8)
    boxes = tmp_path / "boxes.json"
    boxes.write_text("{}")
    with pytest.raises(ConfigError, match="this model takes videos"):
        export_features(backbone, videos, tmp_path / "store", boxes=boxes, **CLIP)
