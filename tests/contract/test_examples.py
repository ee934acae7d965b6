"""Every public name has an example in its docstring, and every example in a docstring of the package runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "swin_dense"

PUBLIC = {
    "swin_dense": ["load", "predict", "train", "tune", "import_data", "evaluate", "export_features"],
    "swin_dense.backbones": ["create_backbone", "SwinTransformer", "FeatureSpec", "SwinVariant"],
    "swin_dense.config": ["load_config", "find_config"],
    "swin_dense.data": ["CocoDataModule", "ADE20KDataModule"],
    "swin_dense.export": ["FeatureStore", "export_features"],
    "swin_dense.metrics": ["CocoMetric", "MeanIoU"],
    "swin_dense.migration": ["convert_config"],
    "swin_dense.models": ["Model"],
    "swin_dense.tasks.detection": ["DetectionResult"],
    "swin_dense.tasks.segmentation": ["SegmentationResult"],
    "swin_dense.training": ["DetectorModule", "SegmenterModule"],
    "swin_dense.weights": ["load_weights", "convert_weights", "fetch_weights", "verify_weights"],
}

WITH_EXAMPLES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in PUBLIC.items() for name in names])
def test_every_public_name_has_an_example(module: str, name: str) -> None:
    public: Any = getattr(importlib.import_module(module), name)
    text = inspect.getdoc(public) or ""
    assert "\nExample:\n" in text
    examples = doctest.DocTestParser().get_examples(text)
    assert [one for one in examples if one.want], "an example shows what comes out"
    assert not [one for one in examples if one.options.get(doctest.SKIP)]


def test_what_the_package_offers_is_public() -> None:
    import swin_dense

    assert {*PUBLIC["swin_dense"], "__version__"} == {*swin_dense.__all__}
    assert isinstance(swin_dense.__version__, str)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_run(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """In an empty folder; warnings that they silence are heard again afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = doctest.testmod(importlib.import_module(module))
    assert done.attempted > 0
    assert done.failed == 0
