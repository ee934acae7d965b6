"""The segmentation data module: what it reads, what its batches hold, and that training goes on where it stood."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import Compose, Identity

from swin_dense.data import ADE20KDataModule
from swin_dense.data.segmentation_transforms import PhotoMetricDistortion, RandomClassCrop, RandomRatioResize
from swin_dense.data.shapes import SEGMENTATION_CLASS_NAMES, write_shapes
from swin_dense.data.transforms import RandomHorizontalFlip, ResizeShortSide
from swin_dense.errors import ConfigError, DataError, TrainingError
from swin_dense.label_maps.layout import official_layout
from swin_dense.records import IGNORE_INDEX, Batch

RECIPE = Compose(
    [RandomRatioResize((256, 64)), RandomClassCrop((32, 32)), RandomHorizontalFlip(), PhotoMetricDistortion()]
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "shapes", train=7, val=3, size=48) / "ade20k"


def data_module(root: Path, **changes: Any) -> ADE20KDataModule:
    settings = {"train_transform": RECIPE, "test_transform": Identity(), "batch_size": 2, "num_workers": 0, "seed": 4}
    return ADE20KDataModule(**{**vars(official_layout(root)), **settings, **changes})


def standing(epoch: int, batch: int, rank: int = 0, world_size: int = 1) -> Any:
    """A trainer that stands before a batch of an epoch."""
    fit_loop = SimpleNamespace(batch_idx=batch - 1)
    return SimpleNamespace(global_rank=rank, world_size=world_size, current_epoch=epoch, fit_loop=fit_loop)


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert [batch.image_ids for batch in ours] == [batch.image_ids for batch in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images, other.images)
        assert all(map(torch.equal, one.label_maps, other.label_maps))


def test_training_batches_are_crops_with_label_maps_of_the_same_size(root):
    data = data_module(root)
    data.setup("fit")
    assert data.class_names == SEGMENTATION_CLASS_NAMES and data.palette is None
    batches = list(data.train_dataloader())
    assert {image_id for batch in batches for image_id in batch.image_ids} == set(range(7))
    for batch in batches:
        assert batch.images.shape == (2, 3, 32, 32) and batch.images.dtype == torch.uint8
        assert batch.sizes == ((32, 32),) * 2 == tuple(tuple(one.shape) for one in batch.label_maps)
        assert batch.instances is None and set(batch.original_sizes) == {(48, 48)}
    labels = torch.cat([one.flatten() for batch in batches for one in batch.label_maps]).unique().tolist()
    assert (
        labels[0] == IGNORE_INDEX
        and labels[1:] == sorted(labels[1:])
        and 2 < len(labels) <= 1 + len(SEGMENTATION_CLASS_NAMES)
    )


def test_validation_batches_have_the_label_maps_of_the_disk_beside_resized_images(root):
    data = data_module(root, test_transform=ResizeShortSide(24, 96), eval_batch_size=2, train_images=root / "absent")
    data.setup("validate")
    batches = list(data.val_dataloader())
    assert [batch.image_ids for batch in batches] == [(0, 1), (2,)] and data.val_image_ids == (0, 1, 2)
    for batch in batches:
        assert batch.images.shape[2:] == (24, 24)
        for name, label_map in zip(batch.file_names, batch.label_maps, strict=True):
            raw = np.asarray(Image.open(root / f"annotations/validation/{Path(name).stem}.png")).astype(np.int32)
            np.testing.assert_array_equal(label_map.numpy(), raw - 1)  # 0, a border, becomes -1 = IGNORE_INDEX


def test_an_epoch_goes_on_in_the_middle_exactly_with_any_number_of_workers_and_ranks(root):
    for rank in (0, 1):
        whole, resumed = (data_module(root, num_workers=workers) for workers in (0, 2))
        for data, batch in ((whole, 0), (resumed, 1)):
            data.setup("fit")
            data.trainer = standing(3, batch, rank, world_size=2)
        batches = list(whole.train_dataloader())
        assert len(batches) == 2
        assert_equal(list(resumed.train_dataloader()), batches[1:])
    resumed.batch_size = 3
    with pytest.raises(TrainingError, match="batch_size was 2, is 3"):
        resumed.train_dataloader().load_state_dict(whole.train_dataloader().state_dict())


def test_epochs_and_repeats_of_an_image_differ_and_a_small_set_fills_a_large_batch(root):
    data = data_module(root, batch_size=8, limit_images=3)
    data.setup("fit")
    (first,) = data.train_dataloader()
    data.trainer = standing(1, 0)
    (second,) = data.train_dataloader()
    assert len(first) == len(second) == 8 and set(first.image_ids) == {0, 1, 2}
    assert not torch.equal(first.images, second.images)


def test_ranks_share_validation_without_repeats(root):
    seen = []
    for rank in (0, 1):
        data = data_module(root)
        data.setup("validate")
        data.trainer = standing(0, 0, rank, world_size=2)
        seen += [image_id for batch in data.val_dataloader() for image_id in batch.image_ids]
    assert seen == [0, 2, 1]


def test_what_workers_need_can_be_sent_to_a_spawned_process(root):
    data = data_module(root)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        dataset, collate = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
        assert_equal([collate([dataset[1, 2]])], [loader.collate_fn([loader.dataset[1, 2]])])


def test_the_class_list_is_found_beside_the_annotations_or_named(root, tmp_path):
    data = data_module(root, classes=None)
    data.setup("validate")
    assert data.class_names == SEGMENTATION_CLASS_NAMES
    named = tmp_path / "names.txt"
    named.write_text("\n".join(f"thing {number}" for number in range(9)))
    data = data_module(root, classes=named)
    data.setup("validate")
    assert data.class_names[8] == "thing 8"


def test_too_few_classes_for_the_labels_are_an_error_that_names_the_file(root, tmp_path):
    named = tmp_path / "names.txt"
    named.write_text("circle\n")
    data = data_module(root, classes=named)
    data.setup("fit")
    with pytest.raises(DataError, match=r"ADE_train_.*\.png: labels .* are no class: files hold 1\.\.1"):
        list(data.train_dataloader())


def test_limit_images_uses_the_first_ones_and_says_so(root, caplog):
    data = data_module(root, limit_images=2)
    with caplog.at_level(logging.INFO):
        data.setup("fit")
    assert "training uses the first 2 of 7 images" in caplog.text and data.val_image_ids == (0, 1)
    assert {image_id for batch in data.train_dataloader() for image_id in batch.image_ids} == {0, 1}


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"limit_images": 0}, {"num_workers": -1}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(root, change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        data_module(root, **change)


def test_an_ignore_index_that_is_a_class_is_refused(root):
    data = data_module(root, label_shift=0, ignore_index=3)
    with pytest.raises(ConfigError, match="ignore_index 3 is a class"):
        data.setup("validate")
