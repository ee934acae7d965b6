"""Configs of mmdet and mmseg as ours: all packaged ones with a Swin Transformer, and what others need beside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.commands import answer, command
from swin_dense.config import load_config
from swin_dense.config.detection import DetectionConfig
from swin_dense.config.segmentation import SegmentationConfig
from swin_dense.errors import ConfigError
from swin_dense.migration import convert_config
from swin_dense.openmmlab.registry import mmdet_models

REFUSED = {"swin-tiny-patch4-window7_upernet_1xb8-20k_levir-256x256": "reads pairs of images"}


def packaged(package: str) -> list[str]:
    mmdet_models()
    folder = Path(__import__(package).__file__ or "").parent / ".mim" / "configs" / "swin"
    return [f"{package}::swin/{path.stem}" for path in sorted(folder.glob("*.py"))]


@pytest.mark.parametrize(("package", "count"), [("mmdet", 5), ("mmseg", 9)])
def test_every_packaged_config_with_a_swin_transformer(package: str, count: int) -> None:
    """All parts of them have a counterpart, but for another optimizer, and a decay that begins after the warm-up."""
    names = packaged(package)
    assert len(names) == count
    for name in names:
        if refused := REFUSED.get(name.partition("/")[2]):
            with pytest.raises(ConfigError, match=refused):
                convert_config(name)
            continue
        done = convert_config(name)
        assert done.config.model["backbone"]["type"] == "SwinDense"
        assert list(done.weights) == ["model.backbone.init_cfg"]
        expected = ["param_scheduler.begin: 1500"] if package == "mmseg" else []
        expected = ["optim_wrapper.optimizer: SGD"] if "retinanet" in name else expected
        assert [known for known, said in zip(expected, done.left_out, strict=True) if known not in said] == []


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("mmdet::pvt/retinanet_pvtv2-b0_fpn_1x_coco", "PyramidVisionTransformerV2"),
        ("mmdet::efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco", "EfficientNet"),
        ("mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512", "MixVisionTransformer"),
    ],
)
def test_backbones_of_theirs_whose_drop_path_rises_stay_what_they_are(name: str, backbone: str) -> None:
    """They read the rates while they are built, which is done without values."""
    done = convert_config(name)
    assert done.config.model["backbone"]["type"] == backbone
    assert list(done.weights) == ["model.backbone.init_cfg"] and "init_cfg" not in done.config.model["backbone"]


def test_weights_of_classes_are_kept_and_edges_are_refused() -> None:
    done = convert_config("mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024")
    (loss, _) = done.config.model["decode_head"]["loss_decode"]
    assert len(loss["class_weight"]) == 19
    with pytest.raises(ConfigError, match="GenerateEdge learns the edges of classes, which ours cannot do"):
        convert_config("mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco", {"pad_size_divisor": 640}),
        ("mmdet::yolox/yolox_tiny_8xb8-300e_coco", {"pad_size_divisor": 416, "pad_value": 114}),
        ("mmdet::ssd/ssd300_coco", {"pad_size_divisor": 300}),
        ("mmdet::yolo/yolov3_d53_8xb8-ms-608-273e_coco", {"pad_size_divisor": 32}),
        ("mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco", {"pad_size_divisor": 32, "pad_mask": True}),
    ],
)
def test_images_are_padded_to_the_sizes_that_a_model_is_made_for(name: str, expected: dict[str, object]) -> None:
    done = convert_config(name)
    preprocessor = done.config.model["data_preprocessor"]
    assert {key: value for key, value in preprocessor.items() if key.startswith("pad_")} == expected
    is_said = any("padded to" in line and "pad_size_divisor" in line for line in done.left_out)
    assert is_said == (expected["pad_size_divisor"] != 32)


def test_it_is_our_recipe_where_we_have_the_same_one() -> None:
    ours = load_config("upernet_swin-t_512_160k_ade20k")
    theirs = convert_config("mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512").config
    assert isinstance(ours, SegmentationConfig) and isinstance(theirs, SegmentationConfig)
    assert (theirs.data, theirs.augmentation, theirs.schedule) == (ours.data, ours.augmentation, ours.schedule)
    assert theirs.optimizer == replace(ours.optimizer, no_decay=theirs.optimizer.no_decay)
    assert set(theirs.optimizer.no_decay) == {"absolute_pos_embed", "relative_position_bias_table", "norm"}
    assert (theirs.training.images_per_step, theirs.training.validate_every) == (16, 16000)


def test_the_policy_of_swin_and_half_precision_are_kept() -> None:
    ours = load_config("mask-rcnn_swin-t_fpn_3x_coco")
    theirs = convert_config("mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_amp-ms-crop-3x_coco").config
    assert isinstance(ours, DetectionConfig) and isinstance(theirs, DetectionConfig)
    assert theirs.augmentation == ours.augmentation and theirs.training.precision == "auto"
    assert theirs.schedule == replace(ours.schedule, warmup_steps=1000)  # mmdet's, where the authors have 500
    assert theirs.model["backbone"] == {"type": "SwinDense", "variant": "swin_tiny", "drop_path_rate": 0.2}


def test_what_is_written_reads_back_and_says_what_was_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ResNet, epochs that go three times through the data, and sides of every length in a range."""
    output = tmp_path / "converted.py"
    name = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_ms-poly-3x_coco"
    record = answer(capsys, "convert-config", name, str(output), "--json")
    config = load_config(output)
    assert config == convert_config(name).config and isinstance(config, DetectionConfig)
    assert config.augmentation.short_sides == tuple(range(640, 801))
    assert (config.schedule.epochs, config.schedule.milestones) == (36, (27, 33))
    assert config.model["backbone"]["type"] == "ResNet" and record["weights"] == {
        "model.backbone.init_cfg": "torchvision://resnet50"
    }
    (said,) = record["left_out"]
    assert said.startswith("optim_wrapper.optimizer: SGD (lr 0.02") and f"# Left out: {said}" in output.read_text()
    assert command("convert-config", name, str(output)) == 2
    assert "exists; name another file" in capsys.readouterr().err


