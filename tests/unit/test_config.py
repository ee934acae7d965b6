"""A config is right, or an error that names the file, the key and the nearest valid one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from swin_dense.config import config_text, load_config
from swin_dense.errors import ConfigError

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo" / "mask-rcnn_swin-nano_shapes.py"
SEGMENTATION_DEMO = DEMO.with_name("upernet_swin-nano_shapes.py")


def write(folder: Path, text: str) -> Path:
    path = folder / "config.py"
    path.write_text(text)
    return path


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
        ("optimiser.learning_rate=1", 'unknown key "optimiser"; did you mean "optimizer"?'),
        ("data.batch_size=many", "data.batch_size must be int, not 'many'"),
        ("data.batch_size=True", "data.batch_size must be int, not True"),
        ("optimizer.betas=(0.9,)", "optimizer.betas must have 2 values, not 1"),
        ("augmentation.short_sides=800", "augmentation.short_sides must be a list"),
        ("data.train=somewhere", "data.train must be a dict of settings"),
        ("data.train.images.more=1", "holds no keys"),
        ("data.batch_size", "write an override as key=value"),
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
    with pytest.raises(ConfigError, match="optimizer.learning_rate must be above 0, got inf"):
        load_config(DEMO, ["optimizer.learning_rate=1e999"])


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    text = config_text(load_config(DEMO)).replace("'learning_rate'", "'learning_rat'")
    with pytest.raises(ConfigError, match='unknown key "optimizer.learning_rat"; did you mean "learning_rate"?'):
        load_config(write(tmp_path, text))
    text = re.sub("'learning_rat': [0-9.]+,", "", text)
    with pytest.raises(ConfigError, match='config.py: missing key "optimizer.learning_rate"'):
        load_config(write(tmp_path, text))


def test_a_config_that_is_no_python_or_does_not_exist_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: SyntaxError"):
        load_config(write(tmp_path, "model = dict("))
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "absent.py")
