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

from swin_dense.data import ADE20KDataModule, ade20k
from swin_dense.data.segmentation_transforms import PhotoMetricDistortion, RandomClassCrop, RandomRatioResize
from swin_dense.data.shapes import SEGMENTATION_CLASS_NAMES, write_shapes
from swin_dense.data.transforms import RandomHorizontalFlip, RandomShortSide
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
    data = data_module(root, test_transform=RandomShortSide((24,), 96), eval_batch_size=2, train_images=root / "absent")
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
        assert_equal([collate(dataset[[(1, 2)]])], [loader.collate_fn(loader.dataset[[(1, 2)]])])


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


def test_the_official_layout_is_all_that_it_needs(root):
    data = ADE20KDataModule(root, num_workers=0)
    data.setup("fit")
    assert len(data.train_dataset) == 7 and len(data.val_dataset) == 3
    assert data.class_names == SEGMENTATION_CLASS_NAMES
    batch = next(iter(data.train_dataloader()))
    assert len(batch) == 2 and batch.images.shape[2:] <= (512, 512)
    named = ADE20KDataModule(root, val_images=root / "images/training", val_labels=root / "annotations/training")
    named.setup("validate")
    assert len(named.val_dataset) == 7


def test_places_that_are_not_named_are_asked_for(root):
    with pytest.raises(ConfigError, match="needs root, or else train_labels, val_images, val_labels"):
        ADE20KDataModule(train_images=root / "images/training")


def with_masks(root: Path, folder: Path, values: tuple[int, int]) -> ADE20KDataModule:
    """The shapes as masks of two values; a third of the pixels has the second."""
    for split in ("training", "validation"):
        (folder / split).mkdir(parents=True)
        for path in (root / "annotations" / split).glob("*.png"):
            mask = np.full((48, 48), values[0], np.uint8)
            mask[:16] = values[1]
            Image.fromarray(mask).save(folder / split / path.name)
    (folder / "names.txt").write_text("background\ntarget\n")
    labels = {"train_labels": folder / "training", "val_labels": folder / "validation"}
    return data_module(root, **labels, classes=folder / "names.txt", label_shift=0)


def test_training_on_masks_of_0_and_255_says_which_class_has_no_pixel_and_why(root, tmp_path, caplog):
    with_masks(root, tmp_path / "fine", (0, 1)).setup("fit")
    assert caplog.text == ""
    data = with_masks(root, tmp_path, (0, 255))
    data.setup("validate")
    assert caplog.text == ""
    data.setup("fit")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "1 of 2 classes have no pixel in 7 training label maps: target; label 255 is ignored on 33.3%" in caplog.text


def test_training_data_without_any_class_is_refused_before_the_first_step(root, tmp_path):
    data = with_masks(root, tmp_path, (255, 255))
    with pytest.raises(DataError, match="no pixel of 7 training label maps has a class: label 255 is ignored on 100"):
        data.setup("fit")


def test_of_many_label_maps_some_are_looked_at_and_the_others_ranks_look_at_none(root, monkeypatch, caplog):
    monkeypatch.setattr(ade20k, "MOST_LOOKED_AT", 2)
    data = data_module(root, ignore_index=65535, classes=None)
    names = tuple(f"class {i}" for i in range(20))
    monkeypatch.setattr(ade20k, "read_classes", lambda path: (names, None))
    data.trainer = standing(0, 0, rank=1, world_size=2)
    data.setup("fit")
    assert caplog.text == ""
    data.train_dataset, data.trainer = None, None
    data.setup("fit")
    assert "classes have no pixel in 2 training label maps spread over all 7" in caplog.text
