"""Models of a few parameters and a plain Lightning trainer for them; importable, so that processes may be spawned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torchvision.transforms.v2 import Identity

from swin_dense.data import ADE20KDataModule, CocoDataModule
from swin_dense.records import Batch, Detections

IMAGES, BATCH_SIZE = 8, 2


class OneBox(nn.Module):
    """Finds one box in every image, at a place that it learns."""

    has_masks = False

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(1, 4)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.instances is not None
        found = self.network(torch.ones(len(batch), 1, device=batch.images.device)) * torch.rand(())
        wanted = torch.stack([one.boxes.mean(dim=0) / 96 for one in batch.instances])
        return {"loss_bbox": (found - wanted).abs().mean()}

    def predict(self, batch: Batch) -> list[Detections]:
        box = self.network(torch.ones(1, 1)).detach().sort().values * 96
        return [Detections(box, torch.ones(1), torch.zeros(1, dtype=torch.int64)) for _ in batch.image_ids]


class Brightness(nn.Module):
    """Gives every pixel a class by its brightness."""

    align_corners = False

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.network = nn.Conv2d(3, classes, 1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss_ce": self.network(batch.images.float() / 255).square().mean()}

    def logits(self, images: Tensor) -> Tensor:
        return self.network(images.float() / 255).detach()


def coco(root: Path) -> CocoDataModule:
    files = {f"{split}_annotations": root / "annotations" / f"instances_{split}.json" for split in ("train", "val")}
    images = {f"{split}_images": root / "images" / split for split in ("train", "val")}
    nothing = {"train_transform": Identity(), "test_transform": Identity()}
    return CocoDataModule(**files, **images, **nothing, batch_size=BATCH_SIZE, num_workers=0, masks=False, min_side=0)


def ade(root: Path) -> ADE20KDataModule:
    folders = {
        f"{short}_{kind}": root / "ade20k" / folder / split
        for kind, folder in (("images", "images"), ("labels", "annotations"))
        for short, split in (("train", "training"), ("val", "validation"))
    }
    nothing = {"train_transform": Identity(), "test_transform": Identity()}
    return ADE20KDataModule(**folders, **nothing, batch_size=BATCH_SIZE, num_workers=0)


def trainer_of(folder: Path, **options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(accelerator="cpu", default_root_dir=folder, **{"logger": False, "devices": 1, **quiet, **options})


class Seen(Callback):
    """Writes down the images that this process trains and validates on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _note(self, name: str, trainer: Trainer, batch: Batch) -> None:
        with (self.folder / f"{name}{trainer.global_rank}.txt").open("a") as file:
            file.writelines(f"{image_id}\n" for image_id in batch.image_ids)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, *_: Any) -> None:
        self._note("train", trainer, batch)

    def on_validation_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, *_: Any) -> None:
        self._note("val", trainer, batch)
