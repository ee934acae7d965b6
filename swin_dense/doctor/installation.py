"""Looks at what is installed, and says what would fail and how to fix it.

What is installed is read from package metadata; what works is seen by importing it and by computing a little on every
device. A release that is known to be compromised is not imported.
"""

from __future__ import annotations

import importlib
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from swin_dense.files import home_not_needed

if TYPE_CHECKING:
    from swin_dense.devices import Device

GIB = 2**30

PROVIDERS: dict[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "lightning": ("lightning",),
    "numpy": ("numpy",),
    "PIL": ("pillow", "pillow-simd"),
    "cv2": ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "mmengine": ("mmengine", "mmengine-lite", "onedl-mmengine"),
    "mmcv": ("mmcv-lite", "mmcv", "onedl-mmcv"),
    "mmdet": ("mmdet", "onedl-mmdetection"),
    "mmseg": ("mmsegmentation", "onedl-mmsegmentation"),
    "faster_coco_eval": ("faster-coco-eval",),
} | {
    name: (name,)
    for name in (
        "ftfy",
        "regex",
        "hotcoco",
        "msgspec",
        "pycocotools",
        "safetensors",
        "typer",
        "rich",
        "supervision",
        "matplotlib",
        "tensorboard",
    )
}
"""Modules that are used, and the distributions that bring each. One is enough; two overwrite each other's files."""

IMPORTED = (*PROVIDERS, "mmcv.ops", "mmdet.models", "mmseg.models")
"""What is imported as a test, the basic modules first."""

COMPROMISED = {"lightning": ("2.6.2", "2.6.3")}
"""Releases that carry malicious code."""

HEADLESS = (
    "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless; "
    "or keep opencv-python and apt install libgl1 libglib2.0-0"
)
"""One OpenCV, and one that needs no system library: uninstalling one of two takes files of the other with it."""

REMEDIES = (
    (
        r"lib(GL|EGL|xcb|X\w+|SM|ICE)\.so|libgthread|libglib|No module named 'cv2|module 'cv2' has no attribute",
        HEADLESS,
    ),
    (r"torchvision::nms", "install both together: pip install --force-reinstall torch torchvision"),
    (r"MMCV==\S+ is used but incompatible", 'pip uninstall -y mmcv mmcv-lite && pip install "mmcv-lite>=2.1,<2.2"'),
    (
        r"[Dd]ocstring",
        "run Python without -OO and PYTHONOPTIMIZE=2, which take away the docstrings that libraries read",
    ),
    (r"No module named '(?P<module>\w+)", 'pip install "{distribution}"'),
)
"""Messages of failing imports, and what fixes them; the last resort is to install the distribution again."""


