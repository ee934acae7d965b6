"""mmcv, mmdet and their models work without compiled ops; detectors learn through ours."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import mmcv.ops
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from mmengine.utils.dl_utils import mmcv_full_available

from swin_dense.errors import InstallationError, UnsupportedOpError
from swin_dense.openmmlab.registry import install, mmdet_models, mmseg_models
from swin_dense.ops import OPS


def test_installing_is_light_and_may_come_after_mmcv_itself() -> None:
    program = """
import sys
from swin_dense.openmmlab.registry import install
assert "mmcv" not in sys.modules
try:
    import mmcv.ops
except ModuleNotFoundError:
    install()
import mmcv.ops
print(mmcv._ext.__spec__.origin)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "torchvision", result.stderr


def test_models_are_built_for_a_user_without_a_home_and_nothing_is_left_set() -> None:
    program = """
import os, pwd
pwd.getpwuid = {}.__getitem__  # raises the KeyError of a number without a name
from swin_dense.config import load_config
from swin_dense.openmmlab.registry import mmdet_models, mmseg_models
load_config("mask-rcnn_swin-nano_shapes"), mmdet_models(), mmseg_models()
print(os.environ.get("XDG_CACHE_HOME"), os.path.expanduser("~"))
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    words = [sys.executable, "-c", program]
    result = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert result.stdout.strip() == "None ~", result.stderr


def test_whatever_keeps_mmdet_from_being_imported_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        if name == "mmdet.models":
            raise RuntimeError("Failed to import transformers.models.bert\nand more")
        return importlib.import_module(name)

    monkeypatch.setattr("swin_dense.openmmlab.registry.import_module", broken)
    with pytest.raises(
        InstallationError, match=r"^mmdet does not import: RuntimeError: .*bert; swin-dense doctor [^\n]*$"
    ):
        mmdet_models.__wrapped__()


def test_installing_again_changes_nothing() -> None:
    before = list(sys.meta_path)
    threads = [threading.Thread(target=install) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.meta_path == before


def test_compiled_ops_keep_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_ext.py").write_text("nms = 'compiled'")
    for name in [name for name in sys.modules if name.partition(".")[0] == "mmcv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    install()
    from mmcv import _ext

    assert _ext.nms == "compiled"


@pytest.mark.parametrize("models", [mmdet_models, mmseg_models])
def test_the_empty_package_that_uninstalling_one_of_two_opencvs_leaves_is_an_error(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", ModuleType("cv2"))
    with pytest.raises(InstallationError, match="its files are missing.*pip install opencv-python-headless"):
        models.__wrapped__()


def test_every_op_of_ours_is_the_one_that_mmcv_calls() -> None:
    assert {name: getattr(mmcv._ext, name) for name in OPS} == OPS
    assert mmcv_full_available()


def test_any_other_op_raises_when_it_is_called_and_names_itself_and_its_caller() -> None:
    assert callable(mmcv.ops.box_iou_rotated)
    with pytest.raises(UnsupportedOpError, match=r"'box_iou_rotated', which box_iou_rotated\(\) needs"):
        mmcv.ops.box_iou_rotated(torch.rand(2, 5), torch.rand(2, 5))
    assert not hasattr(mmcv._ext, "__path__")


def test_an_op_that_a_layer_wants_names_the_layer_and_its_place() -> None:
    with pytest.raises(
        UnsupportedOpError, match=r"'border_align_forward', which the layer BorderAlign needs, is not served"
    ):
        mmcv.ops.BorderAlign(2)(torch.zeros(1, 8, 4, 4), torch.zeros(1, 16, 4))
    with pytest.raises(UnsupportedOpError, match=r"which the layer BorderAlign \(0\.pool\) needs"):
        torch.nn.Sequential(Head())(torch.zeros(1, 8, 4, 4))


class Head(torch.nn.Module):
    """A head with an op in it that is not served."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = mmcv.ops.BorderAlign(2)

    def forward(self, maps: torch.Tensor) -> Any:
        return self.pool(maps, torch.zeros(1, 16, 4))


