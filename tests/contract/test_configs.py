"""Every shipped config builds and runs, and those of detection follow the official recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config as ConfigFile

from swin_dense import tasks
from swin_dense.cli import main
from swin_dense.config import describe_recipe, find_config, load_config
from swin_dense.config.detection import DetectionConfig
from swin_dense.openmmlab.model_dicts import has_masks

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ALL = sorted(path for path in CONFIGS.rglob("*.py") if path.parent.name != "_base_")
OFFICIAL = {
    # Those that the official code has, and those that the paper describes; "None" is a backbone that is no Swin.
    "mask-rcnn_swin-t_fpn_1x_coco": 0.1,
    "mask-rcnn_swin-t_fpn_3x_coco": 0.2,
    "mask-rcnn_swin-s_fpn_3x_coco": 0.2,
    "cascade-mask-rcnn_swin-t_fpn_1x_coco": 0.0,
    "cascade-mask-rcnn_swin-t_fpn_3x_coco": 0.2,
    "cascade-mask-rcnn_swin-s_fpn_3x_coco": 0.2,
    "cascade-mask-rcnn_swin-b_fpn_3x_coco": 0.3,
    "cascade-mask-rcnn_r50_fpn_3x_coco": None,
    "atss_swin-t_fpn_3x_coco": 0.2,
    "atss_r50_fpn_3x_coco": None,
    "sparse-rcnn_swin-t_fpn_3x_coco": 0.2,
    "sparse-rcnn_r50_fpn_3x_coco": None,
}
"""Drop path rate by config."""


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_builds_and_runs(path: Path) -> None:
    config = load_config(path)
    tasks.data_module(config)
    is_detection = isinstance(config, DetectionConfig)
    task = tasks.task_of(config)
    with torch.device("meta"), torch.no_grad():
        network = task.build_network(config.model, 7).eval()
        task.count_forward(network, 128, 160, config)
    if is_detection:
        assert has_masks(config.model) == network.with_mask
        assert config.score_metric.startswith(("bbox_", "segm_") if network.with_mask else "bbox_")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_is_a_recipe_with_a_name_of_its_own_and_a_line_that_says_what_it_trains(path: Path) -> None:
    assert find_config(path.stem) == find_config(f"{path.parent.name}/{path.stem}") == path
    assert 20 < len(describe_recipe(path)) < 80 and describe_recipe(path).endswith(".")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_takes_its_model_from_one_place(path: Path) -> None:
    """One level of `_base_`, whose files bring one model at most; no config inherits another config."""
    bases = [path.parent / name for name in ConfigFile._get_base_files(str(path))]
    assert all(base.parent.resolve() == CONFIGS / "_base_" for base in bases)
    assert not any(ConfigFile._get_base_files(str(base)) for base in bases)
    assert sum("model" in ConfigFile.fromfile(str(base)) for base in bases) <= 1


NO_DECAY = ("absolute_pos_embed", "relative_position_bias_table", "logit_scale", "cpb_mlp", "norm")
"""The official rules of Swin and of Swin V2, whose names do not meet."""


@pytest.mark.parametrize("name", OFFICIAL)
def test_it_is_the_official_recipe(name: str) -> None:
    config = load_config(CONFIGS / "detection" / f"{name}.py")
    epochs, milestones = {"1x": (12, (8, 11)), "3x": (36, (27, 33))}[name.split("_")[-2]]
    assert (config.schedule.epochs, config.schedule.milestones) == (epochs, milestones)
    assert (config.schedule.warmup_steps, config.schedule.warmup_ratio) == (500, 0.001)
    assert config.model["backbone"].get("drop_path_rate") == OFFICIAL[name]
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1e-4, 0.05)
    assert config.optimizer.no_decay == NO_DECAY
    assert config.augmentation.short_sides == tuple(range(480, 801, 32))
    assert config.augmentation.crop_short_sides == (400, 500, 600)
    assert config.training.clip_gradient_norm == (1.0 if name.startswith("sparse-rcnn") else None)


def test_cascade_stages_are_the_official_ones() -> None:
    model = load_config(CONFIGS / "detection" / "cascade-mask-rcnn_swin-t_fpn_1x_coco.py").model
    stages = zip(model["roi_head"]["bbox_head"], model["train_cfg"]["rcnn"], strict=True)
    assert [(head["bbox_coder"]["target_stds"], stage["assigner"]["pos_iou_thr"]) for head, stage in stages] == [
        ([0.1, 0.1, 0.2, 0.2], 0.5),
        ([0.05, 0.05, 0.1, 0.1], 0.6),
        ([0.033, 0.033, 0.067, 0.067], 0.7),
    ]
    for head in model["roi_head"]["bbox_head"]:
        assert (head["num_shared_convs"], head["num_shared_fcs"], head["norm_cfg"]["type"]) == (4, 1, "SyncBN")
        assert head["loss_bbox"] == {"type": "GIoULoss", "loss_weight": 10.0} and head["reg_decoded_bbox"]


def test_the_command_line_says_its_size(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["stats", str(CONFIGS / "detection/mask-rcnn_swin-t_fpn_3x_coco.py"), "--shape", "800x1280", "--json"])
    sizes = json.loads(capsys.readouterr().out)
    assert sizes["params"] == pytest.approx(47.79e6, rel=0.001)
    assert sizes["macs"] == pytest.approx(267e9, rel=0.005)
    assert sum(part["macs"] for part in sizes["parts"].values()) == sizes["macs"]
