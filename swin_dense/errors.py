"""The errors a user can cause, and findings, which checks of data collect.

Each says what is wrong, where (file, image id, annotation id, config key) and what to do. The command line prints them
without a traceback and exits with status 2, or 130 where a signal stopped it. Our own mistakes are `assert`s and
ordinary exceptions instead.
"""

from __future__ import annotations

import difflib
import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal


class SwinDenseError(Exception):
    """Base of every error that a user can cause and fix."""


class ConfigError(SwinDenseError):
    """A config file, a key in it, or a command-line override is wrong."""


class DataError(SwinDenseError):
    """An annotation file or an image is missing, damaged or inconsistent.

    Attributes:
        problems: Every problem found, one line each; the message shows the first ones.
    """

    shown = 20

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        """Joins the message with the first `shown` problems.

        Args:
            message: What is wrong, naming the file.
            problems: One line per problem, each naming its item.
        """
        self.problems = tuple(problems)
        lines = [message, *(f"  - {problem}" for problem in self.problems[: self.shown])]
        if len(self.problems) > self.shown:
            lines.append(f"  ... and {len(self.problems) - self.shown} more")
        super().__init__("\n".join(lines))


class WeightsError(SwinDenseError):
    """A checkpoint is unreadable, unsafe, of an unknown format, or does not fit the model."""


class OutputError(SwinDenseError):
    """A file cannot be written: the disk is full, the system refuses it, or another process fills its folder."""


class InstallationError(SwinDenseError):
    """A package that is needed is missing or does not import."""


class UnsupportedOpError(SwinDenseError):
    """A compiled mmcv operator was called that no torchvision kernel stands in for."""


class WorkerError(SwinDenseError):
    """A process that reads data cannot hand it over: /dev/shm is full, or too many files are open."""


class TrainingError(SwinDenseError):
    """Training cannot go on: a non-finite loss, or a run folder that cannot be resumed."""


class TrainingInterruptedError(SwinDenseError):
    """A signal stopped a training, or a long evaluation, of which a file keeps what was done; says how to continue."""


class BenchmarkError(SwinDenseError):
    """A contestant of a benchmark failed, took too long, or computes something else than ours."""


Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, what to do about it, and the image and annotation concerned, if any.

    Attributes:
        kind: The rule that is broken, such as "box-outside"; the same for all findings of one rule.
        file: The annotation file or the image that it is about.
        severity: An error stops training. A warning is what official COCO has too, and is safe to train on.
    """

    kind: str
    file: str
    message: str
    fix: str
    image_id: int | None = None
    annotation_id: int | None = None
    severity: Severity = "error"

    @classmethod
    def of_error(cls, kind: str, path: Path, error: Exception) -> Finding:
        """An error that concerns a whole folder or file."""
        message, _, fix = str(error).removeprefix(f"{path}: ").partition("; ")
        return cls(kind, str(path), message, fix or "name the right one")

    def __str__(self) -> str:
        """One line that names the item and the fix; the file is named only where it is an image."""
        items = [
            f"{name} {number}"
            for name, number in (("image", self.image_id), ("annotation", self.annotation_id))
            if number is not None
        ]
        return f"{', '.join(items) or self.file}: {self.message}; {self.fix}"

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What is wrong with data that was checked; the reports of the checks say besides what is in it."""

    problems: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether training can use the data: there may be warnings, but no errors."""
        return not self.severities()["errors"]

    def severities(self) -> dict[str, int]:
        """How many errors and warnings there are."""
        counts = Counter(problem.severity for problem in self.problems)
        return {"errors": counts["error"], "warnings": counts["warning"]}

    def findings(self) -> dict[str, Any]:
        """The findings by name, ready for JSON, counted by kind."""
        return {
            "ok": self.ok,
            "problem_counts": dict(Counter(problem.kind for problem in self.problems)),
            "problems": [problem.to_dict() for problem in self.problems],
        }


_typed = ContextVar("_typed", default=False)

_TYPED_OTHERWISE = {"class_name": "--class"}


@contextmanager
def on_command_line() -> Iterator[None]:
    """Lets messages name options as they are typed in a terminal, not as they are passed in Python."""
    token = _typed.set(True)
    try:
        yield
    finally:
        _typed.reset(token)


def option(name: str, value: object = True) -> str:
    """An argument as whoever reads the message writes it: `new_classes=True`, or `--new-classes` in a terminal."""
    if not _typed.get():
        plain = str(value) if isinstance(value, PathLike) else value
        text = json.dumps(plain, ensure_ascii=False) if isinstance(plain, str | list) else repr(value)
        return f"{name}={text}"
    if isinstance(value, list):
        return " ".join(option(name, one) for one in value)
    if name == "new_classes" and value is False:
        return "--same-classes"
    text = _TYPED_OTHERWISE.get(name, f"--{name.replace('_', '-')}")
    return text if value is True else f"{text} {shlex.quote(str(value))}"


def setting(key: str, value: object = ...) -> str:
    """A change of a config key, likewise: `**{"data.batch_size": 2}`, or `--set data.batch_size=2`; `...` for any."""
    shown = "..." if value is ... else value
    return f"--set {key}={shown}" if _typed.get() else f'**{{"{key}": {"..." if value is ... else repr(value)}}}'


def training_resumed(run: PathLike[str]) -> str:
    """How a training is continued."""
    said = option("resume", run)
    return f"swin-dense train {said}" if _typed.get() else f"swin_dense.train({said})"


def data_import(source: PathLike[str], to: str) -> str:
    """How data of another format are imported, into "OUT"; `to` is "coco" or "label-maps"."""
    form = [] if to == "coco" else [option("to", to)]
    if _typed.get():
        return " ".join(["swin-dense import-data", shlex.quote(str(source)), "OUT", *form])
    arguments = [json.dumps(str(source), ensure_ascii=False), '"OUT"', *form]
    return f"swin_dense.import_data({', '.join(arguments)})"


def nearest(name: str, valid: Iterable[str]) -> str:
    """`did you mean "x"?` for a mistyped name, or the list of valid names where none is near."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1)
    return f'did you mean "{close[0]}"?' if close else f"valid: {', '.join(valid)}"


def check_lowest(section: str, settings: object, **lowest: float) -> None:
    """Refuses numbers of a config section that are below a lowest one, infinite or NaN; None is always allowed."""
    for name, least in lowest.items():
        number = getattr(settings, name)
        if number is not None and not least <= number < math.inf:
            raise ConfigError(f"{section}.{name} must be at least {least}, got {number}")


def check_positive(section: str, settings: object, *names: str) -> None:
    """Refuses numbers of a config section that are not above 0, infinite or NaN; None is always allowed."""
    for name in names:
        number = getattr(settings, name)
        if number is not None and not 0 < number < math.inf:
            raise ConfigError(f"{section}.{name} must be above 0, got {number}")