@pytest.mark.parametrize("library", ["mmcv.utils", "mmdet.utils", "mmseg.utils"])
def test_the_libraries_describe_their_environment(library: str) -> None:
    info = importlib.import_module(library).collect_env()
    assert info["PyTorch"] == torch.__version__
    assert "torchvision" in info.get("MMCV Compiler", "torchvision")


def data_sample(with_masks: bool) -> DetDataSample:
    sample = DetDataSample(metainfo={"img_shape": (64, 64), "ori_shape": (64, 64), "scale_factor": (1.0, 1.0)})
    sample.set_metainfo({"batch_input_shape": (64, 64), "pad_shape": (64, 64)})
    boxes = torch.tensor([[4.0, 6.0, 40.0, 44.0], [30.0, 20.0, 60.0, 62.0]])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1]))
    if with_masks:
        masks = np.zeros((2, 64, 64), np.uint8)
        masks[0, 6:44, 4:40] = masks[1, 20:62, 30:60] = 1
        sample.gt_instances.masks = BitmapMasks(masks, 64, 64)
    return sample


BACKBONE = {
    "type": "ResNet",
    "depth": 18,
    "base_channels": 8,
    "stem_channels": 8,
    "norm_cfg": {"type": "BN", "requires_grad": True},
    "norm_eval": False,
}
NECK = {
    "type": "FPN",
    "in_channels": [8, 16, 32, 64],
    "out_channels": 16,
    "start_level": 1,
    "add_extra_convs": "on_input",
    "num_outs": 3,
}
NMS = {"type": "nms", "iou_threshold": 0.5}
ONE_STAGE_TEST = {"nms_pre": 100, "min_bbox_size": 0, "score_thr": 0.0, "nms": NMS, "max_per_img": 10}
MAX_IOU = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.1}
FOCAL = {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0}
DELTA_CODER = {"type": "DeltaXYWHBBoxCoder"}


def retinanet() -> dict[str, Any]:
    head = {
        "type": "RetinaHead",
        "num_classes": 2,
        "in_channels": 16,
        "feat_channels": 16,
        "stacked_convs": 1,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "octave_base_scale": 4,
            "scales_per_octave": 1,
            "ratios": [1.0],
            "strides": [8, 16, 32],
        },
        "bbox_coder": DELTA_CODER,
        "loss_cls": FOCAL,
        "loss_bbox": {"type": "L1Loss"},
    }
    train = {"assigner": MAX_IOU, "sampler": {"type": "PseudoSampler"}, "allowed_border": -1, "pos_weight": -1}
    return {
        "type": "RetinaNet",
        "backbone": BACKBONE,
        "neck": NECK,
        "bbox_head": head,
        "train_cfg": train,
        "test_cfg": {**ONE_STAGE_TEST, "nms": {"type": "soft_nms", "iou_threshold": 0.5}},
    }


def reppoints() -> dict[str, Any]:
    head = {
        "type": "RepPointsHead",
        "num_classes": 2,
        "in_channels": 16,
        "feat_channels": 16,
        "point_feat_channels": 16,
        "stacked_convs": 1,
        "point_strides": [8, 16, 32],
        "transform_method": "minmax",
        "loss_cls": FOCAL,
        "loss_bbox_init": {"type": "SmoothL1Loss", "beta": 0.11, "loss_weight": 0.5},
        "loss_bbox_refine": {"type": "SmoothL1Loss", "beta": 0.11, "loss_weight": 1.0},
    }
    common = {"allowed_border": -1, "pos_weight": -1, "debug": False}
    train = {
        "init": {"assigner": {"type": "PointAssigner", "scale": 4, "pos_num": 1}, **common},
        "refine": {"assigner": {**MAX_IOU, "pos_iou_thr": 0.3, "neg_iou_thr": 0.3, "min_pos_iou": 0}, **common},
    }
    return {
        "type": "RepPointsDetector",
        "backbone": BACKBONE,
        "neck": NECK,
        "bbox_head": head,
        "train_cfg": train,
        "test_cfg": ONE_STAGE_TEST,
    }


