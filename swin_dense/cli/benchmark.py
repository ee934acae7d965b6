"""Commands that measure: ours beside its peers, in one call on one machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table

from swin_dense.cli.app import AsJson, Device, Override, app

benchmarks = typer.Typer(no_args_is_help=True)
app.add_typer(benchmarks, name="benchmark")

SecondsLimit = Annotated[
    float | None, typer.Option(min=0, help="Begin nothing after so many seconds; what is left is named.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads on a CPU.")]


@benchmarks.callback()
def benchmark() -> None:
    r"""Measures ours beside its peers; pip install 'swin-dense\[benchmark]' brings them."""


@benchmarks.command()
def backbone(
    variants: Annotated[str | None, typer.Option(help="Backbones, the most important first.", metavar="A,B")] = None,
    shapes: Annotated[
        str | None, typer.Option(help="Such as 64x224x224,2xvarying (eight sizes in each call).", metavar="A,B")
    ] = None,
    precisions: Annotated[
        str | None, typer.Option(help="Of bf16, bf16-whole, fp16, fp16-whole, tf32, fp32.", metavar="A,B")
    ] = None,
    modes: Annotated[str | None, typer.Option(help="Of inference, training.", metavar="A,B")] = None,
    compile_too: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Also compiled; on a GPU unless told not to.")
    ] = None,
    compile_mode: Annotated[str | None, typer.Option(help="Mode of torch.compile.")] = None,
    compile_limit: Annotated[
        float | None, typer.Option(min=0, help="Seconds that a cell waits for contestants to compile.")
    ] = None,
    peers: Annotated[
        str | None,
        typer.Option(help="Of torchvision, timm, transformers, mmdet, mmaction; all by default.", metavar="A,B"),
    ] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Rounds in which all take turns.")] = None,
    seconds_limit: SecondsLimit = None,
    threads: Threads = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Images per second and memory of backbones, forward and backward, beside their peers."""
    from swin_dense.benchmark.backbone import benchmark_backbone, lines
    from swin_dense.benchmark.cells import GPU_DEFAULTS, BackboneSettings

    lists = _lists(variants=variants, shapes=shapes, precisions=precisions, modes=modes, peers=peers)
    compiling = {"compile": compile_too, "compile_mode": compile_mode, "compile_limit": compile_limit}
    others = {"repeats": repeats, "seconds_limit": seconds_limit, "threads": threads}
    typed = _typed(device, GPU_DEFAULTS, **lists, **compiling, **others)
    record = benchmark_backbone(BackboneSettings(**typed))
    _show(record, [line for cell in record["cells"] for line in lines(cell)], as_json)


