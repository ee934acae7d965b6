"""The documentation as a site: what is generated is complete, examples are run or say why not, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from swin_dense import errors
from swin_dense.config import TASKS

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = {path.name: path.read_text("utf-8") for path in [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]}
IN_TESTS = "\n".join(path.read_text("utf-8") for path in (REPOSITORY / "tests").rglob("*.py") if path != Path(__file__))
BLOCK = re.compile(r"(?P<before>[^\n]*)\n```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)
PROGRAM = re.compile(r"^(?:swin-dense|pip|make|python|source|torchrun|import|from|[A-Z_]+=)", re.MULTILINE)


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


docs_pages = tool("docs_pages")


@pytest.mark.parametrize("task", TASKS)
def test_every_key_of_a_config_has_a_type_and_a_meaning(task: str) -> None:
    keys = {key.name: key for key in docs_pages.config_keys(task)}
    assert {"task", "data.root", "optimizer.learning_rate", "training.seed", "augmentation.extra"} <= keys.keys()
    assert {name for name, key in keys.items() if not key.kind or not key.meaning.endswith((".", "`"))} == set()
    assert (keys["data.root"].default, keys["training.accumulate"].default) == ("", "1")


def test_every_error_has_what_it_means_and_the_messages_that_are_raised() -> None:
    page = docs_pages.errors_page()
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.SwinDenseError)]
    assert [kind.__name__ for kind in kinds if f"\n## {kind.__name__}\n" not in page or not kind.__doc__] == []
    assert "- ...: no such config file, and no recipe of that name; ... *(config.parsing)*" in page


@pytest.mark.parametrize("page", PAGES)
def test_every_example_is_run_by_a_test_or_says_why_not(page: str) -> None:
    """Blocks marked as sh or python are run where a test names the page; others with programs in them have a reason."""
    for block in BLOCK.finditer("\n" + PAGES[page]):
        if block["language"] in ("sh", "python") and page in IN_TESTS:
            continue
        if block["language"] or PROGRAM.search(block["text"]):
            assert re.match(r"\s*<!-- not run: .{10,} -->$", block["before"]), block["text"]


@pytest.mark.parametrize("page", PAGES)
def test_links_to_other_sites_have_the_form_of_their_site(page: str) -> None:
    """What they lead to is looked up by hand; the site's own links and anchors are checked when it is built."""
    forms = (r"github\.com/[\w-]+/[\w.-]+", r"arxiv\.org/abs/\d{4}\.\d{5}", r"pypi\.org/project/[\w-]+/")
    links = re.findall(r"\]\((\w+:[^)]*)\)", PAGES[page])
    assert [link for link in links if not re.fullmatch(f"https://(?:{'|'.join(forms)})", link)] == []


def test_an_environment_is_in_the_table_of_compatibility_once() -> None:
    with_row = tool("compatibility").with_row
    row = "| 3.10.1 | 2.6.0 | 0.21.0 | 2.6.1 | 1.26.4 | 3.3.0 | 1.2.2 | 2.1.0 | any | Linux |"
    page = with_row(PAGES["compatibility.md"], row)
    assert page.count(row) == 1 and with_row(page, row) == page
    assert page.replace(f"{row}\n", "") == PAGES["compatibility.md"]


def test_the_site_builds_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install 'swin-dense[docs]'")
    words = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.name: path.read_text("utf-8") for path in (tmp_path / "site").glob("*.html")}
    assert {f"{Path(name).stem}.html" for name in PAGES if name != "README.md"} | {"index.html"} <= pages.keys()
    assert "swin_dense.backbones.variants.create_backbone" in pages["api.html"]
    fetched = [
        url for text in pages.values() for url in re.findall(r'<(?:script|link|img)[^>]+"(https?://[^"]+)', text)
    ]
    assert fetched == []
