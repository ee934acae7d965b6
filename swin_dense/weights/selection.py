"""Names that a caller gives, of tensors or of modules around them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from swin_dense.errors import WeightsError

IGNORED = "named in ignore"
"""Why a tensor is not taken that the caller does not want."""


def selection(option: str, names: Iterable[str]) -> tuple[str, ...]:
    """Takes the names of an argument.

    Args:
        option: Name of the argument, for the message.
        names: What was given.

    Raises:
        WeightsError: One text was given instead of several names.
    """
    if isinstance(names, str):
        raise WeightsError(f'{option} takes several names; write ("{names}",)')
    return tuple(names)


def check_selection(option: str, names: Iterable[str], keys: Collection[str]) -> None:
    """Refuses names that nothing has.

    Args:
        option: Name of the argument, for the message.
        names: What was given.
        keys: Tensors that there are.

    Raises:
        WeightsError: One of the names is not there.
    """
    for name in names:
        if not is_named([name], *keys):
            raise WeightsError(f'{option} names "{name}", but no parameter and no module around one is called so')


def is_named(names: Iterable[str], *keys: str) -> bool:
    """Whether one of the keys, or a module around it, is named."""
    return any(key == name or key.startswith(f"{name}.") for name in names for key in keys)
