"""Renews docs/compatibility.md: trains, predicts and exports in this environment, and enters its versions as tried.

Run it in every environment that is to be in the table: `python tools/compatibility.py`.
"""

from __future__ import annotations

import platform
import re
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "compatibility.md"
PACKAGES = ("torch", "torchvision", "lightning", "numpy", "mmdet", "mmsegmentation", "mmcv-lite")
RULE = "|---|---|---|---|---|---|---|---|---|---|\n"
"""Below the head of the table."""

ROW = re.compile(r"^\| 3\.\d+.*\|$", re.MULTILINE)


def tried() -> str:
    """The row of this environment, once a detector and a segmenter have been trained and have predicted in it.

    The detector is exported, too; the row says which sizes of images the ONNX file takes.
    """
    import swin_dense
    from swin_dense.data.shapes import write_shapes
    from swin_dense.errors import ConfigError

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        root = write_shapes(Path(folder) / "shapes", train=4, val=2)
        for recipe, data, length in (
            ("mask-rcnn_swin-nano_shapes", root, {"epochs": 1}),
            ("upernet_swin-nano_shapes", root / "ade20k", {"steps": 2}),
        ):
            run = swin_dense.train(recipe, data=data, run=f"{folder}/{recipe}", **length, **{"data.num_workers": 0})
            model = swin_dense.load(run)
            model.predict(next((root / "images" / "val").iterdir()))
            if recipe.startswith("mask-rcnn"):
                try:
                    sizes = "any" if "height" in model.export(f"{folder}/model.onnx")["open_axes"] else "one"
                except ConfigError as error:
                    print(error, file=sys.stderr)
                    sizes = "none"
    versions = [version(name).partition("+")[0] for name in PACKAGES]
    return f"| {' | '.join([platform.python_version(), *versions, sizes, system()])} |"


def system() -> str:
    """The operating system, as people call it."""
    if sys.platform == "linux":
        return f"{platform.freedesktop_os_release().get('PRETTY_NAME', 'Linux')}, {platform.machine()}"
    return f"{platform.system()} {platform.release()}, {platform.machine()}"


def with_row(page: str, row: str) -> str:
    """The page with one more row in its table of what was tried; a row of the same versions is there once."""
    rows = sorted({*ROW.findall(page), row}, reverse=True)
    head, _, rest = page.partition(RULE)
    return head + RULE + "\n".join(rows) + "\n\n" + ROW.sub("", rest).lstrip("\n")


if __name__ == "__main__":
    PAGE.write_text(with_row(PAGE.read_text(encoding="utf-8"), tried()), encoding="utf-8")
