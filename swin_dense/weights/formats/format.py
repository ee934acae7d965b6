"""A weight format: the tables of one library, and what its files hold beside a backbone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from swin_dense.errors import WeightsError
from swin_dense.weights.formats.table import Converted, Reading, Table


@dataclass(frozen=True)
class Format:
    """The tables of one library.

    Attributes:
        name: The public name, as in `load_weights(..., format=name)`.
        reading: Every name of a backbone, or of a classifier around it, that files of this format hold.
        forms: What is written: one table per class of the library, which names things in its own way or lacks some.
        optional_prefix: A prefix that some classes of that library put before some of the names.
        around: The names around the backbone in whole detectors and segmenters, against those of mmdet and mmseg; empty
            if only backbones come in this format.
        has_buffers: Whether files hold computed tensors, which tells formats of the same names apart; None if nothing
            has to be told apart.
        wrapper: The entry of a `torch.save` file under which the library looks for the weights; empty if at the top.
    """

    name: str
    reading: Table
    forms: tuple[Table, ...]
    optional_prefix: str = ""
    around: Table = Table()
    has_buffers: bool | None = None
    wrapper: str = ""

    def read(self, key: str) -> Reading | None:
        """Looks a key of this format up; None if the format does not have it."""
        return self.reading.read(key.removeprefix(self.optional_prefix))

    def to_official(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Converted], tuple[str, ...]]:
        """Renames and rearranges a state dict of this format.

        Args:
            tensors: The state dict of a backbone, or of a classifier around it, in this format.

        Returns:
            The converted tensors by official name, and the keys that the format does not have.

        Raises:
            WeightsError: Two keys stand for one parameter, a part of a parameter is missing, or a tensor has a shape
                that cannot be rearranged.
        """
        keys: dict[str, str] = {}
        for key in tensors:
            bare = key.removeprefix(self.optional_prefix)
            if bare in keys:
                raise WeightsError(f"{keys[bare]} and {key} both stand for one parameter")
            keys[bare] = key
        official, unmatched = self.reading.to_official({bare: tensors[key] for bare, key in keys.items()})
        converted = {
            name: Converted(item.tensor, tuple(keys[key] for key in item.keys), item.change)
            for name, item in official.items()
        }
        return converted, tuple(keys[key] for key in unmatched)

    def form_for(self, official: Iterable[str]) -> Table:
        """The form that has a place for most of these official names."""
        names = list(official)
        return max(self.forms, key=lambda form: sum(form.write(name) is not None for name in names))

    def has_around(self, name: str) -> bool:
        """Whether files of this format may hold a tensor beside the backbone, by its name in mmdet or mmseg."""
        return self.around.write(name) is not None

    def write_around(self, tensors: Mapping[str, Tensor]) -> dict[str, Converted]:
        """Renames what surrounds a backbone, from the names of mmdet and mmseg."""
        return self.around.from_official(tensors)

    def from_official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renames and rearranges official tensors into this format: the inverse of `to_official`.

        Args:
            tensors: The state dict of a backbone with official names and no prefix.

        Returns:
            The state dict in this format, bit for bit what `to_official` came from.

        Raises:
            WeightsError: The format has no place for a name.
        """
        form = self.form_for(tensors)
        if homeless := _without_place(form, tensors):
            raise WeightsError(f"the {self.name} format has no name for {', '.join(homeless)}")
        return {name: item.tensor for name, item in form.from_official(tensors).items()}


def _without_place(form: Table, names: Collection[str]) -> list[str]:
    return [name for name in names if form.write(name) is None]
