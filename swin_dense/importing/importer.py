"""Imports a data set: reads it, orders its classes, splits it, writes it, and reports what was left out."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any
from uuid import uuid4

from swin_dense.errors import ConfigError, DataError, nearest, option
from swin_dense.files import check_output_folder, written
from swin_dense.images.alike import Hash, difference_hash, group_alike
from swin_dense.images.store import ImageError, ImageStore
from swin_dense.importing import splits as splitting
from swin_dense.importing import writing
from swin_dense.importing.geometry import with_box_outline
from swin_dense.importing.layouts import FORMATS, required_format
from swin_dense.importing.records import BACKGROUND, IN_TWO_SPLITS, Imported, ImportedImage
from swin_dense.label_maps.classes import read_class_names
from swin_dense.records import Progress, in_threads

TARGETS = ("coco", "label-maps")

NO_LABEL_MAPS = {"no-label-map", "missing-image"}
"""What is wrong with all of a folder in which images have no label maps, but a mask for each object."""


@dataclass(frozen=True)
class ImportReport:
    """What an import has written and what it left out; `import.json` in the new folder holds the same.

    Attributes:
        source: What was imported.
        output: The new folder.
        format: Format of the source.
        to: "coco" or "label-maps".
        classes: Class names in the order of their category ids or labels.
        images: Images by split.
        instances: Instances by split and class; of label maps, the images on which a class occurs.
        dropped: What was left out: kind, file, message and fix of each.
        changed: What was changed, and how often, such as boxes that were clipped to their image.
        notes: Decisions about the whole source.
    """

    source: str
    output: str
    format: str
    to: str
    classes: list[str]
    images: dict[str, int]
    instances: dict[str, dict[str, int]]
    dropped: list[dict[str, str]] = field(default_factory=list)
    changed: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def dropped_by_kind(self) -> dict[str, int]:
        """How many of each kind were left out."""
        return dict(Counter(one["kind"] for one in self.dropped))

    def to_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON."""
        return {**asdict(self), "dropped_by_kind": self.dropped_by_kind}

    def lines(self) -> list[str]:
        """What was decided, changed and left out; of the last, the first of each kind and how many there are."""
        kinds = self.dropped_by_kind
        first = {one["kind"]: one for one in reversed(self.dropped)}
        return [
            *self.notes,
            *(f"{count} {what}" for what, count in self.changed.items()),
            *(
                f"left out, {count} x {kind}: {first[kind]['file']}: {first[kind]['message']}; {first[kind]['fix']}"
                for kind, count in kinds.items()
            ),
        ]

    def summary(self) -> list[str]:
        """What there is now."""
        counts = ", ".join(
            f"{name}: {count} images, {sum(self.instances[name].values())} instances"
            for name, count in self.images.items()
        )
        return [
            f"{self.output}: {counts}; {len(self.classes)} classes: {', '.join(self.classes)}",
            f"{len(self.dropped)} left out, all listed in {Path(self.output) / 'import.json'}",
        ]


