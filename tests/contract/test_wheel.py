"""What pip installs works outside the clone: recipes by name, training, and one line where OpenCV is broken."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from swin_dense.data.shapes import write_shapes
from swin_dense.doctor.installation import PROVIDERS

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = ("swin_dense", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left behind in the clone and nothing left there gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source, target = REPOSITORY / name, folder / "source" / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source"))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-compile", "--target", str(folder), str(wheel))
    return folder


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def run(installed: Path, folder: Path, *words: str, first: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command of what is installed, in some folder; modules in `first` hide those of other packages."""
    path = [str(one) for one in (first, installed) if one is not None]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "swin_dense.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, env=environment)


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "swin_dense").rglob("*.py")}
    recipes = {
        f"swin_dense/{path.relative_to(REPOSITORY).as_posix()}" for path in (REPOSITORY / "configs").rglob("*.py")
    }
    assert packed == package | recipes | {"swin_dense/py.typed", "swin_dense/report/page.html"}


def test_recipes_are_found_and_copied_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    listed = run(installed, tmp_path, "configs", "nano_shapes")
    assert listed.returncode == 0 and "mask-rcnn_swin-nano_shapes" in listed.stdout, listed.stderr
    copied = run(installed, tmp_path, "configs", "mask-rcnn_swin-t_fpn_1x_coco", "--copy", "mine.py")
    assert copied.returncode == 0, copied.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
    assert run(installed, tmp_path, "configs", "upernet_swin-nano_shapes", "--copy", "mine.py").returncode == 2
    assert "Mask R-CNN on Swin-T" in (tmp_path / "mine.py").read_text()


def test_a_recipe_trains_by_its_name_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path / "shapes", train=4, val=2)
    words = ["--data", "shapes", "--set", "schedule.epochs=1", "--set", "schedule.milestones=[]"]
    done = run(installed, tmp_path, "train", "mask-rcnn_swin-nano_shapes", *words, "--set", "data.num_workers=0")
    assert done.returncode == 0, done.stderr
    made = tmp_path / "runs" / "mask-rcnn_swin-nano_shapes"
    assert {"config.py", "weights.safetensors", "last.ckpt"} <= {path.name for path in made.iterdir()}


def test_an_opencv_that_does_not_import_is_said_in_one_line(installed: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    reason = "libGL.so.1: cannot open shared object file: No such file or directory"
    (broken / "cv2.py").write_text(f"raise ImportError({reason!r})")
    done = run(installed, tmp_path, "stats", "mask-rcnn_swin-nano_shapes", first=broken)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: OpenCV does not import ({reason})")
    assert line.endswith("&& pip install opencv-python-headless")


def test_the_version_is_that_of_the_wheel(wheel: Path, installed: Path, tmp_path: Path) -> None:
    code = "import swin_dense; print(swin_dense.__version__, swin_dense.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", code]
    version, file = subprocess.check_output(command, text=True, cwd=tmp_path, env=environment).split()
    assert wheel.name.startswith(f"swin_dense-{version}-")
    assert Path(file).is_relative_to(installed)


EXTRAS = ("onnx", "onnxscript", "onnxruntime", "transformers")
"""Modules of extras that are imported by name, in a loop."""

NOT_IMPORTED_BY_US = {
    "ftfy": "imported by mmsegmentation without declaring it",
    "opencv-python": "imported by mmcv and supervision, which does not declare it",
    "regex": "imported by mmsegmentation without declaring it",
    "supervision": "what users convert results to",
    "tensorboard": "imported by Lightning's logger, which does not declare it",
}

BROUGHT_BY = {"triton": "torch", "starlette": "gradio"}
"""Modules that come with what is declared: Triton is in the wheels of torch for GPUs, starlette is below gradio."""


def test_what_is_imported_is_declared_and_what_is_declared_is_imported(wheel: Path) -> None:
    """Extras for users count as declared, what is there for tests alone does not."""
    (name,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    lines = message_from_bytes(zipfile.ZipFile(wheel).read(name)).get_all("Requires-Dist", [])
    requirements = [Requirement(line) for line in lines]
    ours = ('extra == "test"', 'extra == "docs"')  # what only work on the package itself needs
    declared = {one.name for one in requirements if not any(extra in str(one.marker) for extra in ours)}
    providers = packages_distributions()
    imported = {
        module: {canonicalize_name(one) for one in (*PROVIDERS.get(module, ()), *providers.get(module, (module,)))}
        | {BROUGHT_BY.get(module, "")}
        for module in imported_modules() - {"swin_dense", *sys.stdlib_module_names}
    }
    assert [module for module, names in imported.items() if not names & declared] == []
    assert declared - NOT_IMPORTED_BY_US.keys() - set().union(*imported.values()) == set()


def imported_modules() -> set[str]:
    """Top-level modules that the package imports, by statement or by `import_module` of a name in a literal."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (REPOSITORY / "swin_dense").rglob("*.py")]
    modules = set()
    for tree in trees:
        nodes = list(ast.walk(tree))
        modules |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        modules |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
        if any(isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") for node in nodes):
            modules |= {node.value for node in nodes if isinstance(node, ast.Constant) and node.value in EXTRAS}
    return {module.partition(".")[0] for module in modules}
