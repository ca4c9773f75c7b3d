"""curate.influence.checkpoints: learning-rate weights of the paper, and checkpoints that do not fit."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from curate.influence.checkpoints import (
    ADAPTER_CONFIG,
    CheckpointError,
    check_names,
    learning_rate_weights,
    load_checkpoint,
)
from train.models import ADAPTER_FILE
from train.moments import MOMENTS_FILE, OPTIMIZER_FILE

PUBLISHED = [1.6877e-5, 1.2859e-5, 7.7030e-6, 2.5616e-6]


def test_published_weights():
    # the spec prints four digits; its own quotients are taken to 1e-6
    weights = learning_rate_weights([[rate] for rate in PUBLISHED])
    np.testing.assert_allclose(weights, (0.4219, 0.3215, 0.1926, 0.0640), atol=5.1e-5)
    np.testing.assert_allclose(weights, [rate / 4.00006e-5 for rate in PUBLISHED], atol=1e-6)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)


def test_linear_schedule_gives_the_published_row():
    steps = 4000
    warm = 0.03 * steps
    used = [2e-5 * min(s / warm, (steps - s) / (steps - warm)) for s in range(steps)]
    weights = learning_rate_weights([used[k * 1000 : (k + 1) * 1000] for k in range(4)])
    np.testing.assert_allclose(weights, (0.4201, 0.3222, 0.1933, 0.0644), atol=2e-4)  # a sum, not the integral


def test_common_factor_and_checkpoints_of_unequal_length():
    rates = [[1.0, 3.0], [4.0], [1.0, 1.0, 4.0]]
    np.testing.assert_allclose(learning_rate_weights(rates), [0.25, 0.5, 0.25])
    np.testing.assert_allclose(learning_rate_weights([[7 * r for r in part] for part in rates]), [0.25, 0.5, 0.25])


@pytest.mark.parametrize("rates", [[[0.0], [0.0]], [[float("nan")]]])
def test_unusable_rates(rates):
    with pytest.raises(CheckpointError, match="learning rates"):
        learning_rate_weights(rates)


def write_checkpoint(folder, moments):
    folder.mkdir()
    first = {f"exp_avg.{name}": value for name, value in moments.items()}
    second = {f"exp_avg_sq.{name}": 2 * value for name, value in moments.items()}
    save_file(first | second, folder / MOMENTS_FILE)
    save_file({"lora": torch.ones(2)}, folder / ADAPTER_FILE)
    (folder / ADAPTER_CONFIG).write_text('{"lora_alpha": 4}')
    state = {"step": 5, "betas": [0.9, 0.99], "eps": 1e-6, "weight_decay": 0.0, "learning_rates": [0.1, 0.2]}
    (folder / OPTIMIZER_FILE).write_text(json.dumps(state))
    return load_checkpoint(folder)


def rewrite_moments(folder, keys):
    save_file({key: torch.zeros(2) for key in keys}, folder / MOMENTS_FILE)


def test_load_and_match_names(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "c", {"x.weight": torch.arange(6.0).reshape(2, 3)})
    assert checkpoint.m["x.weight"].tolist() == [0, 1, 2, 3, 4, 5]
    assert checkpoint.v["x.weight"].tolist() == [0, 2, 4, 6, 8, 10]
    assert (checkpoint.step, checkpoint.betas, checkpoint.eps) == (5, (0.9, 0.99), 1e-6)
    assert checkpoint.learning_rates == [0.1, 0.2]
    parameter = torch.nn.Parameter(torch.zeros(2, 3))
    check_names(checkpoint, {"x.weight": parameter})
    with pytest.raises(CheckpointError, match=r"no moments for y\.weight"):
        check_names(checkpoint, {"y.weight": parameter})
    with pytest.raises(CheckpointError, match=r"moments of x\.weight have 6 values, the parameter 4"):
        check_names(checkpoint, {"x.weight": torch.nn.Parameter(torch.zeros(2, 2))})
    with pytest.raises(CheckpointError, match=r"moments for x\.weight, which the adapter does not have"):
        check_names(checkpoint, {})


def test_digest_is_of_adapter_scale_and_moments(tmp_path):
    folder = tmp_path / "c"
    first = write_checkpoint(folder, {"x.weight": torch.ones(2)}).digest
    plain = load_checkpoint(folder, moments=False)
    assert plain.m == plain.v == {} and plain.digest != first
    assert load_checkpoint(folder).digest == first
    (folder / ADAPTER_CONFIG).write_text('{"lora_alpha": 8}')
    second = load_checkpoint(folder).digest
    save_file({"lora": torch.zeros(2)}, folder / ADAPTER_FILE)
    third = load_checkpoint(folder).digest
    rewrite_moments(folder, ["exp_avg.x.weight", "exp_avg_sq.x.weight"])
    assert len({first, second, third, load_checkpoint(folder).digest}) == 4


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["exp_avg.0", "exp_avg_sq.0"], r"no moments by parameter name; its keys are exp_avg\.0, exp_avg_sq\.0"),
        (["0.exp_avg", "0.exp_avg_sq"], r"no moments by parameter name; its keys are 0\.exp_avg, 0\.exp_avg_sq"),
        (["exp_avg.x.w"], r"no exp_avg_sq of x\.w"),
        (["exp_avg.x.w", "exp_avg_sq.x.w", "exp_avg_sq.y.w"], r"no exp_avg of y\.w"),
    ],
)
def test_moments_that_cannot_be_matched_say_how_to_make_them(tmp_path, keys, message):
    write_checkpoint(tmp_path / "c", {"x.w": torch.ones(2)})
    rewrite_moments(tmp_path / "c", keys)
    with pytest.raises(CheckpointError, match=rf"{MOMENTS_FILE} has {message}\. .*SaveMoments writes them"):
        load_checkpoint(tmp_path / "c")
    assert load_checkpoint(tmp_path / "c", moments=False).step == 5


@pytest.mark.parametrize(
    ("name", "text"),
    [(MOMENTS_FILE, ""), (MOMENTS_FILE, "{}"), (OPTIMIZER_FILE, "[1"), (OPTIMIZER_FILE, "{}"), (ADAPTER_CONFIG, "")],
)
def test_damaged_files_are_named(tmp_path, name, text):
    write_checkpoint(tmp_path / "c", {"x.w": torch.ones(2)})
    (tmp_path / "c" / name).write_text(text)
    with pytest.raises(CheckpointError, match=rf"{name}.* is damaged \(.*train the warmup again"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("missing", [MOMENTS_FILE, OPTIMIZER_FILE])
def test_missing_state_says_how_to_make_it(tmp_path, missing):
    write_checkpoint(tmp_path / "c", {"x.weight": torch.zeros(1)})
    (tmp_path / "c" / missing).unlink()
    with pytest.raises(CheckpointError, match=rf"no {missing}.*Train the warmup with `checkpoints`"):
        load_checkpoint(tmp_path / "c")
