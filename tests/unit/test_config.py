"""A config is right, or an error that names the file, the key and the nearest valid one."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import swin_dense
from swin_dense.config import config_of_run, config_text, find_config, list_recipes, load_config, stopping_early
from swin_dense.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DEMO = CONFIGS / "demo" / "mask-rcnn_swin-nano_shapes.py"
SEGMENTATION_DEMO = DEMO.with_name("upernet_swin-nano_shapes.py")


def write(folder: Path, text: str) -> Path:
    path = folder / "config.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "mask-rcnn_swin-t_fpn_1x_coco",
        "mask-rcnn_swin-t_fpn_1x_coco.py",
        "detection/mask-rcnn_swin-t_fpn_1x_coco",
        Path("detection/mask-rcnn_swin-t_fpn_1x_coco.py"),
    ],
)
def test_a_recipe_is_found_by_name_from_any_folder(
    name: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == CONFIGS / "detection" / "mask-rcnn_swin-t_fpn_1x_coco.py"


def test_a_file_comes_before_a_recipe_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(DEMO.name).touch()
    assert find_config(DEMO.name) == Path(DEMO.name)
    assert find_config(DEMO.stem) == DEMO


def test_bases_are_no_recipes_and_names_are_unique() -> None:
    stems = [path.stem for path in list_recipes().values()]
    assert len(stems) > 40 and len(set(stems)) == len(stems)
    with pytest.raises(ConfigError):
        find_config("_base_/coco")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mask-rcnn_swin-t_fpn_1x", "did you mean mask-rcnn_swin-t_fpn_1x_coco or"),
        ("zzz", "zzz: no such config file, and no recipe of that name; swin-dense configs lists the recipes"),
        ("folder", "folder is a folder; name a config file, for instance folder/config.py"),
        ("a" * 5000, "no such config file"),
        ("", "name a config file"),
        ("nul\0", "no such config file"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_names(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(ConfigError) as caught:
        load_config(name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs/mime", "runs/mime: no such run folder; the runs in {here}/runs are mine, other"),
        ("runs/ether", "runs/ether: no such run folder; the runs in {here}/runs are other, mine"),
        ("empty/mine", "empty/mine: no such run folder; no folder in {here}/empty is a run"),
        ("run/mine", "run/mine: no such run folder; there is no folder {here}/run"),
        ("runs/mask-rcnn_swin-t_fpn_1x_coco", "no such run folder"),
        ("runs/mime.py", "runs/mime.py: no such config file"),
        (
            "demo/mask-rcnn_swin-nano_shape",
            "no such config file, and no recipe of that name; did you mean demo/mask-rcnn",
        ),
        ("own", "no such config file, and no recipe of that name; did you mean own.py?"),
        (
            "runs/mine/weights.safetensors",
            "is no config file; name the run folder that it lies in, runs/mine, and weights",
        ),
        ("own.pth", 'own.pth is no config file; name a config (.py) or a run, and weights with weights="FILE"'),
    ],
)
def test_a_missing_run_folder_names_those_that_are_there(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("runs/mine/config.py", "runs/mine/run.json", "runs/mine/weights.safetensors", "own.py", "own.pth"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    shutil.copytree("runs/mine", "runs/other")
    Path("empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        load_config(name)
    assert message.format(here=tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["theirs/run", "theirs/config.py"])
def test_a_run_in_a_locked_folder_is_not_called_absent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **options: Any) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", refused)  # tests may run as a user who may do anything
    with pytest.raises(ConfigError, match=rf"{name} cannot be looked up \(Permission denied\)"):
        find_config(name)


def test_a_run_folder_is_judged_by_itself_and_those_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(7):
        (run := Path(f"runs/run{number}")).mkdir(parents=True)
        (run / "config.py").touch()
        (run / "run.json").touch()
    with pytest.raises(
        ConfigError, match="runs is no run folder: it holds no config.py; the runs in .*run.* and 2 more$"
    ):
        config_of_run(Path("runs"))
    with pytest.raises(ConfigError, match="runs/run8: no such run folder; the runs in .* are run"):
        config_of_run(Path("runs/run8"))
    with pytest.raises(ConfigError, match="no such run folder"):  # in the folder of runs, names alone
        monkeypatch.chdir("runs")
        find_config("nun1")


def test_a_config_may_be_a_name_a_file_a_dict_or_a_dataclass() -> None:
    config = load_config(DEMO)
    assert load_config(DEMO.stem) == load_config(asdict(config)) == load_config(config) == config


def test_a_dict_that_is_changed_stays_as_it_was() -> None:
    source = asdict(load_config(DEMO))
    before = repr(source)
    assert load_config(source, {"model.neck.num_outs": 4}).model["neck"]["num_outs"] == 4
    assert repr(source) == before


def test_objects_stay_the_same_objects() -> None:
    callback, plugin = object(), object()
    config = load_config(DEMO, {"callbacks": [callback], "trainer": {"plugins": [plugin], "devices": 1}})
    changed = load_config(config, {"schedule.epochs": 4})
    assert changed.callbacks[0] is callback and changed.trainer["plugins"][0] is plugin
    assert changed == replace(config, schedule=changed.schedule)


def test_overrides_of_a_mapping_are_values_and_not_texts() -> None:
    changes: dict[str, Any] = {
        "data.root": Path("10"),
        "data.num_workers": np.int64(3),
        "optimizer.learning_rate": np.float32(0.5),
        "data.train": {"annotations": "a.json", "images": "a"},
        "schedule.gamma": Fraction(1, 4),
    }
    config = load_config(DEMO, changes)
    assert (config.data.root, config.data.num_workers, config.data.train.images) == ("10", 3, "a")
    assert (config.optimizer.learning_rate, config.schedule.gamma) == (0.5, 0.25)
    assert load_config(config, {"data.root": "[1]"}).data.root == "[1]"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda values: {**values, "tasks": "detection"}, 'the dict: unknown key "tasks"; did you mean "task"?'),
        (lambda values: {**values, 3: 4}, "the dict: a config must be made of"),
        (
            lambda values: {**values, "model": {**values["model"], "type": print}},
            "the dict: model.type must be made of",
        ),
        (lambda values: {**values, "data": None}, "the dict: data must be a dict of settings, not None"),
        (lambda values: replace(load_config(values), score_metric=3), "the config: score_metric must be str, not 3"),
        (lambda _: None, "a config is a name, file, dict or dataclass of swin_dense.config, not None"),
        (lambda _: {}, 'the dict: missing key "model"'),
    ],
)
def test_a_wrong_dict_or_dataclass_is_named(source: Callable[[dict[str, Any]], Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(source(asdict(load_config(DEMO))))
    assert message in str(caught.value)


@pytest.mark.parametrize("recipe", list_recipes())
def test_a_copied_recipe_loads_to_the_same_value(recipe: str, tmp_path: Path) -> None:
    config = load_config(recipe)
    text = config_text(config)
    assert max(map(len, text.splitlines())) <= 120
    assert load_config(write(tmp_path, text)) == config


def test_a_resolved_config_reads_back_to_the_same_value(tmp_path: Path) -> None:
    config = load_config(DEMO, ["optimizer.learning_rate=1e-3", "training.ema_decay=0.999"])
    assert load_config(write(tmp_path, config_text(config))) == config


def test_overrides_reach_every_depth_and_keep_their_type() -> None:
    config = load_config(
        DEMO,
        [
            "data.batch_size=3",
            "data.root=/somewhere/else",
            "augmentation.short_sides=[96, 128]",
            "training.precision=16",
            "model.rpn_head.anchor_generator.scales=[8]",
            "model.neck.num_outs=4",
        ],
    )
    assert config.data.batch_size == 3
    assert config.data.root == "/somewhere/else"
    assert config.augmentation.short_sides == (96, 128)
    assert config.training.precision == "16"
    assert config.model["rpn_head"]["anchor_generator"]["scales"] == [8]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batchsize=3", 'unknown key "data.batchsize"; did you mean "batch_size"?'),
        ("weight_decay=0", 'unknown key "weight_decay"; did you mean "optimizer.weight_decay"?'),
        ("data.images=x", 'unknown key "data.images"; did you mean "data.train.images" or "data.val.images"?'),
        ("optimiser.learning_rate=1", 'unknown key "optimiser"; did you mean "optimizer"?'),
        ("data.batch_size=many", "data.batch_size must be int, not 'many'"),
        ("data.batch_size=True", "data.batch_size must be int, not True"),
        ("optimizer.betas=(0.9,)", "optimizer.betas must have 2 values, not 1"),
        ("augmentation.short_sides=800", "augmentation.short_sides must be a list"),
        ("data.train=somewhere", "data.train must be a dict of settings"),
        ("data.train.images.more=1", "holds no keys"),
        ("data.batch_size", "write an override as key=value"),
        ("=3", "write an override as key=value"),
        ("task=[1]", "unknown task [1]"),
        ("task={}", "unknown task {}"),
        ("data={1:2}", 'unknown key "data.1"'),
        ("model={1:2}", "model must be made of numbers, texts, lists and dicts whose keys are texts"),
        ("model.roi_head={3}", "model.roi_head must be made of"),
        ("model=3", "model must be dict, not 3"),
        ("data.root={[]: 1}", "is not a Python value"),
        ("data.root='\\x00'", "data.root holds a null character"),
        (f"data.batch_size={2**31}", "data.batch_size must be between -2147483647 and 2147483647"),
        (f"data.batch_size={'9' * 5000}", "data.batch_size must be int, not '9999"),
        (f"training.seed={10**30}", "training.seed must be between"),
        ("schedule.gamma=-1e999", "schedule.gamma must be finite, got -inf"),
        ("model.neck.num_outs=1e999", "model.neck.num_outs must be finite, got inf"),
        ("augmentation.short_sides=[1e999]", "augmentation.short_sides.0 must be finite"),
        (f"model.neck={'[' * 100}{']' * 100}", "is nested more than 30 deep"),
        (f"model.neck={'[' * 100_000}", "is not a Python value"),
        (f"data.batch_size={'-' * 1_000_000}1", "data.batch_size must be int, not '----"),
        ("model.neck.num_outs.0=1", '"num_outs" holds no keys'),
        (f"model.rpn_head.anchor_generator.scales.{'9' * 5000}=1", "is not an index of a list of 1"),
        ("model.rpn_head.anchor_generator.scales.²=1", "'²' is not an index of a list of 1"),
        ("model.rpn_head.anchor_generator.scales.0.1=1", '"0" holds no keys'),
        ("...=1", "holds no keys"),
    ],
)
def test_a_wrong_override_names_the_key_and_the_way_out(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(DEMO, [override])
    assert message in str(caught.value)


OF_BOTH_TASKS = [
    ("data.batch_size", 0, "at least 1"),
    ("data.eval_batch_size", 0, "at least 1"),
    ("data.num_workers", -1, "at least 0"),
    ("data.limit_images", 0, "at least 1"),
    ("optimizer.learning_rate", 0.0, "above 0"),
    ("optimizer.learning_rate", -1e-3, "above 0"),
    ("optimizer.weight_decay", -0.1, "at least 0"),
    ("optimizer.betas", (0.9, 1.0), "from 0 to below 1"),
    ("schedule.warmup_steps", -1, "at least 0"),
    ("schedule.warmup_ratio", -0.5, "at least 0"),
    ("training.accumulate", 0, "at least 1"),
    ("training.validate_every", 0, "at least 1"),
    ("training.checkpoint_every", 0, "at least 1"),
    ("training.log_every", 0, "at least 1"),
    ("training.pictures", -1, "at least 0"),
    ("training.seed", -1, "at least 0"),
    ("training.clip_gradient_norm", 0.0, "above 0"),
    ("training.ema_decay", 1.0, "from 0 to below 1"),
]
NUMBERS = [
    *[(demo, *one) for demo in (DEMO, SEGMENTATION_DEMO) for one in OF_BOTH_TASKS],
    (DEMO, "data.min_side", -1, "at least 0"),
    (DEMO, "data.size_divisor", 0, "at least 1"),
    (DEMO, "schedule.epochs", 0, "at least 1"),
    (DEMO, "schedule.gamma", 0.0, "above 0"),
    (DEMO, "schedule.milestones", (0, 2), "epochs from 1"),
    (SEGMENTATION_DEMO, "schedule.steps", 0, "at least 1"),
    (SEGMENTATION_DEMO, "schedule.power", 0.0, "above 0"),
]


@pytest.mark.parametrize(("demo", "key", "value", "bound"), NUMBERS)
def test_a_number_out_of_range_is_refused_with_its_bound(demo: Path, key: str, value: object, bound: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(demo, [f"{key}={value}"])
    message = str(caught.value)
    assert message.startswith(f"{demo}: {key} ") and bound in message and message.endswith(f"got {value}")


def test_infinity_is_out_of_range() -> None:
    with pytest.raises(ConfigError, match="optimizer.learning_rate must be finite, got inf"):
        load_config(DEMO, ["optimizer.learning_rate=1e999"])


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    text = config_text(load_config(DEMO)).replace("learning_rate=", "learning_rat=")
    with pytest.raises(ConfigError, match='unknown key "optimizer.learning_rat"; did you mean "learning_rate"?'):
        load_config(write(tmp_path, text))
    text = re.sub("learning_rat=[0-9.]+,", "", text)
    with pytest.raises(ConfigError, match='config.py: missing key "optimizer.learning_rate"'):
        load_config(write(tmp_path, text))


def test_a_config_that_is_no_python_or_does_not_exist_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: SyntaxError"):
        load_config(write(tmp_path, "model = dict("))
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "absent.py")


def test_a_users_transforms_are_settings_that_a_run_keeps() -> None:
    jitter = {"type": "torchvision.transforms.v2.ColorJitter", "brightness": 0.2}
    config = load_config("mask-rcnn_swin-t_fpn_1x_coco", {"augmentation.extra": [jitter]})
    assert config.augmentation.extra == (jitter,)
    with pytest.raises(ConfigError, match=r"augmentation\.extra\.0 must be dict"):
        load_config("mask-rcnn_swin-t_fpn_1x_coco", {"augmentation.extra": ["ColorJitter"]})


def test_early_stopping_is_a_callback() -> None:
    config, place = load_config(DEMO), "lightning.pytorch.callbacks.EarlyStopping"
    assert stopping_early(config, 5).callbacks == ({"type": "EarlyStopping", "patience": 5},)
    known = ("EarlyStopping", {"type": place, "monitor": "val/segm_AP"}, "Timer")  # as of a run that is resumed
    changed = stopping_early(replace(config, callbacks=known), 3).callbacks
    assert changed == ({"type": "EarlyStopping", "patience": 3}, {**known[1], "patience": 3}, "Timer")
    for patience in (0, True, 1.5):
        with pytest.raises(ConfigError, match="early_stopping=.*: it must be a number of validations, at least 1"):
            swin_dense.train(DEMO, early_stopping=patience)  # type: ignore[arg-type]  # 1.5 is what users may pass
