"""What predictions of every task share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swin_dense.data.folder import ImageFiles
from swin_dense.errors import ConfigError


def images_to_predict(images: Sequence[Path], output: Path, *folders: str) -> ImageFiles:
    """Lists images, and makes sure that results can be written without touching any of them.

    Args:
        images: Image files, or folders that are searched for images.
        output: Folder of the results; it need not exist.
        *folders: Those below it that pictures are written to, besides `output` itself.

    Returns:
        The images; what lies in `output` is none, unless it is named itself.

    Raises:
        ConfigError: `output` is a file, or a picture could overwrite an image.
        DataError: There is no image.
    """
    if (blocking := next((place for place in (output, *output.parents) if place.is_file()), None)) is not None:
        raise ConfigError(f"{blocking} is a file; name a folder with --output")
    files = ImageFiles(images, output)
    written = {(output / folder).resolve() for folder in (".", *folders)}
    for path in files.paths:
        if path.parent.resolve() in written:
            raise ConfigError(
                f"{path} lies where pictures are written and could be overwritten; name another folder with --output"
            )
    return files
