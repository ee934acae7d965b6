"""The benchmark of backbones: its cells, what it counts, and a run on the CPU at a tiny size."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from unittest.mock import MagicMock

import pytest
import torch

from helpers.commands import command
from swin_dense.backbones import VARIANTS, create_backbone
from swin_dense.benchmark import backbone, peers
from swin_dense.benchmark.backbone import BackboneSettings, benchmark_backbone
from swin_dense.benchmark.peers import build, checked_size, difference, installed_peers, products
from swin_dense.benchmark.processes import RemoteContestant
from swin_dense.errors import BenchmarkError, ConfigError
from swin_dense.stats import count_macs

TIMES = {"median_ms", "lowest_ms", "highest_ms", "images_per_second", "tflops", "first_call_seconds"}


def test_cells_come_in_order_of_importance() -> None:
    settings = BackboneSettings(
        variants=["swin_tiny", "swin_base"], shapes=["8x224x224"], precisions=["bf16"], compile=True
    )
    order = [(cell.variant, cell.mode, cell.compiled) for cell in settings.cells()]
    assert order[0] == ("swin_tiny", "inference", False)
    assert set(order[1:3]) == {("swin_tiny", "training", False), ("swin_base", "inference", False)}
    assert set(order[3:5]) == {("swin_base", "training", False), ("swin_tiny", "inference", True)}
    assert order[-1] == ("swin_base", "training", True) and len(order) == 8


@pytest.mark.parametrize("size", [(224, 224), (799, 1201), (32, 224, 224), (7, 100, 301)])
def test_products_are_those_of_the_backbone(size: tuple[int, ...]) -> None:
    variant = "swin_tiny" if len(size) == 2 else "swin3d_tiny"
    with torch.device("meta"):
        backbone, images = create_backbone(variant), torch.empty(1, 3, *size)
    counted = count_macs(backbone, lambda model: model(images)).total
    assert sum(math.prod(one) for one in products(VARIANTS[variant], 1, size)) == counted


def test_clips_are_measured_beside_torchvision_alone() -> None:
    settings = BackboneSettings(variants=["swin3d_tiny", "swin_tiny"], shapes=["1x32x224x224", "8x224x224"])
    assert {(cell.variant, cell.shape) for cell in settings.cells()} == {
        ("swin3d_tiny", "1x32x224x224"),
        ("swin_tiny", "8x224x224"),
    }
    with pytest.raises(ConfigError, match="swin3d_tiny takes CLIPSxFRAMESxHEIGHTxWIDTH, for instance 1x32x224x224"):
        BackboneSettings(variants=["swin3d_tiny"])
    peer = build("torchvision", "swin3d_nano", [(16, 64, 64)])
    assert difference(peer, "swin3d_nano", torch.device("cpu")) < 1e-5
    with pytest.raises(ConfigError, match="timm has no Swin of videos"):
        build("timm", "swin3d_nano", [(16, 64, 64)])


@pytest.mark.parametrize("option", [{"variants": ["swin_tinny"]}, {"shapes": ["224x224"]}, {"precisions": ["int8"]}])
def test_what_there_is_not_is_refused(option: dict[str, list[str]]) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        BackboneSettings(**option)


def test_what_no_peer_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="no peer has swin_mlp_base"):
        BackboneSettings(variants=["swin_mlp_base"])


@pytest.mark.parametrize("name", ["torchvision", "timm", "transformers"])
def test_the_second_version_has_peers_that_compute_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "swinv2_tiny", replace(VARIANTS["swinv2_tiny"], embed_dim=24, depths=(2, 1, 1, 1)))
    size = checked_size("swinv2_tiny")
    assert difference(build(name, "swinv2_tiny", [size]), "swinv2_tiny", torch.device("cpu")) < 1e-5
    with pytest.raises(ConfigError, match="mmdet has no Swin of version 2"):
        build("mmdet", "swinv2_tiny", [size])


def test_a_peer_that_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert installed_peers(["mmaction"]) == ([], {"mmaction": "not installed; pip install --no-deps mmaction2 einops"})
    with pytest.raises(ConfigError, match="mmaction has no Swin of images"):
        build("mmaction", "swin_tiny", [(224, 224)])


def test_the_command_compares_and_times_all_contestants(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--device cpu --variants swin_nano --shapes 1x32x32 --precisions bf16 --repeats 2 --peers timm --json"
    assert command("benchmark", "backbone", *words.split()) == 0
    record = json.loads(capsys.readouterr().out)
    assert [(one["peer"], one["difference"] < 1e-5) for one in record["checks"]] == [("timm", True)]
    assert [cell["mode"] for cell in record["cells"]] == ["inference", "training"]
    for cell in record["cells"]:
        assert list(cell["contestants"]) == ["ours", "timm", "products"]
        assert all(one.keys() >= TIMES and one["lowest_ms"] <= one["median_ms"] for one in cell["contestants"].values())
        assert cell["best_peer"] == "timm" and cell["speedup"] > 0
    assert record["cells"][1]["contestants"]["ours"]["kept_for_backward_mib"] > 0


def test_what_there_is_no_time_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "RemoteContestant", MagicMock())  # nothing is asked but whether it is there
    record = benchmark_backbone(BackboneSettings(device="cpu", variants=["swin_nano"], peers=(), seconds_limit=0))
    assert record["cells"] == [] and len(record["not_measured"]) == 8


def test_a_contestant_that_fails_or_is_slow_says_so() -> None:
    contestant = RemoteContestant(dict)
    with pytest.raises(BenchmarkError, match="KeyError: 'absent'"):
        contestant.call("pop", "absent")
    contestant.ask("keys")
    with pytest.raises(BenchmarkError, match="no answer within 0 s"):
        contestant.receive(0)
    contestant.close()
