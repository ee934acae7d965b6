"""What the doctor finds wrong, each ailment simulated, and what it prescribes."""

from __future__ import annotations

import builtins
import importlib.util
import json
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from swin_dense import devices
from swin_dense.config import load_config
from swin_dense.doctor import installation as doctor
from swin_dense.doctor.installation import GIB, Problem

HEALTHY = {
    "swin-dense": "0.1.0",
    "torch": "2.9.0+cu128",
    "torchvision": "0.24.0",
    "lightning": "2.6.1",
    "numpy": "2.1.0",
    "opencv-python": "4.12.0.88",
    "mmengine": "0.10.7",
    "mmcv-lite": "2.1.0",
    "mmdet": "3.3.0",
    "mmsegmentation": "1.2.2",
}
NEEDED = [
    Requirement(line)
    for line in ("lightning>=2.5,!=2.6.2,!=2.6.3", "mmcv-lite>=2.1,<2.2", "mmdet>=3.3", "numpy>=1.26", "ftfy", "torch")
]
TORCHVISION_NEEDS = [Requirement("torch==2.9.0"), Requirement("numpy")]


def versions_without(*missing: str, **others: str) -> dict[str, str]:
    kept = {name: version for name, version in HEALTHY.items() if name not in missing}
    return kept | {name.replace("_", "-"): version for name, version in others.items()}


def version_problems(installed: dict[str, str]) -> list[Problem]:
    return list(doctor.check_versions(installed, NEEDED, TORCHVISION_NEEDS))


def import_problem(**reasons: str) -> Problem:
    """The one problem that comes of these import failures."""
    reasons = {module.replace("_ops", ".ops"): reason for module, reason in reasons.items()}
    (problem,) = doctor.explain_imports(reasons, HEALTHY, NEEDED)
    assert problem.severity == "error"
    return problem


def test_a_healthy_environment_has_no_version_problem() -> None:
    assert version_problems(HEALTHY) == []
    assert list(doctor.check_providers(HEALTHY)) == []


@pytest.mark.parametrize("release", ["2.6.2", "2.6.3"])
def test_a_compromised_lightning_is_reported_and_never_imported(release: str) -> None:
    installed = versions_without(lightning=release)
    (problem,) = version_problems(installed)
    assert problem.severity == "error"
    assert f"lightning {release} is a compromised release" in problem.what
    assert "lightning!=2.6.2,!=2.6.3,>=2.5" in problem.remedy and "credential" in problem.remedy

    imported: list[str] = []
    outcomes = doctor.try_imports(installed, imported.append)
    assert "lightning" not in imported and "torch" in imported
    assert outcomes["lightning"] == f"lightning {release} is compromised"
    assert list(doctor.explain_imports(outcomes, installed, NEEDED)) == [], "said once, not twice"


@pytest.mark.parametrize(
    ("installed", "what"),
    [
        (versions_without(numpy="1.24.4"), "numpy 1.24.4 does not fit: numpy>=1.26"),
        (versions_without(mmcv_lite="2.2.0"), "mmcv-lite 2.2.0 does not fit: mmcv-lite<2.2,>=2.1"),
        (versions_without("mmcv-lite", mmcv="2.2.0"), "mmcv 2.2.0 does not fit: mmcv-lite<2.2,>=2.1"),
        (versions_without(torch="2.8.0"), "torchvision 0.24.0 was built for torch==2.9.0, not 2.8.0"),
        (versions_without("swin-dense"), "without being installed"),
    ],
)
def test_versions_that_do_not_fit_are_named_with_what_is_needed(installed: dict[str, str], what: str) -> None:
    (problem,) = version_problems(installed)
    assert problem.severity == "error" and what in problem.what and "pip install" in problem.remedy


def test_the_onedl_forks_and_a_full_mmcv_are_as_good() -> None:
    originals = ("mmengine", "mmcv-lite", "mmdet", "mmsegmentation")
    onedl = {"onedl-mmengine": "0.10.12", "onedl-mmcv": "2.3.6", "onedl-mmdetection": "3.5.1"}
    forks = versions_without(*originals) | onedl | {"onedl-mmsegmentation": "1.4.2"}
    full = versions_without("mmcv-lite", mmcv="2.1.0")
    for installed in (forks, full):
        assert version_problems(installed) == []
        assert list(doctor.check_providers(installed)) == []


def test_two_builds_of_opencv_are_a_warning() -> None:
    (problem,) = doctor.check_providers(versions_without(opencv_python_headless="4.12.0.88"))
    assert problem.severity == "warning"
    assert "opencv-python and opencv-python-headless both bring the module cv2" in problem.what
    assert problem.remedy.startswith("pip uninstall -y opencv-python opencv-python-headless")


def test_mmcv_beside_mmcv_lite_is_an_error() -> None:
    (problem,) = doctor.check_providers(versions_without(mmcv="2.1.0"))
    assert problem.severity == "error" and "mmcv-lite and mmcv both bring the module mmcv" in problem.what


def test_packages_of_both_openmmlab_families_are_an_error() -> None:
    one_fork = versions_without("mmdet", onedl_mmdetection="3.5.1")
    (problem,) = doctor.check_providers(one_fork)
    assert problem.severity == "error" and "onedl-mmdetection are of two families" in problem.what

    both = list(doctor.check_providers(versions_without(onedl_mmdetection="3.5.1")))
    assert any("mmdet and onedl-mmdetection both bring the module mmdet" in problem.what for problem in both)


