"""Images per second of exporting features to disk, beside the script that one would write with timm.

The script is timm's feature extractor, a `DataLoader` that opens images with Pillow, and `numpy.save` for each map of
each image. Both have the same weights and store the same maps in float32; before anything is timed, they are compared.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from swin_dense.backbones import create_backbone
from swin_dense.benchmark.backbone import describe
from swin_dense.benchmark.peers import OURS, build, checked_size, installed_peers
from swin_dense.benchmark.photos import photo
from swin_dense.benchmark.processes import RemoteContestant, timed_rounds
from swin_dense.benchmark.timing import log
from swin_dense.devices import chosen_device
from swin_dense.errors import BenchmarkError
from swin_dense.export import FeatureStore, export_features
from swin_dense.weights import load_weights

DISTINCT = 16
"""Different pictures; the files hold them in turn."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAME_MAPS = 1e-3
"""Largest relative difference of a map; GPUs may compute products in other ways."""


@dataclass(frozen=True)
class ExportSettings:
    """What is exported.

    Attributes:
        device: Where; None takes the best there is.
        variant: Name of the backbone; images have the size at which timm's computes the same.
        images: Number of images.
        batch_size: Images that are computed together.
        workers: Processes that read images.
        repeats: Rounds.
        peers: "timm", or nothing.
    """

    device: str | None = None
    variant: str = "swin_tiny"
    images: int = 32
    batch_size: int = 8
    workers: int = 1
    repeats: int = 3
    peers: Sequence[str] = ("timm",)


GPU_DEFAULTS = {"images": 1024, "batch_size": 64, "workers": 8}
"""What `ExportSettings` are on a GPU unless said otherwise."""


class Export:
    """Our export or the script with timm, in its own process."""

    def __init__(self, name: str, folder: str, weights: str, settings: ExportSettings) -> None:
        self.name, self.settings = name, settings
        self.images, self.output = Path(folder), Path(folder).parent / f"features of {name}"
        self.device = torch.device(str(settings.device))
        peer = build("timm", settings.variant, [checked_size(settings.variant)])
        if not Path(weights).is_file():
            torch.save(peer.model.state_dict(), weights)
        state = torch.load(weights, map_location="cpu", weights_only=True)
        if name == OURS:
            self.backbone = create_backbone(settings.variant)
            load_weights(self.backbone, state)
        else:
            peer.model.load_state_dict(state)
            peer.model.to(self.device).eval()
        self.peer = peer

    def round(self) -> float:
        """Seconds of an image, over all images."""
        shutil.rmtree(self.output, ignore_errors=True)
        begin = time.perf_counter()
        if self.name == OURS:
            self._ours()
        else:
            self._script()
        return (time.perf_counter() - begin) / self.settings.images

    def first(self) -> list[Any]:
        """The maps of the first image as they were stored, each with an output norm that scales and shifts nothing."""
        if self.name == OURS:
            maps = [one for one in FeatureStore(self.output)[0].values() if isinstance(one, Tensor)]
        else:
            maps = [torch.from_numpy(np.load(self.output / f"{0:06d}.{stage}.npy")) for stage in range(4)]
        normed = []
        for one in maps:
            tokens = one.float().permute(1, 2, 0)
            normed.append(functional.layer_norm(tokens, tokens.shape[-1:]).numpy())
        return normed

    def _ours(self) -> None:
        export_features(
            self.backbone,
            self.images,
            self.output,
            batch_size=self.settings.batch_size,
            num_workers=self.settings.workers,
            device=str(self.device),
        )

    def _script(self) -> None:
        self.output.mkdir()
        loader = DataLoader(_Files(self.images), batch_size=self.settings.batch_size, num_workers=self.settings.workers)
        number = 0
        with torch.inference_mode():
            for batch in loader:
                maps = [one.cpu().numpy() for one in self.peer.maps(batch.to(self.device))]
                for index in range(len(batch)):
                    for stage, one in enumerate(maps):
                        np.save(self.output / f"{number:06d}.{stage}.npy", one[index])
                    number += 1


class _Files(Dataset[Tensor]):
    """The normalised images of a folder."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.files[index]) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        return (pixels / 255 - mean) / std


def benchmark_export(settings: ExportSettings) -> dict[str, Any]:
    """Measures our export and a script with timm.

    Args:
        settings: What is exported.

    Returns:
        A record ready for JSON: `contestants` holds seconds per image and images per second of each, `speedup` how many
        times as fast ours is.

    Raises:
        BenchmarkError: The maps differ.

    Example:
        >>> from swin_dense.benchmark.export import ExportSettings
        >>> ExportSettings(variant="swin_base").images
        32
    """
    device = chosen_device(settings.device)
    settings = replace(settings, device=str(device))
    peers, left_out = installed_peers(settings.peers)
    record: dict[str, Any] = {
        "benchmark": "export",
        "device": describe(device),
        "settings": asdict(settings),
        "left_out": left_out,
        "contestants": {},
        "speedup": None,
    }
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder, weights = Path(scratch) / "images", str(Path(scratch) / "weights.pth")
        folder.mkdir()
        random = np.random.default_rng(0)
        height, width = checked_size(settings.variant)
        pictures = [photo(random, (height, width)) for _ in range(min(DISTINCT, settings.images))]
        for number in range(settings.images):
            (folder / f"{number:06d}.jpg").write_bytes(pictures[number % len(pictures)])
        processes: dict[str, RemoteContestant] = {}
        for name in (*peers, OURS):
            one = stack.enter_context(closing(RemoteContestant(Export, name, str(folder), weights, settings)))
            one.call("round")  # warms up, and leaves what is compared
            processes[name] = one
        _check({name: one.call("first") for name, one in processes.items()})
        spreads = timed_rounds(processes, settings.repeats)
    for name in (OURS, *peers):
        spread = spreads[name]
        record["contestants"][name] = {**spread.milliseconds("_ms"), "images_per_second": 1 / spread.median}
    if peers:
        done = record["contestants"]
        record["speedup"] = done["timm"]["median_ms"] / done[OURS]["median_ms"]
    return record


def _check(maps: dict[str, list[Any]]) -> None:
    """Compares the maps of the first image with ours."""
    for name, theirs in maps.items():
        for our, their in zip(maps[OURS], theirs, strict=True):
            difference = float(np.linalg.norm(our - their) / np.linalg.norm(our))
            if not difference <= SAME_MAPS:
                raise BenchmarkError(f"the maps of {name} differ from ours by {difference:.1e}: nothing was timed")
        log(f"{name}: the maps are the same")


def lines(record: dict[str, Any]) -> list[str]:
    """The results as text."""
    shown = [
        f"{name:<6} {one['images_per_second']:8.1f} images/s  {one['median_ms']:8.2f} ms an image "
        f"({one['lowest_ms']:.2f} to {one['highest_ms']:.2f})"
        for name, one in record["contestants"].items()
    ]
    if record["speedup"] is not None:
        shown.append(f"ours is {record['speedup']:.2f} times as fast as a script with timm")
    return shown
