"""Who may import whom: the rules that keep each room of the package readable by itself.

A room is a folder or a file directly under `swin_dense`. Imports inside functions count like those at the top of a
file; they only come later.
"""

from __future__ import annotations

import ast
import graphlib
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "swin_dense"
OPENMMLAB = {"mmcv", "mmdet", "mmengine", "mmseg"}

EVERY_ROOM = {"swin_dense"}
LEAVES = {"swin_dense.records", "swin_dense.rle"}
FILES = {"swin_dense.images", "swin_dense.coco", "swin_dense.label_maps", "swin_dense.videos"}
"""Reading and judging files, once, for every room that needs it."""

ALLOWED = {
    # Leaves, which import no other room.
    "records": {"torch", "torchvision", "numpy"},
    "errors": set(),
    "files": set(),
    "rle": {"numpy"},
    "devices": {"torch", "torchvision"},
    "isolation": {"torch", "numpy"},
    # Files of the user.
    "images": {"torch", "torchvision", "numpy", "PIL", "pyarrow", *LEAVES},
    "coco": {"torch", "torchvision", "numpy", "msgspec", "pycocotools", "hotcoco", "swin_dense.images", *LEAVES},
    "label_maps": {"numpy", "PIL", "swin_dense.images", *LEAVES},
    "videos": {"torch", "torchvision", "numpy", "av", "packaging", "swin_dense.images", *LEAVES},
    # Data sets of other formats.
    "importing": {"numpy", "PIL", "pycocotools", "defusedxml", "yaml", *FILES, *LEAVES},
    # Models.
    "ops": {"torch", "torchvision"},
    "backbones": {"torch", "triton"},
    "weights": {"torch", "safetensors", "filelock", "requests", "urllib3", "swin_dense.backbones"},
    "openmmlab": {
        *OPENMMLAB,
        "torch",
        "numpy",
        "cv2",
        "pycocotools",
        "swin_dense.backbones",
        "swin_dense.ops",
        *LEAVES,
    },
    # Data and metrics know neither models nor each other.
    "data": {
        "torch",
        "torchvision",
        "numpy",
        "PIL",
        "pycocotools",
        "hotcoco",
        "timm",
        "av",
        "lightning",
        "swin_dense.devices",
        "swin_dense.isolation",
        *FILES,
        *LEAVES,
    },
    "metrics": {
        "torch",
        "numpy",
        "pycocotools",
        "faster_coco_eval",
        "hotcoco",
        *FILES,
        *LEAVES,
    },
    # Models are handed to these rooms; they know what they do, not what they are.
    "inference": {"torch", "torchvision", "numpy", "pycocotools", "swin_dense.ops", "swin_dense.videos", *LEAVES},
    "training": {
        "torch",
        "torchvision",
        "lightning",
        "timm",
        "swin_dense.config",
        "swin_dense.devices",
        "swin_dense.inference",
        "swin_dense.isolation",
        "swin_dense.metrics",
        *LEAVES,
    },
    "visualize": {
        "torch",
        "torchvision",
        "numpy",
        "PIL",
        "colorcet",
        "matplotlib",
        "pycocotools",
        "swin_dense.backbones",
        *LEAVES,
    },
    "report": {
        "torch",
        "torchvision",
        "numpy",
        "PIL",
        "matplotlib",
        "pycocotools",
        "jinja2",
        "hotcoco",
        "swin_dense.metrics",
        "swin_dense.visualize",
        *FILES,
        *LEAVES,
    },
    "stats": {"torch", "torchvision", "swin_dense.backbones"},
    "export": {
        "torch",
        "torchvision",
        "numpy",
        "safetensors",
        "pycocotools",
        "pyarrow",
        "zarr",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "swin_dense.backbones",
        "swin_dense.devices",
        "swin_dense.images",
        "swin_dense.isolation",
        "swin_dense.videos",
        *LEAVES,
    },
    "config": {"mmengine.config"},
    # Configs of other projects.
    "migration": {
        "torch",
        "mmengine.config",
        "swin_dense.backbones",
        "swin_dense.config",
        "swin_dense.openmmlab.detection",
        "swin_dense.openmmlab.segmentation",
    },
    # A page for models that are handed to it.
    "serve": {"gradio", "starlette"},
    # Measures ours beside these libraries, which nothing else needs.
    "benchmark": {
        "torch",
        "torchvision",
        "timm",
        "transformers",
        "numpy",
        "PIL",
        "lightning",
        "pycocotools",
        *EVERY_ROOM,
    },
    # The rooms that put the others together.
    "doctor": {"torch", "numpy", "PIL", "lightning", "packaging", *EVERY_ROOM},
    "__init__": {"torch", *EVERY_ROOM},
    "models": {"torch", "torchvision", "numpy", *EVERY_ROOM},
    "tasks": {
        "torch",
        "torchvision",
        "numpy",
        "PIL",
        "pycocotools",
        "supervision",
        "safetensors",
        "lightning",
        "rich",
        "imagecorruptions",
        *EVERY_ROOM,
    },
    "cli": {
        "typer",
        "rich",
        "swin_dense.benchmark",
        "swin_dense.config",
        "swin_dense.coco.ahead",
        "swin_dense.coco.check",
        "swin_dense.label_maps.check",
        "swin_dense.models",
        "swin_dense.devices",
        "swin_dense.doctor",
        "swin_dense.export",
        "swin_dense.images.finder",
        "swin_dense.images.labelled_check",
        "swin_dense.importing",
        "swin_dense.metrics",
        "swin_dense.migration",
        "swin_dense.report",
        "swin_dense.serve",
        "swin_dense.stats",
        "swin_dense.tasks",
        "swin_dense.visualize.curves",
        "swin_dense.videos.check",
        "swin_dense.visualize.inspection",
        "swin_dense.weights",
    },
}
"""What each room may import beside the standard library, itself, `errors` and `files`; a name covers all below it."""