def test_a_missing_libgl_is_one_problem_for_all_modules_that_want_opencv() -> None:
    reason = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"
    problem = import_problem(cv2=reason, mmcv=reason, mmdet=reason)
    assert problem.what.startswith("cv2, mmcv, mmdet cannot be imported: ImportError: libGL.so.1")
    assert "opencv-python-headless" in problem.remedy and "apt install libgl1" in problem.remedy


@pytest.mark.parametrize(
    ("module", "reason", "remedy"),
    [
        ("torchvision", "RuntimeError: operator torchvision::nms does not exist", "torch torchvision"),
        ("mmseg", "ModuleNotFoundError: No module named 'ftfy'", 'pip install "ftfy"'),
        ("lightning", "ModuleNotFoundError: No module named 'lightning'", 'install "lightning!=2.6.2,!=2.6.3,>=2.5"'),
        ("mmdet", "AssertionError: MMCV==2.2.0 is used but incompatible. Please install", '"mmcv-lite>=2.1,<2.2"'),
        ("mmcv_ops", "ImportError: _ext.so: undefined symbol: _ZN", '--force-reinstall "mmcv-lite<2.2,>=2.1"'),
        ("pycocotools", "ValueError: numpy.dtype size changed", '--force-reinstall "pycocotools"'),
        ("mmdet_models", "ValueError: No `Args` section is found in the docstring of `Output`.", "without -OO"),
        ("tensorboard", "ModuleNotFoundError: No module named 'pkg_resources'", 'pip install "pkg_resources"'),
    ],
)
def test_every_known_import_failure_has_its_remedy(module: str, reason: str, remedy: str) -> None:
    assert remedy in import_problem(**{module: reason}).remedy


def test_a_module_that_fails_does_not_hide_the_others() -> None:
    def import_module(name: str) -> None:
        if name in ("cv2", "mmdet.models"):
            raise OSError(f"{name} is broken")

    outcomes = doctor.try_imports(HEALTHY, import_module)
    assert {name: reason for name, reason in outcomes.items() if reason} == {
        "cv2": "OSError: cv2 is broken",
        "mmdet.models": "OSError: mmdet.models is broken",
    }


@pytest.mark.parametrize(("version", "fits"), [((3, 9), False), ((3, 10), True), ((3, 14), True), ((3, 15), False)])
def test_python_itself(version: tuple[int, int], fits: bool) -> None:
    assert (list(doctor.check_python(version)) == []) is fits


def test_little_room_is_a_warning() -> None:
    assert list(doctor.check_space(5 * GIB, None)) == list(doctor.check_space(5 * GIB, GIB)) == []
    disk, memory = doctor.check_space(GIB, 64 * 2**20)
    assert disk.severity == memory.severity == "warning"
    assert "1.0 GiB of disk" in disk.what
    assert "/dev/shm has 0.06 GiB" in memory.what and "--shm-size" in memory.remedy
    assert "data.num_workers=0" in memory.remedy
    assert load_config("demo/mask-rcnn_swin-nano_shapes", ["data.num_workers=0"]).data.num_workers == 0


def test_a_device_that_computes_wrongly_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.failure_on("cpu") is None
    assert "nonexistent" in (devices.failure_on("nonexistent") or "")
    monkeypatch.setattr(devices, "nms", lambda boxes, scores, threshold: scores.argsort())
    assert "kept boxes" in (devices.failure_on("cpu") or "")

    monkeypatch.setattr(doctor, "try_imports", lambda installed: dict.fromkeys(doctor.IMPORTED) | {"mmcv.ops": "no"})
    diagnosis = doctor.examine()
    assert not diagnosis.ok
    assert any(problem.what.startswith("cpu") and "small computation" in problem.what for problem in diagnosis.problems)


def test_an_idle_nvidia_driver_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "nvidia_driver_is_idle", lambda: True)
    _, problems = doctor._examine_devices()
    assert [problem.severity for problem in problems] == ["warning"]


def test_this_environment_is_healthy_and_the_diagnosis_is_plain_json() -> None:
    diagnosis = doctor.examine()
    assert diagnosis.ok, diagnosis.problems
    said = json.loads(json.dumps(diagnosis.to_dict()))
    assert said["ok"] is True
    assert set(said["imports"].values()) == {None}
    assert said["versions"]["swin-dense"] and said["versions"]["torch"]
    assert said["mmcv_ops"] in ("torchvision", "compiled")
    assert said["devices"][-1]["name"] == "cpu" and said["devices"][-1]["failure"] is None


def test_without_libgl_the_diagnosis_is_not_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> ModuleType:
        if name in ("cv2", "mmcv"):
            raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
        return real(name, package)

    examined = doctor.try_imports(doctor.installed_versions(), import_module)
    monkeypatch.setattr(doctor, "try_imports", lambda installed: examined)
    diagnosis = doctor.examine()
    assert not diagnosis.ok
    (problem,) = (one for one in diagnosis.problems if one.severity == "error")
    assert problem.what.startswith("cv2, mmcv cannot be imported: ImportError: libGL.so.1")


def test_the_doctor_itself_needs_nothing_that_may_be_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> ModuleType:
        if name.split(".")[0] in ("torch", "torchvision", "lightning", "mmcv", "mmdet", "cv2", "numpy"):
            raise ImportError(f"{name} is broken")
        return real(name, *args, **kwargs)

    spec = importlib.util.find_spec("swin_dense.doctor.installation")
    assert spec is not None and spec.loader is not None
    monkeypatch.setattr(builtins, "__import__", refuse)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
