"""Times the backbone beside the Swin-T of torchvision, timm, transformers and mmdet, in one run.

Every model hands out the maps of its four stages. Before anything is timed, each peer's random weights are loaded into
ours and the maps are compared: mmdet must agree at every shape, the classification models where every map is whole
windows and larger than one window (they drop the shift or mask otherwise), which is checked at 448x448 for all. Then
the models take turns, so that a disturbance hits all of them alike. torchvision's and timm's maps come without output
norms: they have a little less to do. "Kept" is the memory that the forward pass keeps for the backward pass, counted
tensor by tensor, without parameters.

    python tools/benchmarks/backbone.py [--shapes 8x224x224 1x800x1344] [--threads 2] [--repeats 7] [--json]
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn
from torch.nn import functional

from swin_dense.backbones import VARIANTS, create_backbone
from swin_dense.openmmlab.registry import mmdet_models
from swin_dense.weights import load_weights

VARIANT = VARIANTS["swin_tiny"]
TOLERANCE = 1e-5
CHECKED_BY_ALL = (1, 448, 448)
MEBIBYTE = 2**20

Shape = tuple[int, int, int]
Maps = Sequence[Tensor]


class Contestant(NamedTuple):
    """A model, how to get its four maps (B, C, H, W), and whether each of them has passed an output norm."""

    model: nn.Module
    maps: Callable[[Tensor], Maps]
    normed: bool


def build_torchvision(shape: Shape) -> Contestant:
    """The classifier of torchvision, its stages read out one by one."""
    model = torchvision.models.swin_t()
    for module in model.modules():
        if isinstance(module, torchvision.ops.StochasticDepth):
            module.p = 0.0

    def maps(images: Tensor) -> Maps:
        found = []
        for index, layer in enumerate(model.features):
            images = layer(images)
            if index % 2:
                found.append(images.permute(0, 3, 1, 2))
        return found

    return Contestant(model, maps, normed=False)


def build_timm(shape: Shape) -> Contestant:
    """The feature extractor of timm, made for the image size."""
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", features_only=True, img_size=shape[1:], drop_path_rate=0.0
    )
    return Contestant(model, lambda images: [x.permute(0, 3, 1, 2) for x in model(images)], normed=False)


def build_transformers(shape: Shape) -> Contestant:
    """The backbone class of transformers."""
    options: dict[str, Any] = {"out_features": [f"stage{number}" for number in range(1, 5)]}
    config = transformers.SwinConfig(
        embed_dim=VARIANT.embed_dim,
        depths=list(VARIANT.depths),
        num_heads=list(VARIANT.num_heads),
        window_size=VARIANT.window_size,
        drop_path_rate=0.0,
        **options,
    )
    model = transformers.SwinBackbone(config)
    return Contestant(model, lambda images: model(images).feature_maps, normed=True)


def build_mmdet(shape: Shape) -> Contestant:
    """The detection backbone."""
    model = mmdet_models().get("SwinTransformer")(drop_path_rate=0.0)
    return Contestant(model, model, normed=True)


def build_ours(shape: Shape) -> Contestant:
    """Ours."""
    model = create_backbone("swin_tiny")
    return Contestant(model, model, normed=True)


PEERS = {
    "torchvision": build_torchvision,
    "timm": build_timm,
    "transformers": build_transformers,
    "mmdet": build_mmdet,
}


def randomise(model: nn.Module) -> None:
    """Gives norms and bias tables values that matter, so that a difference in them is seen."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "bias_table" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)


@torch.inference_mode()
def difference(peer: Contestant, shape: Shape) -> float:
    """Largest relative difference of a map of the peer from ours with the peer's weights."""
    randomise(peer.model)
    ours = build_ours(shape)
    load_weights(ours.model, peer.model.state_dict())
    images = torch.randn(shape[0], 3, *shape[1:])
    differences = []
    for our, their in zip(ours.maps(images), peer.maps(images), strict=True):
        if not peer.normed:
            tokens = their.permute(0, 2, 3, 1)
            their = functional.layer_norm(tokens, tokens.shape[-1:]).permute(0, 3, 1, 2)
        differences.append(float((our - their).norm() / their.norm()))
    return max(differences)