@cache
def sources() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_modules(tree: ast.AST, package: str) -> Iterator[str]:
    """Absolute names of what a file imports: `from a import b` gives "a.b" where b is one of our modules, else "a"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (
                f"{module}.{alias.name}" if is_ours(f"{module}.{alias.name}") else module for alias in node.names
            )
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                yield str(node.args[0].value)


def is_ours(module: str) -> bool:
    parts = module.split(".")
    path = PACKAGE.joinpath(*parts[1:])
    return parts[0] == "swin_dense" and (path.with_suffix(".py").is_file() or path.is_dir())


def package_of(path: Path) -> str:
    return ".".join(("swin_dense", *path.relative_to(PACKAGE).parent.parts))


def is_below(module: str, allowed: str) -> bool:
    return module == allowed or module.startswith(f"{allowed}.")


def foreign_imports(path: Path) -> Iterator[str]:
    """What a file imports beside the standard library, its own room, `errors` and `files`."""
    for module in imported_modules(sources()[path], package_of(path)):
        free = ("swin_dense.errors", "swin_dense.files", f"swin_dense.{room_of(path)}")
        if module.split(".")[0] not in sys.stdlib_module_names and not any(is_below(module, one) for one in free):
            yield module


def test_every_room_is_in_the_table() -> None:
    assert {room_of(path) for path in sources()} - {"__init__"} <= set(ALLOWED)


def test_every_import_is_allowed_by_the_table() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE.parent)} imports {module}"
        for path in sources()
        for module in foreign_imports(path)
        if not any(is_below(module, allowed) for allowed in ALLOWED.get(room_of(path), set()))
    ]
    assert wrong == []


def test_openmmlab_alone_imports_openmmlab() -> None:
    """A rule of its own, so that no line of the table can undo it; reading config files is not a model's side."""
    wrong = [
        f"{path.relative_to(PACKAGE.parent)} imports {module}"
        for path in sources()
        for module in foreign_imports(path)
        if module.split(".")[0] in OPENMMLAB
        and room_of(path) != "openmmlab"
        and not (room_of(path) in ("config", "migration") and is_below(module, "mmengine.config"))
    ]
    assert wrong == []


def test_rooms_import_each_other_in_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in sources():
        modules = {module for module in foreign_imports(path) if is_below(module, "swin_dense")}
        graph.setdefault(room_of(path), set()).update(
            module.split(".")[1] for module in modules - {"swin_dense", "swin_dense.records"}
        )
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("script", sorted((PACKAGE.parent / "tools").rglob("*.py")), ids=lambda path: path.stem)
def test_scripts_import_what_there_is(script: Path) -> None:
    """The type checker does not look at them, and most are run by hand alone."""
    names = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and is_below(node.module, "swin_dense")
        for alias in node.names
    ]
    missing = [f"{module}.{name}" for module, name in names if not hasattr(importlib.import_module(module), name)]
    assert [one for one in missing if not is_ours(one)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import mmdet.models as m", ["mmdet.models"]),
        ("def f():\n    from mmdet.models import X", ["mmdet.models"]),
        ("from swin_dense import data", ["swin_dense.data"]),
        ("from swin_dense.data import samplers, CocoDataset", ["swin_dense.data.samplers", "swin_dense.data"]),
        ("from . import rle", ["swin_dense.metrics.rle"]),
        ("from ..records import Batch", ["swin_dense.records"]),
        ("import importlib\nimportlib.import_module('mmseg')", ["importlib", "mmseg"]),
        ("__import__('mmcv')", ["mmcv"]),
    ],
)
def test_imports_are_found_in_every_form(source: str, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"swin_dense.data", "swin_dense.data.samplers", "swin_dense.records", "swin_dense.metrics.rle"}
    monkeypatch.setattr(sys.modules[__name__], "is_ours", known.__contains__)
    assert list(imported_modules(ast.parse(source), "swin_dense.metrics")) == found


IMPORT_AND_TELL = """
import json, sys, time
import torch, torchvision
start = time.process_time()
import {module}
print(json.dumps([time.process_time() - start, sorted(name.split(".")[0] for name in sys.modules)]))
"""


def test_backbones_import_in_a_moment_and_bring_neither_openmmlab_nor_lightning() -> None:
    seconds, modules = import_in_new_process("swin_dense.backbones")
    assert modules.isdisjoint(
        OPENMMLAB | {"lightning", "pytorch_lightning", "timm", "transformers", "matplotlib", "cv2"}
    )
    assert seconds < 1.0


def test_the_command_line_starts_without_torch() -> None:
    """`--help`, a typing error or a wrong path is answered at once."""
    command = [sys.executable, "-c", "import sys, swin_dense.cli; print('torch' in sys.modules)"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert answer.stdout.strip() == "False"


def import_in_new_process(module: str) -> tuple[float, set[str]]:
    """Processor time of an import on top of torch and torchvision, and every top-level module in memory after it."""
    command = [sys.executable, "-c", IMPORT_AND_TELL.format(module=module)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    seconds, modules = json.loads(answer.stdout)
    return seconds, set(modules)