def test_norms_across_devices_sizes_that_mmseg_lacks_and_backbones_of_five_stages() -> None:
    syncbn = "mmdet::strong_baselines/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_lsj-100e_coco"
    assert convert_config(syncbn).config.model["roi_head"]["bbox_head"]["norm_cfg"]["type"] == "SyncBN"
    unsized = convert_config("mmseg::upernet/upernet_r18_4xb4-160k_ade20k-512x512")
    assert tuple(unsized.config.model["data_preprocessor"]["size"]) == (512, 512)
    assert any("data_preprocessor.size: none" in one for one in unsized.left_out)
    backbone = convert_config("mmdet::rtmdet/rtmdet_l_swin_b_p6_4xb16-100e_coco").config.model["backbone"]
    assert backbone["type"] == "SwinDense" and backbone["depths"] == (2, 2, 18, 2, 1)


def test_iterations_become_epochs_and_rules_for_parameters_our_names() -> None:
    done = convert_config("mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco")
    assert isinstance(done.config, DetectionConfig)
    assert (done.config.schedule.epochs, done.config.schedule.milestones) == (50, (45, 48))
    assert {"query_embed", "backbone.layers.0.blocks.0.norm"} <= {*done.config.optimizer.no_decay}
    assert any("learning rates times 0.1 of backbone" in one for one in done.left_out)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError('broken')", "cannot be read: RuntimeError: broken"),
        ("model = dict(type='MaskRCNN')", "no config of a model of mmdet 3 or mmseg 1"),
        ("default_scope = 'mmdet'\ncustom_imports = dict(imports=['mine'])\nmodel = dict(type='A')", r"own \(mine\)"),
        ("default_scope = 'mmdet'\nmodel = dict(type='MaskRCNN')", "num_classes"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        convert_config(path, tmp_path / "ours.py")
    assert not (tmp_path / "ours.py").exists()
