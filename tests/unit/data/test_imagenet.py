"""Classification data: what a sample depends on, the official views, and messages for what is wrong."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torchvision import transforms, tv_tensors

from helpers.shards import FORMS, write_split
from swin_dense.data import ImageNetDataModule
from swin_dense.data.classification_transforms import CentreView, official_transform, random_part
from swin_dense.data.shapes import CLASS_NAMES, write_shapes
from swin_dense.errors import ConfigError, DataError
from swin_dense.images.store import ImageStore
from swin_dense.isolation import seeded
from swin_dense.records import Sample


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "shapes", train=12, val=6) / "imagenet"


def photo(height: int, width: int) -> Sample:
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.avg_pool2d(pixels[None].float(), 9, 1, 4)[0].byte()
    return Sample(tv_tensors.Image(smooth), 1, "photo.jpg", (height, width), label=3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_depends_on_seed_epoch_and_index_alone(root: Path, workers: int) -> None:
    batches = []
    for count in (0, workers):
        data = ImageNetDataModule(root, train_transform=official_transform(32), batch_size=4, num_workers=count)
        data.setup("fit")
        batches.append(next(iter(data.train_dataloader())))
    assert torch.equal(batches[0].images, batches[1].images) and batches[0].labels == batches[1].labels
    assert batches[0].images.shape == (4, 3, 32, 32)
    assert data.class_names == tuple(sorted(CLASS_NAMES)) and len(data.val_dataset) == len(data.val_image_ids)


@pytest.mark.parametrize("form", FORMS)
def test_shards_give_the_batches_of_folders_in_every_process(root: Path, tmp_path: Path, form: str) -> None:
    """Written in the order of the folders, so that the same is drawn; pickled and forked, and each image once."""
    classes = tuple(sorted(CLASS_NAMES))
    for split in ("train", "val"):
        names = ImageStore(root / split).names((".jpg",))
        labels = [classes.index(name.split("/")[0]) for name in names]
        rows = [(f"{n:04d}.jpg", (root / split / name).read_bytes(), labels[n]) for n, name in enumerate(names)]
        write_split(tmp_path, form, split, rows, classes, files=2)
    epochs = []
    for place, workers in ((root, 0), (tmp_path, 0), (tmp_path, 2)):
        data = ImageNetDataModule(place, train_transform=official_transform(32), batch_size=4, num_workers=workers)
        data.setup("fit")
        assert data.class_names == classes
        if workers:
            data.train_dataset = pickle.loads(pickle.dumps(data.train_dataset))
        loader = data.train_dataloader()
        loader.multiprocessing_context = "fork" if workers else None
        epochs.append([(batch.images, batch.labels, batch.image_ids) for batch in loader])
    for batches in epochs[1:]:
        assert len(batches) == len(epochs[0]) > 3
        for (images, *others), (expected, *expected_others) in zip(batches, epochs[0], strict=True):
            assert torch.equal(images, expected) and others == expected_others
    data.setup("validate")
    seen = [image_id for batch in data.val_dataloader() for image_id in batch.image_ids]
    assert sorted(seen) == list(range(len(data.val_dataset)))


def test_labels_are_those_of_the_folders(root: Path) -> None:
    data = ImageNetDataModule(root, num_workers=0)
    data.setup("validate")
    for batch in data.val_dataloader():
        assert batch.images.shape[1:] == (3, 224, 224)
        assert [data.class_names[label] for label in batch.labels] == [name.split("/")[0] for name in batch.file_names]


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 2), (64, 4)])
def test_reading_processes_fit_the_machine_unless_they_are_named(
    cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert ImageNetDataModule("root").num_workers == expected
    assert ImageNetDataModule("root", num_workers=8).num_workers == 8


def test_images_without_a_suffix_are_learnt_from(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "data")
    image = next((tmp_path / "data" / "train").glob("*/*.*"))
    expected, data = (ImageNetDataModule(place, num_workers=0) for place in (root, tmp_path / "data"))
    image.rename(image.with_suffix(""))
    for one in (expected, data):
        one.setup("fit")
    assert sorted(data.train_dataset.labels.tolist()) == sorted(expected.train_dataset.labels.tolist())


@pytest.mark.parametrize("size", [(300, 500), (224, 224), (100, 90)])
@pytest.mark.parametrize("resize", [256, None])
def test_the_test_view_is_that_of_torchvision_on_pillow_images(size: tuple[int, int], resize: int | None) -> None:
    """Pillow is what published scores are made with; torchvision resizes tensors to within two grey levels of it."""
    sample = photo(*size)
    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [transforms.Resize(resize or (224, 224), interpolation=bicubic), transforms.CenterCrop(224)]
    expected = transforms.Compose([transforms.ToPILImage(), *steps, transforms.PILToTensor()])(
        sample.image.as_subclass(torch.Tensor)
    )
    view = CentreView(224, resize)(sample)
    assert view.label == 3 and view.image.shape == expected.shape
    assert (view.image.int() - expected.int()).abs().max() <= 2


def test_rand_augment_is_drawn_anew_for_every_place() -> None:
    transform = official_transform(64)
    drawn = []
    for place in ((0, 0, 1), (0, 0, 1), (0, 1, 1), (0, 0, 2)):
        with seeded(*place):
            drawn.append(transform(photo(80, 120)).image)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[3])


def test_rand_augment_is_that_of_timm() -> None:
    timm = pytest.importorskip("timm.data.transforms_factory")
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    reference = timm.create_transform(
        64,
        is_training=True,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        hflip=0.0,
        re_prob=0.0,
        **whole,
    ).transforms[1]
    sample = photo(64, 64)
    for index in range(6):
        with seeded(0, 0, index):
            ours = random_part(64, (1.0, 1.0), (1.0, 1.0), 0.0, "rand-m9-mstd0.5-inc1").transforms[2](sample).image
        with seeded(0, 0, index):
            theirs = reference(transforms.functional.to_pil_image(sample.image.as_subclass(torch.Tensor)))
        assert torch.equal(ours.as_subclass(torch.Tensor), transforms.functional.pil_to_tensor(theirs))


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ConfigError, match='timm does not understand "rand-x9"'):
        random_part(64, (0.1, 1.0), (1.0, 1.0), 0.5, "rand-x9")
    with pytest.raises(ConfigError, match="cannot be cut out"):
        CentreView(224, 200)
    with pytest.raises(DataError, match="too long"):
        CentreView(224, 256).of(torch.zeros(3, 1, 400_000, dtype=torch.uint8))


def test_the_shapes_are_cut_out_of_their_scenes(root: Path) -> None:
    """Each cut-out lies in the folder of its class, and in its scene."""
    store = ImageStore(root / "train")
    names = store.names((".jpg",))
    assert {name.split("/")[0] for name in names} <= set(CLASS_NAMES) and len(names) > 12
    for name in names[:3]:
        cut = store.read(name)
        assert 10 < min(cut.shape[1:]) and max(cut.shape[1:]) <= 128


def test_a_folder_without_splits_is_named_with_the_split_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="train: no such folder or zip file of images"):
        ImageNetDataModule(tmp_path).setup("fit")
