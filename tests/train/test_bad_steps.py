"""Steps that nothing can be learnt from are skipped, named and counted; set-ups that would train something else are
refused; evaluation and TensorBoard of the framework keep working."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from tests.tiny import make_model, make_rows, make_tokenizer, save_base
from tests.train.jobs import log_lines, make_job
from train.__main__ import run
from train.encoding import IGNORED, Encoded
from train.mixture import ConstantSchedule, MixtureSampler
from train.models import trainable
from train.settings import MIXTURE_LOG, CoresetSettings, LoraSettings, OptimizerSettings, ReweightingSettings
from train.setup_checks import TrainingError, refuse_what_cannot_work
from train.trainer import BalancedTrainer

ROWS = make_rows(16)
MASKED = [Encoded(f"masked-{i}", "a", [3, 4, 5], [IGNORED] * 3) for i in range(4)]


def make_trainer(output: Path, rows=ROWS, steps: int = 4, arguments: dict | None = None, **parts) -> BalancedTrainer:
    settings = TrainingArguments(
        output_dir=str(output), max_steps=steps, learning_rate=1e-2, save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True, logging_steps=1, dataloader_pin_memory=False, **(arguments or {}),
    )  # fmt: skip
    mixture = MixtureSampler([row.source for row in rows], 4, steps, ConstantSchedule(1.0), 3)
    return BalancedTrainer(
        model=make_model(), args=settings, processing_class=make_tokenizer(), rows=rows, mixture=mixture,
        total_steps=steps, log_path=output / MIXTURE_LOG, **parts,
    )  # fmt: skip


def plan(trainer: BalancedTrainer, pools: list[list[int]]) -> None:
    trainer.mixture.plan = lambda step: np.array(pools[step])


@pytest.mark.parametrize("reweighting", [None, ReweightingSettings(burn_in=0.0)])
@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_a_step_without_a_label_changes_nothing_and_is_named(tmp_path, capsys, reweighting, micro_batch_size):
    rows = [*ROWS, *MASKED]
    good = [[0, 1, 2, 3], [4, 5, 6, 7]]
    straight = make_trainer(tmp_path / "straight", rows, steps=2, arguments={"lr_scheduler_type": "constant"},
                            reweighting=reweighting, micro_batch_size=micro_batch_size)  # fmt: skip
    plan(straight, good)
    straight.train()
    disturbed = make_trainer(tmp_path / "disturbed", rows, steps=3, arguments={"lr_scheduler_type": "constant"},
                             reweighting=reweighting, micro_batch_size=micro_batch_size)  # fmt: skip
    plan(disturbed, [good[0], [16, 17, 18, 19], good[1]])
    disturbed.train()
    for name, parameter in trainable(disturbed.model).items():
        assert torch.equal(parameter, trainable(straight.model)[name]), name
    told = capsys.readouterr().out
    assert "warning: step 1 is skipped" in told
    assert "masked-0, masked-1" in told
    lines = log_lines(tmp_path / "disturbed")
    assert [line["skipped"] for line in lines] == [False, True, False]
    assert lines[1]["excluded"] == [row.id for row in MASKED]
    assert sum(entry.get("steps_skipped", 0) for entry in disturbed.state.log_history) == 1


def test_one_row_with_a_loss_that_is_not_finite_is_left_out_by_name(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, steps=2)
    plan(trainer, [[0, 1, 2, 3], [4, 5, 6, 7]])
    real = BalancedTrainer._losses

    def one_infinite(self, model, positions):
        losses = real(self, model, positions)
        return torch.where(torch.tensor([p == 2 for p in positions]), torch.inf, losses)

    monkeypatch.setattr(BalancedTrainer, "_losses", one_infinite)
    trainer.train()
    lines = log_lines(tmp_path)
    assert [line["excluded"] for line in lines] == [[ROWS[2].id], []]
    assert not lines[0]["skipped"]
    assert all(torch.isfinite(p).all() for p in trainable(trainer.model).values())


def test_a_gradient_that_is_not_finite_skips_the_step(tmp_path):
    trainer = make_trainer(tmp_path, steps=2)
    name, parameter = next(iter(trainable(trainer.model).items()))
    before = {n: p.detach().clone() for n, p in trainable(trainer.model).items()}
    handle = parameter.register_hook(lambda gradient: gradient * torch.nan)
    trainer.train()
    handle.remove()
    assert all(torch.equal(p, before[n]) for n, p in trainable(trainer.model).items()), name
    assert [line["skipped"] for line in log_lines(tmp_path)] == [True, True]


def test_more_than_a_few_lost_steps_end_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"no step of the last 10 .* step 9, rows masked-"):
        make_trainer(tmp_path, MASKED, steps=12).train()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"arguments": {"use_liger_kernel": True}}, "leaves no loss per example"),
        (
            {"reweighting": ReweightingSettings(scope="micro"), "micro_batch_size": 3},
            "4 examples are no multiple of 1",
        ),
        ({"coreset": CoresetSettings(small_sources=["z"])}, "small_sources names z, of which there are no rows"),
    ],
)
def test_set_ups_that_would_train_something_else(tmp_path, monkeypatch, parts, message):
    monkeypatch.setattr("transformers.training_args.is_liger_kernel_available", lambda: True, raising=False)
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, **parts)


@pytest.mark.parametrize("feature", ["random", "last_layer"])
@pytest.mark.parametrize("kind", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_coreset_is_refused_where_layers_are_in_pieces(tmp_path, kind, feature):
    trainer = make_trainer(tmp_path)
    setattr(trainer, kind, True)
    with pytest.raises(TrainingError, match="FSDP and DeepSpeed keep in pieces"):
        refuse_what_cannot_work(trainer, CoresetSettings(feature=feature))


def test_named_small_sources_are_always_kept(tmp_path):
    make_trainer(tmp_path, coreset=CoresetSettings(small_sources=["b"], kappa=1.0, feature="random")).train()
    for line in log_lines(tmp_path):
        assert line["kept"] == ({"b": min(2, line["pool"]["b"])} if "b" in line["pool"] else {})


def test_evaluate_is_the_mean_of_examples(tmp_path):
    trainer = make_trainer(tmp_path, eval_dataset=ROWS[:6], arguments={"per_device_eval_batch_size": 3})
    wanted = trainer._losses(trainer.model.eval(), np.arange(6)).mean().item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted, rel=1e-5)


def test_tensorboard_gets_the_mixture_and_the_losses_of_domains(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    job = make_job(save_base(tmp_path / "base"), tmp_path, "logged", tensorboard=True, lora=LoraSettings(r=2))
    run(job)
    events = accumulator.EventAccumulator(str(job.output / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/mixture/temperature", "train/share_pool/a", "train/epochs/b", "train/loss/a"} <= tags
    assert "train/weights/effective_sample_size" in tags
    logged = [json.loads(line) for line in (job.output / "log.jsonl").read_text().splitlines()]
    assert logged[0]["weighted_loss"] == pytest.approx(logged[0]["loss"], rel=1e-4)


def test_pissa_adapter_of_a_job_fits_the_base_as_it_was(tmp_path):
    from train.models import load_adapter, load_base

    base = save_base(tmp_path / "base")
    lora, optimizer = LoraSettings(r=2, init="pissa"), OptimizerSettings(batch_size=4, learning_rate=1e-3)
    job = make_job(base, tmp_path, "pissa", lora=lora, optimizer=optimizer, merge=True)
    run(job)
    ids = torch.tensor([ROWS[0].input_ids])
    with torch.no_grad():
        adapted = load_adapter(load_base(str(base)), job.output / "adapter").eval()(ids).logits
        merged = load_base(str(job.output / "merged"))(ids).logits
        start = load_base(str(base))(ids).logits
    torch.testing.assert_close(adapted, merged, rtol=1e-4, atol=1e-4)
    assert (adapted - start).abs().max() > 1e-4
