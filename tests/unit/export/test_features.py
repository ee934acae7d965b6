"""What is exported: the model's own maps, whatever else is in the batch, and nothing that is not asked for."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as kernels

from helpers.random_values import randomised
from swin_dense.backbones import FeatureSpec, SwinTransformer
from swin_dense.errors import ConfigError, DataError
from swin_dense.export import FeatureStore, export_features
from swin_dense.export.boxes import pool_map
from swin_dense.export.models import IMAGENET, RawImages, weights_hash


def pixels_of(path: str) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


def alone(model: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        return {spec.name: one[0] for spec, one in zip(model.feature_specs, model(pixels[None]), strict=True)}


def relative_error(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max())


def test_features_are_those_of_each_image_alone_in_batches_of_mixed_sizes(
    model: nn.Module, images: Path, tmp_path: Path
) -> None:
    store = export_features(model, images, tmp_path / "f", batch_size=4, pool=True)
    assert (
        len(store) == 10 and len({record.resized_size for record in map(store.record, range(10), ["stage1"] * 10)}) == 4
    )
    for item in store:
        for name, values in alone(model, pixels_of(item["path"])).items():
            assert item[name].dtype == torch.float32
            assert relative_error(item[name], values) < 1e-5
            assert relative_error(item[f"{name}.pool"], values.mean(dim=(1, 2))) < 1e-5


def test_a_model_of_the_caller_stays_where_it_is_and_in_its_modes(
    model: nn.Module, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the middle of a training in a notebook, on one device while another is the best."""
    part = next(iter(model.children()))
    model.train()
    part.eval()
    moves: list[torch.device] = []
    monkeypatch.setattr(model, "to", lambda device: moves.append(torch.device(device)) or model)
    export_features(model, images, tmp_path / "f", device="cpu", maps=False, pool=True)
    assert model.training and not any(one.training for one in part.modules())
    assert len(moves) > 1 and moves[-1] == next(model.parameters()).device


def test_worker_processes_that_read_change_nothing(model: nn.Module, images: Path, tmp_path: Path) -> None:
    alone = export_features(model, images, tmp_path / "alone", shard_size=0.03)
    helped = export_features(model, images, tmp_path / "helped", shard_size=0.03, num_workers=2)
    assert alone.paths == helped.paths
    for one, other in zip(alone, helped, strict=True):
        assert all(one[name].equal(other[name]) for name in alone.names)


def test_ctrl_c_does_not_end_the_processes_that_read(model: nn.Module, images: Path, tmp_path: Path) -> None:
    """Ctrl-C reaches every process of a terminal; the main process decides what becomes of the export."""
    workers = set[int]()

    def interrupting(items: Iterable[Any], total: int) -> Iterable[Any]:
        for place, item in enumerate(items):
            for worker in multiprocessing.active_children() if place else ():  # by then both have read an image
                os.kill(worker.pid or 0, signal.SIGINT)
                workers.add(worker.pid or 0)
            yield item

    store = export_features(model, images, tmp_path / "f", num_workers=2, progress=interrupting)
    assert store.is_complete and len(store) == 10 and len(workers) == 2


def test_a_plain_backbone_gets_normalised_images_of_the_size_asked_for(images: Path, tmp_path: Path) -> None:
    backbone = randomised(SwinTransformer(8, (1, 1), (1, 2), window_size=3, out_indices=(1,)))
    store = export_features(backbone, images / "3.png", tmp_path / "f", size=(30, 44))
    resized = kernels.resize(pixels_of(str(images / "3.png")), [30, 44], antialias=False).float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    with torch.inference_mode():
        (expected,) = backbone(((resized - mean) / std)[None])
    assert relative_error(store.read(0, "stage2"), expected[0]) < 1e-5
    record = store.record(0, "stage2")
    assert (record.original_size, record.resized_size, record.scale) == ((33, 50), (30, 44), (30 / 33, 44 / 50))
    assert (record.stride, record.padding, record.shape) == ((8, 8), (0, 0), (16, 4, 6))


def test_the_preprocessing_of_a_model_is_on_its_device() -> None:
    """Else a model on a GPU, which no test here has, could not take an image."""
    assert {one.device.type for one in RawImages(nn.Linear(1, 1, device="meta")).buffers()} == {"meta"}