def check(shapes: Sequence[Shape]) -> list[dict[str, object]]:
    """Compares the maps of every peer with ours.

    Args:
        shapes: The shapes that will be timed.

    Returns:
        One record per peer and shape.

    Raises:
        SystemExit: The maps of a peer differ where they must agree.
    """
    records: list[dict[str, object]] = []
    for shape in dict.fromkeys((CHECKED_BY_ALL, *shapes)):
        for name, build in PEERS.items():
            must_agree = name == "mmdet" or shape == CHECKED_BY_ALL
            peer = build(shape)
            peer.model.eval()
            found = difference(peer, shape)
            records.append({"peer": name, "shape": shape, "difference": found, "must_agree": must_agree})
            log(f"{spell(shape)}  {name:<12}  relative difference {found:.1e}{'' if must_agree else '  (may differ)'}")
            if must_agree and not found <= TOLERANCE:
                raise SystemExit(f"the maps of {name} differ from ours at {spell(shape)} by {found:.1e}: nothing timed")
    return records


def infer(contestant: Contestant, images: Tensor) -> None:
    """One inference step."""
    with torch.inference_mode():
        contestant.maps(images)


def train(contestant: Contestant, images: Tensor) -> None:
    """One training step, without the optimizer."""
    contestant.model.zero_grad(set_to_none=True)
    torch.autograd.backward([x.mean() for x in contestant.maps(images)])


def kept_for_backward(contestant: Contestant, images: Tensor) -> float:
    """MiB of activations that autograd keeps after a forward pass."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in contestant.model.parameters()}
    kept: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        maps = contestant.maps(images)
    total = sum(kept.values()) / MEBIBYTE
    del maps
    return total


def measure(shape: Shape, mode: str, repeats: int) -> dict[str, object]:
    """Times all models in turn at one shape.

    Args:
        shape: Images, height and width.
        mode: "inference" or "training".
        repeats: Timed rounds, after one that warms up.

    Returns:
        Median seconds per model, the best peer, how many times as fast as it we are, and the MiB kept for backward.
    """
    contestants = {name: build(shape) for name, build in {"ours": build_ours, **PEERS}.items()}
    step = train if mode == "training" else infer
    images = torch.randn(shape[0], 3, *shape[1:])
    kept = {}
    for name, contestant in contestants.items():
        contestant.model.train(mode == "training")
        if mode == "training":
            kept[name] = round(kept_for_backward(contestant, images), 1)
        step(contestant, images)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(repeats):
        log(f"{spell(shape)}  {mode}  round {number + 1} of {repeats}")
        for name, contestant in contestants.items():
            gc.collect()
            start = time.perf_counter()
            step(contestant, images)
            seconds[name].append(time.perf_counter() - start)
            contestant.model.zero_grad(set_to_none=True)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    best = min(PEERS, key=lambda name: medians[name])
    return {
        "shape": shape,
        "mode": mode,
        "median_seconds": medians,
        "best_peer": best,
        "speedup": medians[best] / medians["ours"],
        "kept_for_backward_mib": kept,
    }


def show(result: dict[str, object]) -> None:
    """Prints one measurement as a small table."""
    medians, kept = result["median_seconds"], result["kept_for_backward_mib"]
    assert isinstance(medians, dict) and isinstance(kept, dict)
    print(f"\n{spell(result['shape'])}  {result['mode']}")
    for name, median in sorted(medians.items(), key=lambda item: item[1]):
        memory = f"   kept {kept[name]:7.0f} MiB" if kept else ""
        print(f"  {name:<12} {1000 * median:8.0f} ms   {median / medians['ours']:5.2f}{memory}")
    print(f"  ours is {result['speedup']:.2f} times as fast as the best peer, {result['best_peer']}")


def parse_shape(text: str) -> Shape:
    """Reads BxHxW."""
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form images x height x width, for example 8x224x224")
    batch, height, width = map(int, parts)
    return batch, height, width


def spell(shape: object) -> str:
    """Writes BxHxW."""
    assert isinstance(shape, tuple)
    return "x".join(map(str, shape))


def log(text: str) -> None:
    """Tells about progress, beside the result on stdout."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Checks, measures, and prints a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", type=parse_shape, default=[(8, 224, 224), (1, 800, 1344)])
    parser.add_argument("--modes", nargs="+", choices=("inference", "training"), default=["inference", "training"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    checks = check(options.shapes)
    results = [measure(shape, mode, options.repeats) for mode in options.modes for shape in options.shapes]
    versions = {module.__name__: module.__version__ for module in (torch, torchvision, timm, transformers)}
    if options.json:
        setting = {"threads": options.threads, "repeats": options.repeats, "machine": platform.processor()}
        print(json.dumps({**setting, "versions": versions, "checks": checks, "results": results}))
        return
    for result in results:
        show(result)


if __name__ == "__main__":
    main()
