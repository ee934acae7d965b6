"""Labelled videos as a map-style data set of clips, and the Lightning data module of video classification."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch.utils.data import Dataset
from torchvision.transforms.v2 import Identity

from swin_dense.data.classification_transforms import random_clip_view
from swin_dense.data.datamodule_base import ImageDataModule
from swin_dense.data.transforms import Transform
from swin_dense.errors import ConfigError
from swin_dense.images.labelled import ClassList
from swin_dense.records import Sample
from swin_dense.videos.clips import ClipSampling, Views
from swin_dense.videos.labelled import LabelledVideos, find_video_classes, read_labelled_videos
from swin_dense.videos.reader import VideoError, VideoFile

logger = logging.getLogger(__name__)

DENSE, OFFICIAL = ClipSampling(), Views()
"""The official clips of Kinetics, 32 frames of every second, and its 4 x 3 views."""


class VideoDataset(Dataset[Sample]):
    """Labelled videos of one split, each as the frames that are looked at; ids are positions.

    Attributes:
        skipped: (n,) bool, which videos could not be used and gave way to the next one; shared among processes.
    """

    def __init__(
        self, videos: LabelledVideos, sampling: ClipSampling, short_side: int, *, clips: int = 0, skip: bool = False
    ) -> None:
        """Takes the list of the videos; each is decoded when it is asked for.

        Args:
            videos: The list.
            sampling: Which frames make a clip.
            short_side: Pixels of the shorter side to which frames are resized.
            clips: How many clips are taken, in fixed places; 0 draws one at random.
            skip: Whether a video that cannot be used gives way to the next, and is logged, or is an error.
        """
        self.videos, self.sampling, self.short_side, self.clips, self.skip = videos, sampling, short_side, clips, skip
        self.skipped = torch.zeros(len(videos), dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.videos)

    @property
    def labels(self) -> torch.Tensor:
        """(n,) the class of each video."""
        return self.videos.labels

    def __getitem__(self, index: int) -> Sample:
        """Reads the frames of one video, (T, 3, H, W), those of several clips in a row."""
        for tried in range(len(self)):
            place = (index + tried) % len(self)
            try:
                return self._read(place)
            except VideoError as error:
                if not self.skip or tried == len(self) - 1:
                    raise
                if not self.skipped[place]:
                    self.skipped[place] = True
                    logger.warning("skipped: %s", error)
        raise AssertionError("there is no data set without videos")

    def _read(self, index: int) -> Sample:
        video = VideoFile(self.videos.path(index))
        count = len(video)
        wanted = self.sampling.centred(count, self.clips).ravel() if self.clips else self.sampling.draw(count)
        frames = video.read(wanted, self.short_side)
        size = int(frames.shape[-2]), int(frames.shape[-1])
        return Sample(frames, index, self.videos.names.text(index), size, label=int(self.videos.labels[index]))


class VideoDataModule(ImageDataModule):
    """Videos with one class each, for training and validation: Kinetics, Something-Something V2, or any others.

    A split is a folder with a folder for each class, or any videos with a list (see `swin_dense.videos.labelled`). A
    batch holds one random clip of each training video, (B, T, 3, size, size), and all clips of each validation video,
    one after another, whose crops are the model's to cut out: (B, clips * T, 3, H, W).

    Attributes:
        train_dataset: The training videos; None until `setup("fit")`.
        val_dataset: The validation videos; None until `setup`.
        class_names: Names by class 0..K-1; after `setup`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from swin_dense.data import VideoDataModule
        >>> from swin_dense.data.moving_shapes import write_moving_shapes
        >>> root = write_moving_shapes(Path(tempfile.mkdtemp()) / "videos", train=2, val=1, size=32)
        >>> data = VideoDataModule(root, sampling=ClipSampling(frames=8, stride=2), batch_size=2, num_workers=0)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> tuple(batch.images.shape), len(batch.labels), data.class_names[:2]
        ((2, 8, 3, 224, 224), 2, ('horizontal', 'still'))
    """

    class_names: tuple[str, ...]
    train_dataset: VideoDataset | None
    val_dataset: VideoDataset | None

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        train_videos: str | Path | None = None,
        train_labels: str | Path | None = None,
        val_videos: str | Path | None = None,
        val_labels: str | Path | None = None,
        classes: str | Path | None = None,
        sampling: ClipSampling = DENSE,
        views: Views = OFFICIAL,
        short_side: int = 256,
        train_transform: Transform | None = None,
        skip_broken: bool = False,
        batch_size: int = 8,
        eval_batch_size: int = 1,
        num_workers: int | None = None,
        seed: int = 0,
        limit_images: int | None = None,
    ) -> None:
        """Takes note of where the data is and how it is to be read; nothing is opened yet.

        Args:
            root: Folder with the splits `train` and `val`; None where they are named.
            train_videos: Folder of the training videos.
            train_labels: List of the training videos with their labels; None takes the folders for the classes.
            val_videos: Likewise, for validation.
            val_labels: Likewise, for validation.
            classes: Text file with one class per line, in the order of labels, or labels.json of Something-Something;
                None takes the sorted classes of the training videos, or of the validation videos without those.
            sampling: Which frames make a clip.
            views: How many clips of a validation video are read, and the short side to which they are resized.
            short_side: Pixels of the shorter side to which training videos are resized, before a part is cut out.
            train_transform: Applied to training samples; drawn again for every (seed, epoch, index). None takes the
                official one of Kinetics: `random_clip_view()`.
            skip_broken: Leave out videos that are missing, and take the next training video for one that cannot be
                decoded; each is logged once, and their number after the training. Otherwise they are errors.
                Validation videos that cannot be decoded always are.
            batch_size: Training videos per device.
            eval_batch_size: Validation videos per device.
            num_workers: Reading processes per device; 0 reads in the training process, None has one for each core, up
                to four.
            seed: Order and randomness of the training samples derive from it.
            limit_images: Use only the first videos of training and of validation, to see whether a model can overfit.

        Raises:
            ConfigError: A number is out of range, or a place is not named.
        """
        super().__init__(
            train_transform=random_clip_view() if train_transform is None else train_transform,
            test_transform=Identity(),  # what is read is already as the model's views need it
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            limit_images=limit_images,
        )
        videos = {"train": train_videos, "val": val_videos}
        if root is None and None in videos.values():
            raise ConfigError("VideoDataModule needs root, or else train_videos and val_videos")
        self.videos = {
            split: Path(place) if place is not None else Path(str(root)) / split for split, place in videos.items()
        }
        self.labels = {
            split: None if place is None else Path(place)
            for split, place in (("train", train_labels), ("val", val_labels))
        }
        self.classes = None if classes is None else Path(classes)
        self.sampling, self.views, self.short_side, self.skip_broken = sampling, views, short_side, skip_broken
        self.class_list: ClassList | None = None

    def read_val(self) -> VideoDataset:
        """Lists the classes and the validation videos."""
        places = [(self.videos[split], self.labels[split]) for split in ("train", "val")]
        there = [place for place in places if place[0].is_dir()]
        self.class_list = find_video_classes(there or places, self.classes)
        self.class_names = self.class_list.names
        return VideoDataset(self._list("val"), self.sampling, self.views.short_side, clips=self.views.clips)

    def read_train(self) -> VideoDataset:
        """Lists the training videos."""
        return VideoDataset(self._list("train"), self.sampling, self.short_side, skip=self.skip_broken)

    def _list(self, split: str) -> LabelledVideos:
        assert self.class_list is not None
        place, labels = self.videos[split], self.labels[split]
        return read_labelled_videos(place, labels, self.class_list, skip_missing=self.skip_broken)

    def teardown(self, stage: str) -> None:
        """Says how many training videos were skipped."""
        if stage == "fit" and self.train_dataset is not None and (count := int(self.train_dataset.skipped.sum())):
            logger.warning(
                "%d of %d training videos were skipped; check-data names them", count, len(self.train_dataset)
            )