@benchmarks.command()
def attention(
    methods: Annotated[
        str | None,
        typer.Option(help="Of sliding-naive, sliding-blocks, windows, padding, cyclic, plan.", metavar="A,B"),
    ] = None,
    variants: Annotated[
        str | None, typer.Option(help="Backbones; the first's stages are timed.", metavar="A,B")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Side of the square images in pixels.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images of a call.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Rounds in which all take turns.")] = None,
    seconds_limit: SecondsLimit = None,
    threads: Threads = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Milliseconds of attention by stage, and images per second, of shifted, regular and sliding windows."""
    from swin_dense.benchmark.attention import GPU_DEFAULTS, AttentionSettings, benchmark_attention
    from swin_dense.cli.report import print_report

    numbers = {"size": size, "batch_size": batch_size, "repeats": repeats, "threads": threads}
    lists = _lists(methods=methods, variants=variants)
    typed = _typed(device, GPU_DEFAULTS, **lists, **numbers, seconds_limit=seconds_limit)
    record = benchmark_attention(AttentionSettings(**typed))
    left = [f"not measured for lack of time: {', '.join(record['not_measured'])}"] if record["not_measured"] else []
    print_report(record, _table_5(record), *left, as_json=as_json)


@benchmarks.command()
def train(
    recipes: Annotated[str | None, typer.Option(help="Of mask-rcnn, upernet.", metavar="A,B")] = None,
    precisions: Annotated[str | None, typer.Option(help="Of bf16, 16, 32.", metavar="A,B")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images of a step.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that load data; by default by cores.")] = None,
    warm_up: Annotated[int | None, typer.Option(min=1, help="Steps before those that are measured.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps that are measured.")] = None,
    images: Annotated[int | None, typer.Option(min=2, help="Generated training images.")] = None,
    peers: Annotated[str | None, typer.Option(help='"mmdet", or "" for none.', metavar="A,B")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="How often ours and mmdet's take turns.")] = None,
    seconds_limit: SecondsLimit = None,
    overrides: Override = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Images per second of whole trainings, data loading included, also beside mmdet's own."""
    from swin_dense.benchmark.train import GPU_DEFAULTS, TrainSettings, benchmark_train, line

    lists = _lists(recipes=recipes, precisions=precisions, peers=peers)
    numbers = {"batch_size": batch_size, "workers": workers, "warm_up": warm_up, "steps": steps, "images": images}
    others = {"repeats": repeats, "seconds_limit": seconds_limit, "changes": overrides}
    record = benchmark_train(TrainSettings(**_typed(device, GPU_DEFAULTS, **lists, **numbers, **others)))
    lines = [line(one) for one in (*record["runs"], *record["comparisons"])]
    lines += [f"{precision}: ours is {one:.2f} times as fast as mmdet" for precision, one in record["speedup"].items()]
    _show(record, lines, as_json)


@benchmarks.command()
def data(
    root: Annotated[
        str | None, typer.Option("--data", help="Folder of a COCO data set, instead of a generated one.")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Images of a round.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Rounds in which both take turns.")] = None,
    peers: Annotated[str | None, typer.Option(help='"mmdet", or "" for none.', metavar="A,B")] = None,
    as_json: AsJson = False,
) -> None:
    """Images per second of one loading process, beside mmdet's pipeline."""
    from swin_dense.benchmark.data import DataSettings, benchmark_data, lines

    typed = _given(root=root, images=images, repeats=repeats, **_lists(peers=peers))
    record = benchmark_data(DataSettings(**typed))
    _show(record, lines(record), as_json)


@benchmarks.command()
def metric(
    images: Annotated[int | None, typer.Option(min=0, help="Images of the COCO evaluation; 0 leaves it out.")] = None,
    detections: Annotated[int | None, typer.Option(min=1, help="Detections of an image.")] = None,
    masks: Annotated[bool | None, typer.Option(help="Whether masks are scored, too.")] = None,
    label_maps: Annotated[int | None, typer.Option(min=0, help="Label maps of mean IoU; 0 leaves it out.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Rounds in which all take turns.")] = None,
    as_json: AsJson = False,
) -> None:
    """Seconds of COCO evaluation and mean IoU, beside pycocotools, faster-coco-eval, hotcoco and mmseg."""
    from swin_dense.benchmark.metric import MetricSettings, benchmark_metric, lines

    sizes = _given(images=images, detections=detections, masks=masks, label_maps=label_maps, repeats=repeats)
    record = benchmark_metric(MetricSettings(**sizes))
    _show(record, lines(record), as_json)


@benchmarks.command()
def export(
    variant: Annotated[str | None, typer.Option(help="Backbone.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Number of images.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images that are computed together.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that read images.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Rounds in which both take turns.")] = None,
    peers: Annotated[str | None, typer.Option(help='"timm", or "" for none.', metavar="A,B")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Images per second of exporting features, beside a script with timm and numpy.save."""
    from swin_dense.benchmark.export import GPU_DEFAULTS, ExportSettings, benchmark_export, lines

    numbers = {"images": images, "batch_size": batch_size, "workers": workers, "repeats": repeats}
    typed = _typed(device, GPU_DEFAULTS, variant=variant, **numbers, **_lists(peers=peers))
    record = benchmark_export(ExportSettings(**typed))
    _show(record, lines(record), as_json)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _lists(**options: str | None) -> dict[str, list[str]]:
    """Lists of names, of the options that were given."""
    given = _given(**options).items()
    return {name: [part.strip() for part in text.split(",") if part.strip()] for name, text in given}


def _typed(device: str | None, on_gpu: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The options that were given, and what holds on a GPU unless they say otherwise."""
    from swin_dense.devices import chosen_device

    defaults = on_gpu if chosen_device(device).type == "cuda" else {}
    return {**defaults, **_given(device=device, **options)}


def _show(record: dict[str, Any], lines: list[str], as_json: bool) -> None:
    """Prints the results, and whatever was left out."""
    from swin_dense.cli.report import print_report

    shown: list[RenderableType] = [*lines]
    shown += [f"{peer} was left out: {reason}" for peer, reason in record.get("left_out", {}).items()]
    if record.get("not_measured"):
        shown.append(f"not measured for lack of time: {len(record['not_measured'])} cells")
    print_report(record, *shown, as_json=as_json)


def _table_5(record: dict[str, Any]) -> Table:
    """Speed of attention in the layout of the Swin paper's Table 5."""
    settings = record["settings"]
    shown = Table(
        title=f"{settings['batch_size']} images of {settings['size']} x {settings['size']} pixels, float32",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    shown.add_column("method", no_wrap=True)
    stages = max((len(one["stage_ms"]) for one in record["methods"].values()), default=0)
    done = [name for name in settings["variants"] if name not in record["not_measured"]]
    for heading in (
        *(f"S{number} ms" for number in range(1, stages + 1)),
        *(f"{name.removeprefix('swin_')}\nimg/s" for name in done),
    ):
        shown.add_column(heading, justify="right")
    for one in record["methods"].values():
        milliseconds = [f"{spread['median']:.1f}" for spread in one["stage_ms"]]
        shown.add_row(one["title"], *milliseconds, *(f"{rate:.1f}" for rate in one["images_per_second"].values()))
    return shown
