"""Pages of the documentation that are made of the code, for mkdocs: configuration, errors, quick start, architecture.

`make docs` runs it as a hook of mkdocs; nothing is written into `docs`.
"""

from __future__ import annotations

import ast
import inspect
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from swin_dense import errors
from swin_dense.config import TASKS

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "swin_dense"


class Key(NamedTuple):
    """A key of a config: its dotted name, type, default ("" where it is needed) and meaning, as Markdown."""

    name: str
    kind: str
    default: str
    meaning: str


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages; mkdocs calls it once its own are listed."""
    from mkdocs.structure.files import File

    pages = {
        "index.md": from_root("README.md"),
        "architecture.md": from_root("ARCHITECTURE.md"),
        "configuration.md": configuration_page(),
        "errors.md": errors_page(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def from_root(name: str) -> str:
    """A page of the repository's root, with links as they are inside `docs`."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    for old, new in {
        "](docs/": "](",
        "](ARCHITECTURE.md": "](architecture.md",
        "](swin_dense/config)": "](configuration.md)",
    }.items():
        text = text.replace(old, new)
    return text


def config_keys(task: str) -> Iterator[Key]:
    """Every key of a task's configs, in the order of the schema, sections after plain keys."""
    yield from _keys(getattr(import_module(f"swin_dense.config.{task}"), TASKS[task]), "")


def _keys(schema: type, prefix: str) -> Iterator[Key]:
    hints, meanings = typing.get_type_hints(schema), _meanings(schema)
    sections = []
    for field in fields(schema):
        name, kind = f"{prefix}{field.name}", hints[field.name]
        if is_dataclass(kind):
            sections.append((name, kind))
            continue
        default = field.default if field.default_factory is MISSING else field.default_factory()
        yield Key(name, _kind(kind), "" if default is MISSING else repr(default), meanings.get(field.name, ""))
    for name, kind in sections:
        yield from _keys(typing.cast(type, kind), f"{name}.")


def _meanings(schema: type) -> dict[str, str]:
    """What the docstrings of a class, and of those above it, say of its attributes."""
    found: dict[str, str] = {}
    for one in reversed(schema.__mro__):
        _, _, section = inspect.cleandoc(one.__doc__ or "").partition("Attributes:\n")
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section, re.MULTILINE):
            found[name] = " ".join(text.split())
    return found


def _kind(hint: Any) -> str:
    """A type as a user reads it."""
    if isinstance(hint, types.UnionType):
        return " or ".join(_kind(one) for one in typing.get_args(hint))
    if hint is type(None):
        return "None"
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        return f"list of {_kind(items[0])}" if items[-1] is Ellipsis else f"({', '.join(map(_kind, items))})"
    if typing.get_origin(hint) is dict or hint is dict:
        return "dict"
    return "anything" if hint in (Any, object) else str(hint.__name__)


def configuration_page() -> str:
    """The reference of all keys, a table for each task."""
    lines = [
        "# Configuration",
        "",
        "Every key of a config file, by task. `--set KEY=VALUE` changes one on the command line, "
        '`**{"KEY": VALUE}` in Python. A key without a default has to be there; the recipes set all of them.',
    ]
    for task in TASKS:
        lines += ["", f"## {task.capitalize()}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{key.name}` | {key.kind} | {f'`{key.default}`' if key.default else ''} | {_cell(key.meaning)} |"
            for key in config_keys(task)
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def errors_page() -> str:
    """Every class of errors, with the messages that the program can raise as it; `...` stands for what varies."""
    lines = [
        "# Errors",
        "",
        "What a user can cause is a subclass of `swin_dense.errors.SwinDenseError`: an exception in Python, one "
        "message and exit status 2 on the command line (`--debug` shows the traceback). `...` stands for what varies.",
    ]
    messages = raised_messages()
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.SwinDenseError):
            first = inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]
            lines += ["", f"## {name}", "", first, ""]
            lines += [f"- {_prose(text)} *({place})*" for text, place in sorted(messages.get(name, ()))]
    return "\n".join(lines) + "\n"


def _prose(text: str) -> str:
    """A message as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


def raised_messages() -> dict[str, set[tuple[str, str]]]:
    """The messages in `raise` statements of the package by class, each with its module."""
    found: dict[str, set[tuple[str, str]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.args:
                text = _template(call.args[0])
                if len(text.replace("...", "").split()) > 2:
                    found.setdefault(call.func.id, set()).add((text, module))
    return found


def _template(node: ast.expr) -> str:
    """A text in code, with `...` for what is computed."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(one) for one in node.values)
    if isinstance(node, ast.BinOp):
        return _template(node.left) + _template(node.right)
    return "..."