def mask_rcnn() -> dict[str, Any]:
    def extractor(size: int) -> dict[str, Any]:
        return {
            "type": "SingleRoIExtractor",
            "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
            "out_channels": 16,
            "featmap_strides": [8, 16],
            "finest_scale": 28,
        }

    rpn = {
        "type": "RPNHead",
        "in_channels": 16,
        "feat_channels": 16,
        "anchor_generator": {"type": "AnchorGenerator", "scales": [4], "ratios": [1.0], "strides": [8, 16, 32]},
        "bbox_coder": DELTA_CODER,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
        "loss_bbox": {"type": "L1Loss"},
    }
    roi = {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": extractor(7),
        "bbox_head": {
            "type": "Shared2FCBBoxHead",
            "in_channels": 16,
            "fc_out_channels": 32,
            "num_classes": 2,
            "bbox_coder": DELTA_CODER,
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False},
            "loss_bbox": {"type": "L1Loss"},
        },
        "mask_roi_extractor": extractor(14),
        "mask_head": {
            "type": "FCNMaskHead",
            "num_convs": 1,
            "in_channels": 16,
            "conv_out_channels": 16,
            "num_classes": 2,
            "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True},
        },
    }
    sampler = {"type": "RandomSampler", "num": 32, "pos_fraction": 0.5, "add_gt_as_proposals": False}
    proposals = {"nms_pre": 50, "max_per_img": 50, "nms": NMS, "min_bbox_size": 0}
    rcnn = {"assigner": MAX_IOU, "sampler": {**sampler, "add_gt_as_proposals": True}, "mask_size": 28, "pos_weight": -1}
    return {
        "type": "MaskRCNN",
        "backbone": BACKBONE,
        "neck": NECK,
        "rpn_head": rpn,
        "roi_head": roi,
        "train_cfg": {
            "rpn": {"assigner": MAX_IOU, "sampler": sampler, "allowed_border": -1, "pos_weight": -1},
            "rpn_proposal": proposals,
            "rcnn": {**rcnn, "debug": False},
        },
        "test_cfg": {
            "rpn": proposals,
            "rcnn": {"score_thr": 0.0, "nms": NMS, "max_per_img": 10, "mask_thr_binary": 0.5},
        },
    }


@pytest.mark.parametrize("config", [retinanet, reppoints, mask_rcnn])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_a_detector_learns_one_batch_and_predicts(config: Any, autocast: bool) -> None:
    register_all_modules(init_default_scope=True)
    torch.manual_seed(0)
    detector = MODELS.build(ConfigDict(config()))
    images = torch.randn(2, 3, 64, 64)
    samples = [data_sample(with_masks=config is mask_rcnn) for _ in images]
    optimizer = torch.optim.AdamW(detector.parameters(), 3e-3)
    history = []
    for _ in range(12):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses = detector.loss(images, samples)
        total, _ = detector.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
    assert all(np.isfinite(history)) and history[-1] < 0.5 * history[0]
    dead = [name for name, parameter in detector.named_parameters() if parameter.grad is None]
    assert not dead

    detector.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        predictions = detector.predict(images, samples)
    for prediction in predictions:
        found = prediction.pred_instances
        assert 0 < len(found) <= 10
        assert found.bboxes.isfinite().all() and (found.scores.diff() <= 0).all()
        assert config is not mask_rcnn or found.masks.shape == (len(found), 64, 64)


def test_instances_are_indexed_by_tensors_on_any_device() -> None:
    """Those of mmengine by tensors of a CPU or CUDA alone, by which every detector failed on Apple's GPUs."""
    mmdet_models()
    with torch.device("meta"):
        found = InstanceData(bboxes=torch.zeros(4, 4))
        assert found[torch.tensor([2, 0])].bboxes.shape == (2, 4)
