"""Lets the documentation show `Example:` sections of docstrings as code, which griffe knows as `Examples:` alone."""

from __future__ import annotations

from typing import Any

from griffe import Extension


class Examples(Extension):
    """Renames the section where a docstring is read."""

    def on_object(self, *, obj: Any, **others: Any) -> None:
        """Is called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
