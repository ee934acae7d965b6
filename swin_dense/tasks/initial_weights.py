"""The weights that a training starts from: those of the same classes, of other classes, or of a backbone alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from torch import nn

from swin_dense.config import Config
from swin_dense.errors import WeightsError
from swin_dense.tasks import class_layers
from swin_dense.tasks.run_folder import is_first_process
from swin_dense.weights import LoadReport, load_weights
from swin_dense.weights.files import read_class_names, same_classes

SHOWN = 5
"""Class names in a message."""

console = Console(stderr=True)


def load_initial_weights(
    network: nn.Module,
    weights: Path,
    config: Config,
    class_names: Sequence[str],
    *,
    new_classes: bool | None = None,
    ignore: Sequence[str] = (),
) -> None:
    """Loads weights to train on from, and says what became of them.

    Layers that depend on the classes are never taken from weights of other classes.

    Args:
        network: Freshly initialised.
        weights: Checkpoint, of a whole model or of a backbone.
        config: Of the network.
        class_names: Of the data.
        new_classes: True re-initialises the layers whose size depends on the number of classes, whatever is there.
            False takes them, even if the names of the classes differ. None takes them unless the names differ.
        ignore: Further parameters to leave out.

    Raises:
        WeightsError: The weights do not fit, or belong to other classes and `new_classes` does not say what to do.
    """
    layers = class_layers(config)
    theirs = read_class_names(weights)
    trained_on = f"was trained on {'other' if theirs is None else len(theirs)} classes{_first(theirs or ())}"
    wanted = f"the {len(class_names)} classes of the data{_first(class_names)}"
    try:
        report = load_weights(network, weights, ignore=[*ignore, *layers] if new_classes else ignore)
    except WeightsError as error:
        if new_classes or not _fits_without(layers, network, weights, ignore):
            raise
        raise WeightsError(
            f"{weights} {trained_on}: {_modules(layers)} do not fit {wanted}; pass --new-classes to re-initialise them"
        ) from error
    kept = _taken(layers, report)
    if kept and new_classes is None and theirs is not None and not same_classes(theirs, class_names):
        raise WeightsError(
            f"{weights} {trained_on}, and {_modules(kept)} would predict those as {wanted}; pass --new-classes to "
            "re-initialise these layers, or --same-classes if only the names differ"
        )
    if is_first_process():
        lines = [report.summary()]
        if new_classes:
            lines.append(f"re-initialised for {wanted}: {_modules(layers)}")
        elif kept and theirs is None:
            lines.append(f"the weights do not name their classes; they are taken for {wanted}")
        console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _fits_without(layers: Sequence[str], network: nn.Module, weights: Path, ignore: Sequence[str]) -> bool:
    """Whether nothing but the layers of the classes stands in the way."""
    try:
        load_weights(network, weights, ignore=[*ignore, *layers])
    except WeightsError:
        return False
    return True


def _taken(layers: Sequence[str], report: LoadReport) -> list[str]:
    missing = {note.name for note in report.missing}
    return [name for name in layers if name not in missing]


def _modules(names: Sequence[str]) -> str:
    """The modules that hold some tensors."""
    return ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _first(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