def import_data(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    format: str | None = None,
    to: str = "coco",
    classes: str | PathLike[str] | None = None,
    split: Mapping[str, float] | None = None,
    seed: int = 0,
    group_by: str | None = None,
    images: str = "copy",
    masks: bool | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Makes a data set that trains with this package of one from an annotation tool or another project.

    Args:
        source: Folder of the data set, or the one annotation file that is meant.
        output: The new folder; it must not exist, or be empty. It is there as a whole or not at all.
        format: A key of `FORMATS`; None recognises it.
        to: "coco" for COCO files, or "label-maps" for semantic segmentation in ADE20K's layout.
        classes: File with a class name per line, in the order wanted; objects of other classes are left out. None
            takes the order of the source, or that of the alphabet where it has none.
        split: Fractions of "train", "val" and "test". None keeps the source's own splits; where it has none, or no
            validation, it is 0.8 and 0.2.
        seed: Of the split.
        group_by: Regular expression found in the names of images, of which those with the same first group stay
            together, or "duplicates" for images that look alike.
        images: "copy", "hardlink" or "symlink".
        masks: True leaves out images on which an object has no outline, False leaves out all outlines. None keeps
            outlines where at least half of the objects have one (boxes then get theirs), and else boxes alone.
        progress: Shows how many images are checked.

    Returns:
        What was written, and all that was left out.

    Raises:
        DataError: Nothing can be imported; the message says why.
        ConfigError: An argument is wrong, or `output` is in use.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from swin_dense.importing.importer import import_data
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a", "b"):
        ...     Image.new("RGB", (40, 30)).save(folder / f"{name}.png")
        ...     shape = {"label": "cup", "shape_type": "rectangle", "points": [[2, 3], [20, 25]]}
        ...     document = {"shapes": [shape], "imagePath": f"{name}.png", "imageHeight": 30, "imageWidth": 40}
        ...     _ = (folder / f"{name}.json").write_text(json.dumps(document))
        >>> report = import_data(folder, folder / "out", split={"train": 0.5, "val": 0.5})
        >>> report.format, report.classes, report.images
        ('labelme', ['cup'], {'train': 1, 'val': 1})
    """
    source, output = Path(source), Path(output)
    _check_arguments(output, format, to, images)
    wanted = None if classes is None else read_class_names(Path(classes))
    imported = _read(source, required_format(source, format), to)
    staging = output.absolute().parent / f".{uuid4().hex}"
    try:
        with written(output):
            staging.mkdir(parents=True)
            _put_together(imported)
            imported.images = [_with_class_names(image, imported) for image in imported.images]
            found = _materialised(imported, staging / "embedded")
            _order_classes(imported, wanted, to)
            found = [_with_known_classes(image, imported) for image in found]
            found = _with_outlines(found, masks, imported)
            found, hashes = _readable(found, imported, group_by == splitting.DUPLICATES, progress)
            if not found:
                raise DataError(
                    f"{source}: no image is left to import",
                    [str(one) for one in imported.dropped] or ["no image in it"],
                )
            chosen = _splits(found, split, seed, group_by, hashes, imported)
            arguments = (found, chosen, imported.classes, staging / "data", images)
            if to == "coco":
                counts = writing.write_coco(*arguments)
            else:
                counts = writing.write_label_maps(*arguments, imported.void)
            (staging / "data" / "classes.txt").write_text("".join(f"{one}\n" for one in imported.classes), "utf-8")
            report = ImportReport(
                source=str(source),
                output=str(output),
                format=imported.format,
                to=to,
                classes=imported.classes,
                images={name: chosen.count(name) for name in splitting.NAMES if name in chosen},
                instances={name: {one: counts[name][one] for one in imported.classes} for name in counts},
                dropped=[
                    {"kind": one.kind, "file": one.file, "message": one.message, "fix": one.fix}
                    for one in imported.dropped
                ],
                changed={name: count for name, count in imported.changed.items() if count},
                notes=imported.notes,
            )
            (staging / "data" / "import.json").write_text(json.dumps(report.to_dict(), indent=1), "utf-8")
            if output.is_dir():
                output.rmdir()
            (staging / "data").rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return report


def _check_arguments(output: Path, format: str | None, to: str, images: str) -> None:
    for name, value, valid in (("format", format, FORMATS), ("to", to, TARGETS), ("images", images, writing.WAYS)):
        if value is not None and value not in valid:
            raise ConfigError(f"{option(name, value)}: {nearest(value, valid)}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} exists and is not empty; name a new folder, or remove it")
    check_output_folder(output)


def _read(source: Path, format: str, to: str) -> Imported:
    """What the reader of a format finds; each is imported when it is used."""
    module = "label_maps" if to == "label-maps" and format in ("voc", "masks") else format.replace("-", "_")
    reader: Callable[[Path], Imported] = getattr(import_module(f"swin_dense.importing.{module}"), f"read_{module}")
    imported = reader(source)
    if module == "label_maps" and not imported.images and {one.kind for one in imported.dropped} == NO_LABEL_MAPS:
        return _read(source, format, "coco")  # the outlines of its objects are painted
    return imported


def _put_together(imported: Imported) -> None:
    """One image for each file, with the objects of all places that name it, in the split of the first."""
    found: dict[object, ImportedImage] = {}
    again: dict[str, None] = {}
    for place, image in enumerate(imported.images):
        first = found.setdefault(place if image.embedded else image.path, image)
        if first is image:
            continue
        if first.size != image.size:
            message = f"is annotated twice, for {first.size[1]} x {first.size[0]} and {image.size[1]} x {image.size[0]}"
            imported.drop("two-sizes", image.path, message, "remove the annotation that is wrong")
            continue
        again[image.name] = None
        more = tuple(one for one in image.objects if one not in first.objects)
        imported.changed["objects that are annotated twice alike, kept once"] += len(image.objects) - len(more)
        imported.changed[IN_TWO_SPLITS] += first.split != image.split
        found[image.path] = replace(first, objects=first.objects + more)
    if again:
        shown = ", ".join([*again][:3]) + (", ..." if len(again) > 3 else "")
        imported.notes.append(f"{len(again)} images are annotated in several places, put together: {shown}")
    imported.images = [*found.values()]


def _materialised(imported: Imported, folder: Path) -> list[ImportedImage]:
    """The images, those that lie in annotation files written as files."""
    found = []
    for number, image in enumerate(imported.images):
        with imported.dropping(image.path):
            if image.embedded is not None:
                path = folder / f"{number}{Path(image.name).suffix}"
                folder.mkdir(exist_ok=True)
                path.write_bytes(image.embedded())
                image = replace(image, path=path, embedded=None)
            found.append(image)
    return found


def _with_class_names(image: ImportedImage, imported: Imported) -> ImportedImage:
    """The image without objects whose class has no name that a list of classes can hold."""
    for one in image.objects:
        if not _is_class_name(one.class_name):
            message = f"an object of a class called {ascii(one.class_name)[:80]}"
            imported.drop("bad-class-name", image.path, message, "call it by a line of text")
    return replace(image, objects=tuple(one for one in image.objects if _is_class_name(one.class_name)))


def _is_class_name(text: str) -> bool:
    """Whether it is one line, and no half of a character, which JSON can spell."""
    return text.splitlines() == [text] and text.encode("utf-8", "replace").decode() == text


def _order_classes(imported: Imported, wanted: Sequence[str] | None, to: str) -> None:
    """Gives the classes their order: as wanted, as in the source, else that of the alphabet."""
    used = {one.class_name for image in imported.images for one in image.objects}
    if wanted is not None:
        imported.classes = list(wanted)
        return
    for name in imported.classes:
        if not _is_class_name(name):
            raise DataError(f"a class of the source is called {ascii(name)[:80]}; call it by a line of text")
    if not imported.classes and used:
        imported.notes.append("the source lists no classes: they are in the order of the alphabet")
    unlisted = sorted(used - set(imported.classes))
    if imported.classes and unlisted:
        imported.notes.append(f"not in the source's list of classes, put last: {', '.join(unlisted)}")
    imported.classes = [*imported.classes, *unlisted]
    from_outlines = not any(image.label_map for image in imported.images)
    if to == "label-maps" and from_outlines and BACKGROUND not in imported.classes:
        imported.classes.insert(0, BACKGROUND)
        imported.notes.append(f"pixels outside all outlines are the class {BACKGROUND!r}")


def _with_known_classes(image: ImportedImage, imported: Imported) -> ImportedImage:
    known = set(imported.classes)
    for one in image.objects:
        if one.class_name not in known:
            fix = "add the class to the list, if it is wanted"
            imported.drop("class-not-listed", image.path, f"an object of class {one.class_name!r}", fix)
    return replace(image, objects=tuple(one for one in image.objects if one.class_name in known))


def _with_outlines(images: list[ImportedImage], masks: bool | None, imported: Imported) -> list[ImportedImage]:
    """All objects with outlines, or none of them."""
    objects = [one for image in images for one in image.objects]
    outlined = sum(bool(one.outline) for one in objects)
    if outlined in (0, len(objects)) and masks is not False:
        if masks and objects and not outlined:
            raise DataError(f"no object has an outline; import boxes alone with {option('masks', False)}")
        return images
    if masks is None and 2 * outlined >= len(objects):
        imported.changed["boxes that got their outline from the box"] += len(objects) - outlined
        return [
            replace(image, objects=tuple(one if one.outline else with_box_outline(one) for one in image.objects))
            for image in images
        ]
    if masks:
        kept = []
        for image in images:
            if all(one.outline for one in image.objects):
                kept.append(image)
            else:
                imported.drop("no-outline", image.path, "an object on it has a box alone", "draw its outline")
        return kept
    if masks is None:
        imported.notes.append(
            f"{outlined} of {len(objects)} objects have an outline: boxes alone are written; {option('masks')} takes "
            "the images on which all have one"
        )
    imported.changed["outlines left out"] += outlined
    return [replace(image, objects=tuple(replace(one, outline=[]) for one in image.objects)) for image in images]


def _readable(
    images: list[ImportedImage], imported: Imported, with_hashes: bool, progress: Progress | None
) -> tuple[list[ImportedImage], list[Hash]]:
    """The images that can be decoded and have the size that they are annotated for; several are read at a time."""

    def check(image: ImportedImage) -> Any:
        try:
            pixels = ImageStore(image.path.parent).read(image.path.name, image.size)
        except ImageError as error:
            return error
        return difference_hash(pixels.numpy().transpose(1, 2, 0)) if with_hashes else None

    kept, hashes = [], []
    for image, answer in in_threads(check, images, progress):
        if isinstance(answer, ImageError):
            imported.drop(answer.kind, image.path, answer.fault, answer.fix)
        else:
            kept.append(image)
            hashes.append(answer)
    return kept, hashes


def _splits(
    images: Sequence[ImportedImage],
    wanted: Mapping[str, float] | None,
    seed: int,
    group_by: str | None,
    hashes: Sequence[Hash],
    imported: Imported,
) -> list[str]:
    own = {image.split for image in images}
    if wanted is None and group_by is None and {"train", "val"} <= own and None not in own:
        return [str(image.split) for image in images]
    if wanted is None:
        of_source = f" (the source has {', '.join(sorted(map(str, own - {None})))})" if own != {None} else ""
        shown = ",".join(f"{name}={part:g}" for name, part in splitting.DEFAULT.items())
        imported.notes.append(f"split by {option('split', shown)}, seed {seed}{of_source}")
    names = [image.name for image in images]
    if group_by == splitting.DUPLICATES:
        groups = group_alike(hashes)
    elif group_by is not None:
        groups, alone = splitting.group_names(names, group_by)
        if alone:
            imported.notes.append(f"{alone} names do not match {group_by!r}: each is a group of its own")
    else:
        groups = [f"{place:09d}" for place in range(len(names))]
    if group_by is not None:
        imported.notes.append(f"{len(names)} images in {len(set(groups))} groups")
    return splitting.assign(groups, splitting.DEFAULT if wanted is None else wanted, seed)
