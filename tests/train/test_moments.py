"""train.moments: what is saved is the optimizer's own state, by name, with the learning rates that were used."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from curate.influence.checkpoints import check_names, load_checkpoint
from tests.tiny import PAD, make_base, make_model, make_rows, make_tokenizer
from train.mixture import ConstantSchedule, MixtureSampler
from train.models import load_adapter, trainable
from train.moments import MOMENTS_FILE, OPTIMIZER_FILE, SaveMoments, checkpoint_steps
from train.trainer import BalancedTrainer

PEAK, WARM, STEPS = 1e-2, 2, 6


@pytest.mark.parametrize(
    ("total", "count", "steps"), [(8, 4, [2, 4, 6, 8]), (10, 4, [2, 5, 8, 10]), (2, 4, [1, 2]), (1, 1, [1])]
)
def test_checkpoints_are_evenly_spaced_and_end_with_the_run(total, count, steps):
    assert checkpoint_steps(total, count) == steps


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    output = tmp_path_factory.mktemp("warmup")
    rows = make_rows(8)
    arguments = TrainingArguments(
        output_dir=str(output), max_steps=STEPS, per_device_train_batch_size=2, learning_rate=PEAK,
        lr_scheduler_type="linear", warmup_steps=WARM, save_strategy="no", report_to=[], use_cpu=True,
        remove_unused_columns=False, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = BalancedTrainer(
        model=make_model(), args=arguments, processing_class=make_tokenizer(), rows=rows, total_steps=STEPS,
        mixture=MixtureSampler([row.source for row in rows], 2, STEPS, schedule=ConstantSchedule(1.0), seed=1,
                               max_epochs=None),
        callbacks=[SaveMoments(output, STEPS, 3)],
    )  # fmt: skip
    assert make_tokenizer().pad_token_id == PAD
    trainer.train()
    return output, trainer


def test_moments_are_the_optimizers_own(trained):
    output, trainer = trained
    moments = load_file(output / "checkpoint-3" / MOMENTS_FILE)
    named = trainable(trainer.model)
    state = trainer.optimizer.optimizer.state
    assert set(moments) == {f"{key}.{name}" for name in named for key in ("exp_avg", "exp_avg_sq")}
    for name, parameter in named.items():
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(moments[f"{key}.{name}"], state[parameter][key])
    assert any(value.any() for value in moments.values())


def test_learning_rates_are_those_used(trained):
    output, _ = trained
    rates = [json.loads((output / f"checkpoint-{k}" / OPTIMIZER_FILE).read_text()) for k in (1, 2, 3)]
    expected = [PEAK * min(s / WARM, (STEPS - s) / (STEPS - WARM)) for s in range(STEPS)]
    assert expected[0] == 0.0  # the first step's own rate, not the second's
    assert [rate for part in rates for rate in part["learning_rates"]] == pytest.approx(expected)
    assert [part["step"] for part in rates] == [2, 4, 6]
    assert [len(part["learning_rates"]) for part in rates] == [2, 2, 2]
    assert rates[0]["betas"] == [0.9, 0.999] and rates[0]["eps"] == 1e-8


def test_checkpoint_fits_its_own_adapter(trained):
    output, trainer = trained
    model = load_adapter(make_base(), output / "checkpoint-3")
    check_names(load_checkpoint(output / "checkpoint-3"), trainable(model))
    for name, parameter in trainable(trainer.model).items():
        assert torch.equal(trainable(model)[name], parameter)
