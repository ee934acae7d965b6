"""The table of published weights, held against the packages that publish them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from torchvision.models import (
    Swin_B_Weights,
    Swin_S_Weights,
    Swin_T_Weights,
    Swin_V2_B_Weights,
    Swin_V2_S_Weights,
    Swin_V2_T_Weights,
    WeightsEnum,
)
from torchvision.models.video import Swin3D_B_Weights, Swin3D_S_Weights, Swin3D_T_Weights

from swin_dense.backbones import VARIANTS
from swin_dense.errors import WeightsError
from swin_dense.weights.formats import FORMATS
from swin_dense.weights.releases import RELEASES, find_release, search_releases

VIDEO = {"swin3d_t", "swin3d_s", "swin3d_b_1k", "swin3d_b_22k"}
"""Of torchvision."""


def installed(package: str, file: str) -> str:
    """The text of a file of a package, without importing it."""
    found = importlib.util.find_spec(package)
    assert found is not None and found.origin is not None
    return (Path(found.origin).parent / file).read_text(encoding="utf-8")


def test_names_and_file_names_are_unique() -> None:
    assert all(name == release.name for name, release in RELEASES.items())
    assert len({release.file_name for release in RELEASES.values()}) == len(RELEASES) == 73


def test_addresses_are_encrypted_and_of_the_publishers() -> None:
    hosts = {
        "official": "github.com",
        "torchvision": "download.pytorch.org",
        "openmmlab": "download.openmmlab.com",
    }
    for release in RELEASES.values():
        assert (urlsplit(release.url).scheme, urlsplit(release.url).netloc) == ("https", hosts[release.format])


def test_formats_and_variants_are_ours() -> None:
    assert {release.format for release in RELEASES.values()} <= set(FORMATS)
    assert {release.variant for release in RELEASES.values()} <= set(VARIANTS)


def test_checksums_are_those_in_the_file_names_and_microsoft_publishes_none() -> None:
    for release in RELEASES.values():
        in_name = re.search(r"-([0-9a-f]{8})\.pth$", release.file_name)
        assert release.sha256_prefix == (in_name[1] if in_name else None)
        assert (release.sha256_prefix is None) == (release.format == "official")


@pytest.mark.parametrize(
    ("name", "published"),
    [
        *[("swin_t", Swin_T_Weights), ("swin_s", Swin_S_Weights), ("swin_b", Swin_B_Weights)],
        *[("swin_v2_t", Swin_V2_T_Weights), ("swin_v2_s", Swin_V2_S_Weights), ("swin_v2_b", Swin_V2_B_Weights)],
    ],
)
def test_torchvision_says_the_same(name: str, published: type[WeightsEnum]) -> None:
    weights = published.IMAGENET1K_V1
    assert (RELEASES[name].url, RELEASES[name].size_mib) == (weights.url, weights.meta["_file_size"])


def test_torchvision_says_the_same_of_videos() -> None:
    published = {
        "swin3d_t": Swin3D_T_Weights.KINETICS400_V1,
        "swin3d_s": Swin3D_S_Weights.KINETICS400_V1,
        "swin3d_b_1k": Swin3D_B_Weights.KINETICS400_V1,
        "swin3d_b_22k": Swin3D_B_Weights.KINETICS400_IMAGENET22K_V1,
    }
    found = {one.name: (one.url, one.size_mib) for one in search_releases("video torchvision")}
    assert found == {name: (one.url, one.meta["_file_size"]) for name, one in published.items()}
    variants = [one.variant for one in search_releases("video official")]
    assert variants == ["swin3d_tiny", "swin3d_small", *["swin3d_base"] * 5]


@pytest.mark.parametrize(
    ("package", "file", "count"),
    [("mmdet", ".mim/configs/swin/metafile.yml", 4), ("mmseg", ".mim/configs/swin/metafile.yaml", 6)],
)
def test_openmmlab_says_the_same(package: str, file: str, count: int) -> None:
    text = installed(package, file)
    names, addresses = re.findall(r"- Name: (\S+)", text), re.findall(r"Weights: (\S+)", text)
    assert len(names) == len(addresses) == count
    assert {name: RELEASES[name].url for name in names} == dict(zip(names, addresses, strict=True))


def test_timm_names_the_same_addresses_of_the_official_classifiers() -> None:
    text = "".join(installed("timm", f"models/swin_transformer{version}.py") for version in ("", "_v2"))
    official = [one for one in search_releases("classification official") if "swin_mlp" not in one.variant]
    assert len(official) == 25 and len(search_releases("classification official swin_mlp")) == 4
    assert [one.name for one in official if f"'{one.url}'" not in text] == []


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("torchvision", {"swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b"} | VIDEO),
        ("SEGMENTATION official small", {"upernet_swin_small_patch4_window7_512x512"}),
        ("cascade base", {"cascade_mask_rcnn_swin_base_patch4_window7"}),
        ("swinv2_tiny 1K", {f"swinv2_tiny_patch4_window{side}_256" for side in (8, 16)} | {"swin_v2_t"}),
        ("nothing like it", set()),
        ("", set(RELEASES)),
    ],
)
def test_releases_are_found_by_words(words: str, names: set[str]) -> None:
    assert {release.name for release in search_releases(words)} == names


def test_an_unknown_name_shows_near_ones() -> None:
    with pytest.raises(WeightsError, match="did you mean .*upernet_swin_tiny_patch4_window7_512x512"):
        find_release("upernet_swin_tiny")