@dataclass(frozen=True)
class Problem:
    """What is wrong and what to do; an "error" makes something fail, a "warning" may."""

    severity: Literal["error", "warning"]
    what: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """State of this installation: versions by distribution, and why a module does not import by module."""

    python: str
    system: str
    versions: dict[str, str]
    imports: dict[str, str | None]
    mmcv_ops: Literal["compiled", "torchvision"] | None
    devices: tuple[Device, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is known that would fail."""
        return not any(problem.severity == "error" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists and strings, for JSON."""
        return {"ok": self.ok, **asdict(self)}


def examine() -> Diagnosis:
    """Examines this Python environment and machine; takes as long as importing everything does."""
    installed = installed_versions()
    needed = requirements_of("swin-dense")
    imports = try_imports(installed)
    devices, device_problems = _examine_devices() if imports["torchvision"] is None else ((), [])
    problems = [
        *check_python(sys.version_info[:2]),
        *check_versions(installed, needed, requirements_of("torchvision")),
        *check_providers(installed),
        *explain_imports(imports, installed, needed),
        *device_problems,
        *check_space(shutil.disk_usage(Path.cwd()).free, _shared_memory()),
    ]
    used = {name for names in PROVIDERS.values() for name in names} | {"swin-dense"}
    return Diagnosis(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        versions={name: installed[name] for name in sorted(used & installed.keys())},
        imports=imports,
        mmcv_ops=_mmcv_ops() if imports["mmcv.ops"] is None else None,
        devices=devices,
        problems=tuple(sorted(problems, key=lambda problem: problem.severity)),
    )


def installed_versions() -> dict[str, str]:
    """Every distribution of this environment, by its normalised name, with its version."""
    return {canonicalize_name(one.metadata["Name"]): one.version for one in metadata.distributions()}


def requirements_of(distribution: str) -> list[Requirement]:
    """What a distribution declares to need on this Python, extras left out; nothing where it is not installed."""
    try:
        requirements = [Requirement(line) for line in metadata.requires(distribution) or []]
    except metadata.PackageNotFoundError:
        return []
    return [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]


def check_python(version: tuple[int, ...]) -> Iterator[Problem]:
    """Whether this Python, by its major and minor version, is one of those that are supported."""
    if not (3, 10) <= version < (3, 15):
        yield Problem("error", f"Python {version[0]}.{version[1]} is not supported", "use Python 3.10 to 3.14")


def check_versions(
    installed: Mapping[str, str], needed: Iterable[Requirement], torchvision_needs: Iterable[Requirement]
) -> Iterator[Problem]:
    """Compares versions with what swin-dense needs, and torch with the one that torchvision was built for."""
    if "swin-dense" not in installed:
        yield Problem("error", "swin-dense is run from its source without being installed", "pip install -e .")
    for requirement in needed:
        name = _provider(canonicalize_name(requirement.name), installed)
        version = installed.get(name)
        if version in COMPROMISED.get(name, ()):
            what = f"{name} {version} is a compromised release; it was not imported"
            yield Problem("error", what, f'pip install "{requirement}"; renew every credential that this machine holds')
        elif version is not None and not name.startswith("onedl-") and not _fits(version, requirement):
            remedy = f'pip uninstall -y {name} && pip install "{requirement}"'
            yield Problem("error", f"{name} {version} does not fit: {requirement} is needed", remedy)
    for requirement in torchvision_needs:
        if requirement.name == "torch" and not _fits(installed.get("torch", "0"), requirement):
            what = f"torchvision {installed['torchvision']} was built for {requirement}, not {installed.get('torch')}"
            yield Problem("error", what, "pip install --force-reinstall torch torchvision")


def _fits(version: str, requirement: Requirement) -> bool:
    return requirement.specifier.contains(version, prereleases=True)


def _provider(distribution: str, installed: Mapping[str, str]) -> str:
    """The distribution that is installed in the place of this one, or itself."""
    alternatives = next((names for names in PROVIDERS.values() if distribution in names), ())
    return next((name for name in alternatives if name in installed), distribution)


def check_providers(installed: Mapping[str, str]) -> Iterator[Problem]:
    """Finds distributions that write the same files, and OpenMMLab packages from both of its families."""
    for module, names in PROVIDERS.items():
        found = [name for name in names if name in installed]
        if len(found) > 1:
            what = f"{' and '.join(found)} both bring the module {module}, one over the files of the other"
            # Two builds of OpenCV mostly get along.
            severity: Literal["error", "warning"] = "warning" if module == "cv2" else "error"
            yield Problem(severity, what, f"pip uninstall -y {' '.join(found)}, then install one of them again")
    families = {
        "onedl" if name.startswith("onedl-") else "openmmlab": name
        for module in ("mmengine", "mmcv", "mmdet", "mmseg")
        for name in PROVIDERS[module]
        if name in installed
    }
    if len(families) > 1:
        what = f"{families['openmmlab']} and {families['onedl']} are of two families that do not go together"
        yield Problem("error", what, "keep mmengine, mmcv-lite, mmdet and mmsegmentation, or the four onedl-* packages")


def try_imports(
    installed: Mapping[str, str], import_module: Callable[[str], object] = importlib.import_module
) -> dict[str, str | None]:
    """Module to the reason why it does not import, None where it does; a compromised one is not imported."""
    outcomes: dict[str, str | None] = {}
    for module in IMPORTED:
        if installed.get(module) in COMPROMISED.get(module, ()):
            outcomes[module] = f"{module} {installed[module]} is compromised"
            continue
        try:
            if module.startswith("mm"):
                from swin_dense.openmmlab.registry import install

                install()
            with home_not_needed():
                import_module(module)
            outcomes[module] = None
        except Exception as error:  # whatever a broken package raises while it is imported is the finding
            outcomes[module] = f"{type(error).__name__}: {error}"
    return outcomes


def explain_imports(
    imports: Mapping[str, str | None], installed: Mapping[str, str], needed: Iterable[Requirement]
) -> Iterator[Problem]:
    """One problem per cause: modules that fail for the same reason, as `try_imports` finds them, are named together."""
    causes: dict[str, list[str]] = {}
    for module, reason in imports.items():
        if reason is not None and not reason.endswith("is compromised"):
            causes.setdefault(reason, []).append(module)
    requirements = {canonicalize_name(one.name): str(one) for one in needed}
    for reason, modules in causes.items():
        remedy, module = 'pip install --force-reinstall "{distribution}"', modules[0].split(".")[0]
        for pattern, known_remedy in REMEDIES:
            if match := re.search(pattern, reason):
                remedy, module = known_remedy, match.groupdict().get("module", module)
                break
        distribution = _provider(PROVIDERS.get(module, (module,))[0], installed)
        remedy = remedy.format(distribution=requirements.get(canonicalize_name(distribution), distribution))
        yield Problem("error", f"{', '.join(modules)} cannot be imported: {reason}", remedy)


def _mmcv_ops() -> Literal["compiled", "torchvision"]:
    spec = sys.modules["mmcv._ext"].__spec__
    return "torchvision" if spec is not None and spec.origin == "torchvision" else "compiled"


def _examine_devices() -> tuple[tuple[Device, ...], list[Problem]]:
    from swin_dense.devices import find_devices, nvidia_driver_is_idle

    devices = find_devices()
    problems = [
        Problem(
            "error",
            f"{device.name} ({device.description}) fails at a small computation: {device.failure}",
            "install builds of torch and torchvision that are made for this device",
        )
        for device in devices
        if device.failure is not None
    ]
    if nvidia_driver_is_idle():
        what = "there is an NVIDIA driver that torch cannot use: everything runs on the CPU"
        problems.append(Problem("warning", what, "update the driver, or install the torch build for its CUDA version"))
    return devices, problems


def _shared_memory() -> int | None:
    """Size of the file system through which worker processes hand over their batches."""
    return shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None


def check_space(disk_free: int, shared_memory: int | None) -> Iterator[Problem]:
    """Whether checkpoints have room on the disk, and batches in /dev/shm, where there is one; both in bytes."""
    if disk_free < 5 * GIB:
        what = f"{disk_free / GIB:.1f} GiB of disk are free here; one run of a Swin-T Mask R-CNN takes more than 1 GiB"
        yield Problem("warning", what, "free some, or train from a folder on a larger disk")
    if shared_memory is not None and shared_memory < GIB:
        what = f"/dev/shm has {shared_memory / GIB:.2f} GiB; data loader workers stop when it is full"
        yield Problem("warning", what, "docker run --shm-size=8g, or data.num_workers=0")