def test_the_manifest_says_where_everything_comes_from(model: nn.Module, images: Path, tmp_path: Path) -> None:
    store = export_features(model, images, tmp_path / "f")
    record = store.record(6, "stage3")
    assert record.weights == weights_hash(model) == weights_hash(model.to(torch.device("cpu")))
    assert record.path == str(images / "6.png") and record.image == 6
    assert record.key == "00000006.stage3" and (tmp_path / "f" / record.shard).is_file()
    with torch.no_grad():
        changed = RawImages(randomised(SwinTransformer(8, (1, 2, 1), (1, 2, 4), 3, out_indices=(0, 1, 2))))
        changed.body.norm0.bias[0] += 1e-6
    assert weights_hash(changed) != weights_hash(model)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_features_are_rounded_from_float32(model: nn.Module, images: Path, tmp_path: Path, dtype: str) -> None:
    store = export_features(model, images, tmp_path / "f", dtype=dtype)
    exact = export_features(model, images, tmp_path / "exact")
    for one, other in zip(store, exact, strict=True):
        assert one["stage2"].equal(other["stage2"].to(getattr(torch, dtype)))
    assert store.record(0, "stage2").dtype == dtype


class Padding(nn.Module):
    """Pads to multiples of 16 as a detector does; its map shows how red each cell is, and -9 in the padding."""

    feature_specs = (FeatureSpec("stage1", 1, 4),)
    size_divisor = 16

    def __init__(self, pyramid: tuple[str, ...] = (), factor: float = 1.0) -> None:
        super().__init__()
        self.pyramid, self.factor = pyramid, factor

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        height, width = images.shape[-2:]
        padded = nn.functional.pad(images[:, :1].float(), (0, -width % 16, 0, -height % 16), value=-9)
        return (nn.functional.avg_pool2d(padded, 4) * self.factor,)


def test_padding_is_told_and_left_out_of_pooled_vectors(tmp_path: Path, draw: Any) -> None:
    path = draw(tmp_path / "a.png", (20, 36), 0)
    store = export_features(Padding(), path, tmp_path / "f", pool=True)
    record = store.record(0, "stage1")
    assert record.padding == (12, 12) and record.shape == (1, 8, 12)
    values = store.read(0, "stage1")
    assert values[record.inside].shape == (1, 5, 9)
    assert values[record.inside].mean().item() == pytest.approx(pixels_of(str(path))[0].float().mean().item(), rel=1e-5)
    assert store.read(0, "stage1.pool").item() == pytest.approx(values[record.inside].mean().item(), rel=1e-5)


@pytest.mark.parametrize(("pyramid", "name"), [((), "stage1.roi"), (("stage1",), "roi")])
def test_features_of_boxes_follow_the_resized_image(
    tmp_path: Path, draw: Any, pyramid: tuple[str, ...], name: str
) -> None:
    draw(tmp_path / "i" / "a.png", (40, 80), 0)
    draw(tmp_path / "i" / "b.png", (40, 80), 1)
    (tmp_path / "boxes.json").write_text(json.dumps({"a.png": [[8, 4, 64, 32], [0, 0, 20, 40]]}))
    model = Padding(pyramid)
    store = export_features(
        model, tmp_path / "i", tmp_path / "f", boxes=tmp_path / "boxes.json", short_side=80, maps=False
    )
    assert store.names == (name, "boxes")
    assert store.read(0, "boxes").tolist() == [[8, 4, 64, 32], [0, 0, 20, 40]]
    resized = kernels.resize(pixels_of(str(tmp_path / "i" / "a.png")), [80, 160], antialias=False)
    expected = pool_map(alone(model, resized)["stage1"], 2 * store.read(0, "boxes"), 4)
    assert torch.allclose(store.read(0, name), expected, atol=1e-4)
    assert store.read(1, name).shape == (0, 1, 7, 7) and store.read(1, "boxes").shape == (0, 4)


def test_a_box_outside_its_image_is_an_error_of_that_image(tmp_path: Path, draw: Any) -> None:
    draw(tmp_path / "a.png", (40, 80), 0)
    (tmp_path / "boxes.json").write_text(json.dumps({"a.png": [[0, 0, 40, 80]]}))
    with pytest.raises(DataError, match=r"a\.png: boxes outside the image, which is 80 wide and 40 high"):
        export_features(Padding(), tmp_path / "a.png", tmp_path / "f", boxes=tmp_path / "boxes.json")


