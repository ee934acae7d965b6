"""The command that exports features."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from swin_dense.cli.app import AsJson, Override, app, height_and_width
from swin_dense.errors import ConfigError


@app.command("export-features")
def export(
    model: Annotated[str, typer.Argument(help="Run folder, config or backbone variant.", metavar="RUN|CONFIG|VARIANT")],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images, folders, zip files, text files with a path per line.", metavar="IMAGE|DIR|LIST|ZIP..."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the feature store.")],
    weights: Annotated[Path | None, typer.Option(help="Checkpoint of any known format.")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Do without weights.")] = False,
    stages: Annotated[
        str | None, typer.Option(help="Stages of the backbone; all of them where neither this nor --neck is given.")
    ] = None,
    neck: Annotated[bool, typer.Option("--neck", help="Levels of the config's neck.")] = False,
    maps: Annotated[bool, typer.Option(help="Store the maps.")] = True,
    pool: Annotated[bool, typer.Option("--pool", help="Store the mean of each map.")] = False,
    roi: Annotated[Path | None, typer.Option(help="JSON file of boxes; store their 7x7 features.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    size: Annotated[str | None, typer.Option(help="Resize to HEIGHTxWIDTH.")] = None,
    short_side: Annotated[int | None, typer.Option(min=1, help="Resize to this shorter side.")] = None,
    native: Annotated[
        bool, typer.Option("--native", help="Keep the size; a config is tested at its own otherwise.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one size at a time.")] = 4,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    on_error: Annotated[str, typer.Option(help="At an image that cannot be used: stop or skip.")] = "stop",
    shard_size: Annotated[float, typer.Option(help="Most MiB of features in a file.")] = 256,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 0,
    rank: Annotated[int | None, typer.Option(help="This process of several; torchrun sets it.")] = None,
    world_size: Annotated[int | None, typer.Option(help="Number of processes; torchrun sets it.")] = None,
    overrides: Override = None,
    as_json: AsJson = False,
) -> None:
    """Stores the features of images; started again, it continues where it was interrupted."""
    resize: dict[str, Any] = {}
    if sum((size is not None, short_side is not None, native)) > 1:
        raise ConfigError("--size, --short-side and --native exclude each other")
    if size is not None:
        resize["size"] = height_and_width(size, "--size")
    if short_side is not None:
        resize["short_side"] = short_side
    numbers = None if stages is None else _numbers(stages)
    if weights is not None and random_weights:
        raise ConfigError("pass --weights FILE or --random-weights, not both")
    from swin_dense.export import export_features
    from swin_dense.models import test_size_of
    from swin_dense.models.parts import features_of

    if not (resize or native):
        resize = test_size_of(model, overrides=overrides or ())
    store = export_features(
        features_of(
            model, weights, random_weights=random_weights, stages=numbers, neck=neck, overrides=overrides or ()
        ),
        images,
        output,
        **resize,
        maps=maps,
        pool=pool,
        boxes=roi,
        dtype=dtype,
        batch_size=batch_size,
        shard_size=shard_size,
        device=device,
        num_workers=num_workers,
        on_error=on_error,
        rank=rank,
        world_size=world_size,
        progress=_progress,
    )
    if as_json:
        summary = {
            "output": str(output),
            "images": len(store),
            "features": store.names,
            "failures": store.failures,
            "complete": store.is_complete,
        }
        print(json.dumps(summary))
        return
    for path, error in store.failures.items():
        print(f"skipped {path}: {error}")
    print(f"{len(store)} images in {output}: {', '.join(store.names)}")
    if not store.is_complete:
        print("other processes are still at work")


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(f'--stages takes numbers with commas between, for instance 1,2,3,4, not "{text}"')
    return [int(part) for part in parts]


def _progress(items: Iterable[Any], total: int) -> Iterable[Any]:
    from rich.progress import track

    return track(items, "exporting", total=total, console=Console(stderr=True)) if total else items
