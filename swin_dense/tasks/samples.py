"""Pictures of training samples as the model sees them, after all that is done to them at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from swin_dense.config import Config
from swin_dense.data.samplers import SeededDataset
from swin_dense.files import check_output_folder
from swin_dense.records import Sample
from swin_dense.tasks import data_module
from swin_dense.visualize.classification import film_strip
from swin_dense.visualize.detections import draw_instances
from swin_dense.visualize.pictures import Picture, as_picture, captioned, enlarged, save_picture, spread
from swin_dense.visualize.segmentation import draw_segmentation

CELL = 480
"""Longest side of a sample in the grid, in pixels."""

COLUMNS = 4


def draw_samples(config: Config, folder: Path, count: int = 16) -> list[Path]:
    """Draws training samples, spread over the data set, with boxes, masks, label maps or classes.

    They are those of the first epoch, pixel by pixel; what is done to whole batches (Mixup, CutMix) is not in them.
    The folder gets a picture for each, of a clip a strip of frames, named like its image or video, and all of them in
    `grid.png`, which comes first in the list of what is written.
    """
    check_output_folder(folder)
    data = data_module(config)
    data.setup("fit")
    samples: SeededDataset[Sample] = SeededDataset(data.train_dataset, data.train_transform, data.seed)
    total = min(len(samples), data.limit_images or len(samples))
    pictures, paths = [], []
    for place in spread(total, count):
        sample = samples[(0, place)]
        pictures.append(_drawn(sample, data))
        paths.append(folder / f"{place:06d}_{Path(sample.file_name).stem}.png")
        save_picture(paths[-1], pictures[-1])
    save_picture(folder / "grid.png", _grid(pictures))
    return [folder / "grid.png", *paths]


def _drawn(sample: Sample, data: Any) -> Picture:
    """A sample with whatever it has to be learnt from."""
    picture = as_picture(film_strip(sample.image))
    if sample.label_map is not None and sample.instances is None:
        return draw_segmentation(picture, sample.label_map, data.class_names, data.palette)
    if sample.instances is not None:
        return draw_instances(picture, sample.instances, data.class_names)
    return captioned(enlarged(picture), "" if sample.label is None else data.class_names[sample.label])


def _grid(pictures: list[Picture]) -> Picture:
    """Pictures in rows, each reduced to fit its cell; strips of frames one below the other."""
    height, width = pictures[0].shape[:2]
    columns = 1 if width > COLUMNS * height else min(COLUMNS, len(pictures))
    cells = []
    for picture in pictures:
        cell = Image.fromarray(picture)
        cell.thumbnail((CELL * COLUMNS if columns == 1 else CELL, CELL))
        cells.append(cell)
    rows = -(-len(cells) // columns)
    width, height = max(cell.width for cell in cells), max(cell.height for cell in cells)
    grid = Image.new("RGB", (columns * (width + 6) - 6, rows * (height + 6) - 6), "white")
    for place, cell in enumerate(cells):
        grid.paste(cell, (place % columns * (width + 6), place // columns * (height + 6)))
    return np.asarray(grid)
