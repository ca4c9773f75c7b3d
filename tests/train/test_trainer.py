"""train.trainer and `python -m train`: one step's gradient, its parts, repeatability and the ways a job can fail."""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import TrainingArguments

from tests.reference import per_example as reference
from tests.reference.reweighting import loss_weights
from tests.tiny import make_model, make_rows, make_tokenizer, save_base
from tests.train import jobs
from tests.train.jobs import adapter_bytes, log_lines
from train.__main__ import main, run
from train.encoding import IGNORED, Encoded
from train.mixture import ConstantSchedule, MixtureSampler
from train.models import trainable
from train.settings import MIXTURE_LOG, CoresetSettings, ReweightingSettings
from train.setup_checks import TrainingError
from train.trainer import BalancedTrainer
from train.weighing import loss_coefficients

ROWS = make_rows(16)
REWEIGHTING = ReweightingSettings(burn_in=0.0, cap=None, temperature=0.4)


def make_trainer(output: Path, *, batch: int = 4, steps: int = 3, dropout: float = 0.0, rows=ROWS, **parts):
    arguments = TrainingArguments(
        output_dir=str(output), max_steps=steps, learning_rate=1e-2,
        per_device_train_batch_size=parts.pop("per_device", batch),
        save_strategy="no", report_to=[], use_cpu=True, remove_unused_columns=False, disable_tqdm=True,
        dataloader_pin_memory=False,
        gradient_accumulation_steps=parts.pop("gradient_accumulation_steps", 1),
    )  # fmt: skip
    mixture = MixtureSampler(
        [row.source for row in rows], batch, steps, schedule=ConstantSchedule(1.0), seed=3, max_epochs=None
    )
    return BalancedTrainer(
        model=make_model(dropout=dropout), args=arguments, processing_class=make_tokenizer(), rows=rows,
        mixture=mixture, total_steps=steps, log_path=output / MIXTURE_LOG, **parts,
    )  # fmt: skip


def step_gradient(output: Path, pool: list[int], **parts) -> torch.Tensor:
    trainer = make_trainer(output, batch=len(pool), **parts)
    trainer.mixture.plan = lambda step: np.array(pool)  # this pool, not the plan's
    trainer.training_step(trainer.model, {"step": 0})
    return torch.cat([p.grad.flatten() for p in trainable(trainer.model).values()])


@pytest.mark.parametrize("reweighting", [None, REWEIGHTING], ids=["plain", "reweighted"])
@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 4, None])
def test_step_gradient_is_the_weighted_mean_of_single_gradients(tmp_path, reweighting, micro_batch_size):
    pool, model = [5, 0, 11, 2], make_model()
    losses = [reference.loss(model, ROWS[i]).item() for i in pool]
    weights = loss_weights(losses, "linupper", 0.4, 1.0, None) if reweighting else [1.0] * 4
    assert not reweighting or max(weights) > 1.5 * min(weights)  # the example must tell the two apart
    singles = [torch.cat(list(reference.gradient(model, ROWS[i]).values())) for i in pool]
    expected = sum(w * g for w, g in zip(weights, singles, strict=True)) / 4
    mine = step_gradient(tmp_path, pool, reweighting=reweighting, micro_batch_size=micro_batch_size)
    assert (mine - expected).norm() / expected.norm() < 1e-5  # float32, other padding and order of sums
    one_batch = step_gradient(tmp_path, pool, reweighting=reweighting)
    assert (mine - one_batch).norm() / one_batch.norm() < 3e-6  # some ten float32 roundings


def test_loss_scaling_worked_example(tmp_path):
    trainer = make_trainer(tmp_path)
    at_hand = torch.tensor([1.0, 2.0, 3.0, 5.0], requires_grad=True)
    omega = np.array([0.210988, 0.347861, 1.720576, 1.720576])
    unweighted = trainer._backward(at_hand, loss_coefficients(omega, np.array([10, 20, 30, 40]), "sample"))
    assert (at_hand.grad * at_hand.detach()).tolist() == pytest.approx(
        [0.105494 / 2, 0.347861 / 2, 2.580863 / 2, 4.301439 / 2], abs=1e-6
    )
    assert (at_hand.grad @ at_hand.detach()).item() == pytest.approx(3.667829, abs=3e-6)  # six digits of omega
    assert unweighted.tolist() == [1, 2, 3, 5]


def test_example_without_a_finite_loss_gives_no_gradient(tmp_path):
    rows = [*ROWS[:3], Encoded("masked", "a", [3, 4], [IGNORED] * 2)]
    mine = step_gradient(tmp_path, [0, 1, 2, 3], rows=rows, reweighting=REWEIGHTING)
    assert torch.isfinite(mine).all() and mine.any()


