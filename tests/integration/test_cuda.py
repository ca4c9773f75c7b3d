"""On a GPU: the same losses, gradients and training as on the CPU, up to rounding. Skipped where there is none."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from curate.influence.features import FeatureStore
from curate.influence.job import Worker, run_job
from curate.influence.rows import read_rows
from eval.heldout import HeldOutRow, held_out_losses
from tests.curate.influence.builders import make_job
from tests.tiny import make_base, make_rows, make_tokenizer
from train.__main__ import run
from train.encoding import write_encoded
from train.hidden_states import unit_vectors
from train.models import load_base
from train.settings import (
    CoresetSettings,
    LoraSettings,
    MixtureSettings,
    OptimizerSettings,
    ReweightingSettings,
    TrainJob,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
POOL, TARGETS = make_rows(24, seed=1), make_rows(4, seed=2, prefix="target")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    make_base("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def train_job(base, output, **parts) -> TrainJob:
    data = output.with_suffix(".parquet")
    write_encoded(data, make_rows(32, seed=9, prefix="sample"))
    optimizer = OptimizerSettings(batch_size=8, learning_rate=0.02)
    return TrainJob(
        model=str(base), data=data, output=output, max_steps=6, checkpoints=2, merge=False,
        lora=LoraSettings(r=2, alpha=4), optimizer=optimizer, **parts,
    )  # fmt: skip


@pytest.fixture(scope="module")
def warmup(base, tmp_path_factory) -> TrainJob:
    job = train_job(base, tmp_path_factory.mktemp("warmup") / "trained")
    run(job)
    return job


def values_of(folder, base, warmup, device: str, **settings) -> list[np.ndarray]:
    """(N, width) values of every checkpoint, computed on `device`."""
    folder.mkdir()
    for name, rows in (("pool", POOL), ("targets", TARGETS)):
        write_encoded(folder / f"{name}.parquet", rows)
    checkpoints = [warmup.output / f"checkpoint-{n}" for n in (1, 2)]
    job = make_job(folder, base=base, checkpoints=checkpoints, sample=warmup.data, **settings)
    keys = read_rows(job.pool, job.targets).keys
    return [
        FeatureStore(outcome.store, outcome.identity).rows(keys)[0 : len(keys)]
        for outcome in run_job(job, Worker(device=device))
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"preconditioner": "less"},
        {"preconditioner": "sgd"},
        {"preconditioner": "ekfac"},
        {"mode": "sketch", "dimension": 256},
        {"mode": "rademacher", "dimension": 256},
    ],
    ids=str,
)
def test_influence_on_the_gpu_equals_the_cpu(tmp_path, base, warmup, settings):
    on_gpu = values_of(tmp_path / "gpu", base, warmup, "cuda", **settings)
    on_cpu = values_of(tmp_path / "cpu", base, warmup, "cpu", **settings)
    for gpu, cpu in zip(on_gpu, on_cpu, strict=True):
        # cosines and unit features; Adam's rule divides by small moments, which enlarges float32 rounding
        np.testing.assert_allclose(gpu, cpu, atol=2e-3)
        assert np.corrcoef(gpu.ravel(), cpu.ravel())[0, 1] > 0.9999


def test_bfloat16_gradients_rank_as_float32_ones(tmp_path, base, warmup):
    exact = values_of(tmp_path / "float32", base, warmup, "cuda")
    rounded = values_of(tmp_path / "bfloat16", base, warmup, "cuda", precision="bfloat16")
    for one, other in zip(exact, rounded, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99
        assert np.abs(one - other).max() < 0.1


def logged_losses(job: TrainJob) -> list[float]:
    lines = (job.output / "log.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


PARTS = {
    "plain": {},
    "mixture and weights": {"mixture": MixtureSettings(), "reweighting": ReweightingSettings(burn_in=0.0)},
    "coreset": {"coreset": CoresetSettings()},
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_training_on_the_gpu_follows_the_cpu(tmp_path, base, parts):
    on_gpu = train_job(base, tmp_path / "gpu", **parts)
    run(on_gpu)
    on_cpu = train_job(base, tmp_path / "cpu", **parts)
    file = tmp_path / "job.json"
    file.write_text(on_cpu.model_dump_json())
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-m", "train", str(file)], check=True, env=hidden)
    losses = [logged_losses(job) for job in (on_gpu, on_cpu)]
    assert losses[0], "the log has no loss"
    np.testing.assert_allclose(losses[0], losses[1], rtol=5e-3)


def test_losses_and_embeddings_on_the_gpu_equal_the_cpu(base):
    pad_id = make_tokenizer().pad_token_id
    gpu, cpu = load_base(str(base), device="cuda"), load_base(str(base), device="cpu")
    rows = [HeldOutRow(row.id, "math", row.input_ids, row.labels, 10) for row in POOL]
    nats = [[loss.nats for loss in held_out_losses(model, rows, pad_id)] for model in (gpu, cpu)]
    np.testing.assert_allclose(*nats, rtol=1e-4)
    vectors = [unit_vectors(model, POOL, pad_id) for model in (gpu, cpu)]
    np.testing.assert_allclose(*vectors, atol=1e-4)
