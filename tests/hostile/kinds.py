"""What is fuzzed: sound small files, how they are changed, and the reader that a command hands them to.

A case is a kind and a number: the files of `samples`, one of which `prepare` has changed. Its reader must end in an
answer, of which it asserts what holds of every answer, or in a `SwinDenseError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random

from hostile import readers, samples
from hostile.formats import (
    mutate_checkpoint,
    mutate_image,
    mutate_parquet,
    mutate_safetensors,
    mutate_video,
    mutate_zip,
)
from hostile.mutations import TEXTS, mutate_bytes, mutate_json, mutate_lines, mutate_program, mutate_tree

Mutation = Callable[[Random, bytes], bytes]

BY_SUFFIX: dict[str, Mutation] = {
    ".json": mutate_json,
    ".zip": mutate_zip,
    ".pth": mutate_checkpoint,
    ".ckpt": mutate_checkpoint,
    ".safetensors": mutate_safetensors,
    ".parquet": mutate_parquet,
    ".txt": mutate_lines,
    ".csv": mutate_lines,
    ".mat": mutate_bytes,
    ".xml": mutate_bytes,
    ".yaml": mutate_lines,
    ".png": mutate_image,
    ".jpg": mutate_image,
    ".tif": mutate_image,
    ".gif": mutate_bytes,
    ".bmp": mutate_bytes,
    ".webp": mutate_bytes,
    ".mp4": mutate_video,
    ".mkv": mutate_video,
    ".avi": mutate_video,
}


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        sample: Sound files by their name below the folder of a case.
        read: What the command does with the folder; nothing is returned, since what is right is asserted there.
        changed: Files that are changed, one of them in each case.
        mutation: How; None goes by the suffix.
        confined: Whether nothing beside its folder may be read; a list of images may name any.
    """

    sample: Callable[[], Mapping[str, bytes]]
    read: Callable[[Path], None]
    changed: tuple[str, ...]
    mutation: Mutation | None = None
    confined: bool = True


def mutate_settings(random: Random, content: bytes) -> bytes:
    """A list of texts KEY=VALUE for `--set`, or a whole tree of settings."""
    settings = json.loads(content)
    if random.random() < 0.4:
        settings["tree"] = mutate_tree(random, settings["tree"])
    for _ in range(random.choice((0, 1, 1, 3))):
        keys = (*settings["keys"], "model", "task", "data", "", ".", "model.backbone.type.x", "data.root.x", *TEXTS)
        odd = ("[1]", "{1:2}", "(", "[" * 5000, "9" * 5000, "-" * 3000 + "1", "{'a':{'b':None}}", "1_0", "²", "b'x'")
        values = (*odd, "1e400", "True", "None", "[]", "{}", "lambda: 0", "0j", "...", "{1,2}", "2**99", *TEXTS)
        settings["set"].append(f"{random.choice(keys)}={random.choice(values)}")
    return json.dumps(settings).encode()


def mutate_options(random: Random, content: bytes) -> bytes:
    """Values of options of the command line, which must be sizes, counts and labels."""
    command = json.loads(content)
    paths = ("--gt", "--predictions", "--output", "--device", "--random-weights")
    places = [place for place, word in enumerate(command) if word.startswith("--") and word not in paths]
    odd = ("²", "٣", "0x0", "-1", "1.5", "9" * 30, "9" * 400, "9" * 5000, "-" + "9" * 30, "65536", "nan", "inf", "1e9")
    sizes = ("800x²", "32x" + "9" * 30, "1x1", "0x32", "-1x5", "1_0x10", "32x32 ", "64x64x64", "30000x30000")
    sizes += ("999999999x999999999", str(2**63), "67108864", "2147483647")
    words = [text for text in TEXTS if "\0" not in text and "\ud800" not in text]  # no shell hands these over
    for _ in range(random.choice((1, 1, 2))):
        command[random.choice(places) + 1] = random.choice((*odd, *sizes, *words))
    return json.dumps(command).encode()


KINDS: dict[str, Kind] = {
    "coco": Kind(samples.coco, readers.coco, ("train.json",)),
    "coco-zip": Kind(samples.coco_zip, readers.coco_zip, ("annotations.zip", "images.zip")),
    "results": Kind(samples.results, readers.results, ("predictions.json", "gt.json")),
    "labels": Kind(samples.labels, readers.labels, ("gt/a.png", "gt/b.png", "predictions/a.png")),
    "ade": Kind(
        samples.ade,
        readers.ade,
        (
            "ade/annotations/training/a.png",
            "ade/annotations/validation/b.png",
            "ade/images/training/a.jpg",
            "ade/objectInfo150.txt",
            "ade/color150.mat",
        ),
    ),
    "image": Kind(samples.images, readers.images, ("a.jpg", "b.png", "c.tif", "d.gif", "e.bmp", "f.webp", "g.jpg")),
    "image-list": Kind(samples.image_list, readers.image_list, ("list.txt",), confined=False),
    "image-zip": Kind(samples.image_zip, readers.image_zip, ("images.zip",)),
    "weights": Kind(samples.weights, readers.weights, ("a.pth", "a.pth", "b.pth", "c.safetensors", "d.pth")),
    "classes": Kind(samples.classes, readers.classes, ("classes.txt", "objectInfo150.csv", "objectInfo150.txt")),
    "boxes": Kind(samples.boxes, readers.boxes, ("boxes.json", "coco.json")),
    "store": Kind(
        samples.store,
        readers.store,
        (
            "store/manifest.parquet",
            "store/manifest.parquet",
            "store/export.json",
            "store/shards/00000000-00000002.safetensors",
        ),
    ),
    "store-parts": Kind(
        samples.store_parts, readers.store, ("store/parts/00000000-00000002.parquet", "store/export.json")
    ),
    **{
        f"import-{form}": Kind(
            partial(samples.export, form), partial(readers.imports, form), tuple(samples.export(form))
        )
        for form in samples.EXPORTS
    },
    "settings": Kind(samples.settings, readers.settings, ("settings.json",), mutate_settings),
    "config-file": Kind(samples.config_file, readers.config_file, ("run/config.py",), mutate_program),
    "options": Kind(samples.options, readers.options, ("scored.json", "sized.json", "exported.json"), mutate_options),
    "videos": Kind(
        samples.videos, readers.videos, ("a/a.mp4", "b/b.mkv", "b/c.avi", "list.txt", "kinetics.csv", "train.json")
    ),
    "run": Kind(
        samples.run,
        readers.run,
        ("run/last.ckpt", "run/best.ckpt", "run/metrics.csv", "run/weights.safetensors", "run/run.json"),
    ),
}


PROGRAM = Kind(dict, readers.program, ())
"""Runs `program.py`: for the tests of the fuzzer itself."""


@cache
def _sample(name: str) -> Mapping[str, bytes]:
    return KINDS[name].sample()


def of_name(name: str) -> Kind:
    """The kind of a name."""
    return PROGRAM if name == "program" else KINDS[name]


def prepare(kind: str, seed: int, number: int, folder: Path) -> None:
    """Writes a case into an empty folder, always the same; number 0 is left sound."""
    random = Random(f"{seed}/{kind}/{number}")
    files = dict(_sample(kind))
    if number:
        name = random.choice(KINDS[kind].changed)
        mutation = KINDS[kind].mutation or BY_SUFFIX[Path(name).suffix]
        try:
            files[name] = mutation(random, files[name])
        except Exception:  # what was drawn cannot be written in this format
            files[name] = mutate_bytes(random, files[name])
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read(kind: str, folder: Path) -> None:
    """Hands a case to its reader."""
    of_name(kind).read(folder)