def adapter(trainer: BalancedTrainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return {name: p.detach().clone() for name, p in trainable(trainer.model).items()}


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_uniform_strategy_equals_no_reweighting_bit_for_bit(tmp_path, micro_batch_size):
    plain = adapter(make_trainer(tmp_path, dropout=0.2, micro_batch_size=micro_batch_size))
    uniform = ReweightingSettings(strategy="uniform", burn_in=0.0)
    same = adapter(make_trainer(tmp_path, dropout=0.2, micro_batch_size=micro_batch_size, reweighting=uniform))
    other = adapter(make_trainer(tmp_path, dropout=0.2, micro_batch_size=micro_batch_size, reweighting=REWEIGHTING))
    assert all(torch.equal(plain[name], same[name]) for name in plain)
    assert any(not torch.equal(plain[name], other[name]) for name in plain)


def test_burn_in_trains_plainly_then_weighs(tmp_path):
    make_trainer(tmp_path, steps=4, reweighting=ReweightingSettings(burn_in=0.5, temperature=0.4)).train()
    sizes = [line["effective_sample_size"] for line in log_lines(tmp_path)]
    assert sizes[:2] == [4.0, 4.0] and all(1 <= size < 4 for size in sizes[2:])


@pytest.mark.parametrize("feature", ["last_layer", "random"])
def test_coreset_trains_its_share_of_every_pool(tmp_path, feature):
    coreset = CoresetSettings(ratio=0.5, feature=feature, mask_size=8)
    make_trainer(tmp_path, batch=8, coreset=coreset, reweighting=REWEIGHTING, micro_batch_size=3).train()
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines] == [0, 1, 2]
    for line in lines:
        assert sum(line["pool"].values()) == 8 and sum(line["selected"].values()) == 4
        assert all(line["selected"][source] <= line["pool"][source] for source in line["selected"])


def test_log_counts_trained_tokens(tmp_path):
    make_trainer(tmp_path, batch=16, steps=1).train()
    (line,) = log_lines(tmp_path)
    wanted = {s: sum(row.trained_tokens for row in ROWS if row.source == s) for s in ("a", "b")}
    assert line["pool"] == line["selected"] == {"a": 8, "b": 8}
    assert line["trained_tokens"] == wanted


def test_framework_accumulation_means_micro_batches(tmp_path):
    direct = adapter(make_trainer(tmp_path, batch=4, micro_batch_size=2))
    trainer = make_trainer(tmp_path, batch=4, per_device=2, gradient_accumulation_steps=2)
    assert trainer.micro_batch_size == 2
    same = adapter(trainer)
    assert all(torch.equal(direct[name], same[name]) for name in direct)
    with pytest.raises(TrainingError, match="is 6, the batch 4"):
        make_trainer(tmp_path, batch=4, per_device=2, gradient_accumulation_steps=3)


def test_run_without_a_finite_loss_ends(tmp_path):
    masked = [Encoded(f"m{i}", "a", [3, 4, 5], [IGNORED] * 3) for i in range(4)]
    with pytest.raises(TrainingError, match="lower the learning rate"):
        make_trainer(tmp_path, batch=2, steps=12, rows=masked).train()


# the whole job: python -m train


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def make_job(base, tmp_path):
    return partial(jobs.make_job, base, tmp_path)


def test_same_seed_same_adapter_bytes(make_job):
    first, second, third = make_job("first"), make_job("second"), make_job("third", seed=18)
    for job in (first, second, third):
        run(job)
    assert adapter_bytes(first) == adapter_bytes(second) != adapter_bytes(third)
    before = log_lines(first.output)
    run(first)  # a second run into the same folder starts its log afresh
    assert log_lines(first.output) == before and len(before) == 3


def test_chats_are_encoded_trained_and_merged(make_job, tmp_path):
    chat = [{"role": "user", "content": "What is two and two?"}, {"role": "assistant", "content": "It is four."}]
    long = [{"role": "user", "content": "why? " * 60}, chat[1]]
    chats = [{"id": f"c{i}", "source": "s", "messages": long if i == 3 else chat} for i in range(6)]
    data = tmp_path / "chats" / "train-0.parquet"
    data.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(chats), data)
    job = make_job("chats", data=data.parent, max_steps=None, max_length=64, checkpoints=2, merge=True)
    run(job)
    assert list(json.loads((job.output / "excluded.json").read_text())) == ["c3"]
    assert len(log_lines(job.output)) == 3  # ceil(2 epochs x 5 rows / 4)
    assert {p.name for p in job.output.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    assert (job.output / "merged" / "model.safetensors").exists()


def call_main(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    code = main()
    return code, capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        ('{"model": "m"}', "data: Field required; output: Field required"),
        ('{"model": "m", "data": "d", "output": "o", "seeds": 1}', "seeds: Extra inputs"),
        (
            '{"model": "m", "data": "d", "output": "o", "reweighting": {}, "optimizer": {"batch_size": 1}}',
            "batch_size 1 has one",
        ),
    ],
)
def test_bad_job_is_one_line_and_exit_2(monkeypatch, capsys, tmp_path, text, message):
    job = tmp_path / "job.json"
    job.write_text(text)
    code, told = call_main(monkeypatch, capsys, str(job))
    assert code == 2
    assert told.startswith(f"error: {job}: ") and message in told and "\n" not in told


def test_missing_job_file_and_missing_argument(monkeypatch, capsys, tmp_path):
    code, told = call_main(monkeypatch, capsys, str(tmp_path / "none.json"))
    assert code == 2 and told.startswith("error: ") and "none.json" in told and "\n" not in told
    assert call_main(monkeypatch, capsys)[0] == 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, "no such data file"),
        (["id", "text"], "lacks messages; its columns are id, text"),
        (["id", "input_ids"], "lacks labels"),
    ],
)
def test_data_that_cannot_be_trained_on(monkeypatch, capsys, make_job, tmp_path, columns, message):
    data = tmp_path / "bad.parquet"
    if columns:
        pq.write_table(pa.table({name: ["x"] for name in columns}), data)
    (tmp_path / "job.json").write_text(make_job("bad", data=data).model_dump_json())
    code, told = call_main(monkeypatch, capsys, str(tmp_path / "job.json"))
    assert code == 1
    assert told.startswith("error: ") and message in told and "\n" not in told