def test_shards_are_bounded_and_hold_whole_images(model: nn.Module, images: Path, tmp_path: Path) -> None:
    store = export_features(model, images, tmp_path / "f", shard_size=0.03)
    bytes_of: dict[str, list[int]] = {}
    for index in range(len(store)):
        records = store.records(index).values()
        assert len({record.shard for record in records}) == 1
        size = sum(4 * torch.Size(record.shape).numel() for record in records)
        bytes_of.setdefault(next(iter(records)).shard, []).append(size)
    limit = 0.03 * 2**20
    assert len(bytes_of) > 3
    assert all(sum(sizes) <= limit or len(sizes) == 1 for sizes in bytes_of.values())
    assert {f"shards/{path.name}" for path in (tmp_path / "f/shards").iterdir()} == set(bytes_of)


@pytest.fixture
def with_broken(tmp_path: Path, draw: Any) -> Path:
    for number in range(6):
        draw(tmp_path / "i" / f"{number}.png", (20, 20), number)
    (tmp_path / "i" / "3.png").write_text("<html>")
    return tmp_path / "i"


def test_a_broken_image_stops_the_export_and_what_was_done_is_kept(
    model: nn.Module, with_broken: Path, draw: Any
) -> None:
    output = with_broken.parent / "f"
    with pytest.raises(DataError, match=r"3\.png: not an image[\s\S]*on_error=.skip"):
        export_features(model, with_broken, output, shard_size=0.001)
    left = FeatureStore(output)
    assert len(left) == 2 and not left.is_complete  # the third waits for its shard to be full
    draw(with_broken / "3.png", (20, 20), 3)
    store = export_features(model, with_broken, output, shard_size=0.001)
    assert store.is_complete and len(store) == 6


def test_a_broken_image_can_be_skipped_and_is_listed(model: nn.Module, with_broken: Path) -> None:
    store = export_features(model, with_broken, with_broken.parent / "f", on_error="skip")
    assert store.is_complete and len(store) == 5
    assert [Path(path).name for path in store.paths] == ["0.png", "1.png", "2.png", "4.png", "5.png"]
    (path, reason), *others = store.failures.items()
    assert path == str(with_broken / "3.png") and "not an image in a known format" in reason and not others


def test_images_that_are_all_broken_make_an_empty_store(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("<html>")
    store = export_features(model, tmp_path / "a.png", tmp_path / "f", on_error="skip")
    assert store.is_complete and len(store) == 0 and len(store.failures) == 1 and list(store) == []


@pytest.mark.parametrize(
    ("factor", "dtype", "message"),
    [(1e6, "float16", "too large for float16"), (float("nan"), "float32", "NaN or infinity")],
)
def test_values_that_would_be_lost_are_an_error(
    tmp_path: Path, draw: Any, factor: float, dtype: str, message: str
) -> None:
    with pytest.raises(DataError, match=rf"a\.png: stage1 .*{message}"):
        export_features(Padding(factor=factor), draw(tmp_path / "a.png", (8, 8), 0), tmp_path / "f", dtype=dtype)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float64"}, 'unknown "float64"'),
        ({"on_error": "skp"}, 'did you mean "skip"'),
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"shard_size": 0}, "shard_size > 0"),
        ({"maps": False}, "nothing to export"),
        ({"rank": 2, "world_size": 2}, "ranks go from 0 to 1"),
        ({"rank": 0}, "belong together"),
        ({"device": "gpu"}, 'device "gpu" cannot be used'),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    model: nn.Module, images: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export_features(model, images, tmp_path / "f", **options)
    assert not (tmp_path / "f").exists()


def test_a_name_instead_of_a_model_is_told_what_makes_one(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model with feature_specs; pass a backbone"):
        export_features("swin_tiny", images, tmp_path / "f")


def test_a_model_whose_maps_are_not_what_it_promises_is_refused(tmp_path: Path, draw: Any) -> None:
    model = Padding()
    model.feature_specs = (FeatureSpec("stage1", 2, 4),)
    with pytest.raises(ConfigError, match=r"stage1 has shape \(1, 1, 4, 4\); feature_specs promises \(1, 2, 4, 4\)"):
        export_features(model, draw(tmp_path / "a.png", (8, 8), 0), tmp_path / "f")
