"""Two processes, and two that shard the model, do what one process does: warmup, gradients, selection, fine-tuning."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from curate.influence import attribution_matrix
from curate.influence.features import FeatureStore
from curate.influence.job import run_job
from curate.influence.rows import read_rows
from curate.selection import bids
from flows.config import load_config
from flows.stages.influence import SAMPLE, warmup
from flows.store import StageOutput, StageStore
from tests.curate.influence.builders import make_job as gradient_job
from tests.tiny import make_rows, save_base
from tests.train.jobs import environment, log_lines, make_job
from train.__main__ import run
from train.encoding import write_encoded
from train.moments import MOMENTS_FILE, checkpoint_folders
from train.settings import LoraSettings, MixtureSettings, OptimizerSettings, ReweightingSettings

pytestmark = pytest.mark.slow  # five processes that import torch
ROOT = Path(__file__).parents[2]
ACCELERATE = ROOT / "configs" / "accelerate"
TOLERANCE = 1e-5  # float32 sums of other order, over a few Adam steps
PARTS = {
    "mixture": MixtureSettings(start=3.0, max_epochs=None),
    "reweighting": ReweightingSettings(burn_in=0.0, temperature=0.4),
    "lora": LoraSettings(r=2),  # without dropout, whose masks differ between processes
    "optimizer": OptimizerSettings(batch_size=8, micro_batch_size=2, learning_rate=1e-2),
}


def differ(mine: Path, wanted: Path) -> float:
    ours, theirs = load_file(mine), load_file(wanted)
    assert set(ours) == set(theirs) and any(value.any() for value in theirs.values())
    return max((ours[name] - theirs[name]).abs().max().item() for name in theirs)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


def test_warmup_in_two_processes_leads_to_the_same_selection(base, tmp_path):
    encoded = tmp_path / "encoded"
    encoded.mkdir()
    write_encoded(encoded / "pool.parquet", make_rows(64, seed=1))
    write_encoded(encoded / "targets.parquet", make_rows(6, seed=2, prefix="target"))
    overrides = {
        "model": str(base),
        "warmup": {
            "fraction": 0.5,
            "checkpoints": 2,
            "lora": {"r": 2},
            "optimizer": {"batch_size": 4, "epochs": 1, "learning_rate": 0.02},
        },
    }
    matrices, warmed = [], []
    for name in ("one_process.yaml", "two_cpu_processes.yaml"):
        overrides["warmup"]["accelerate"] = str(ACCELERATE / name)
        config = load_config(
            ROOT / "configs" / "demo.yaml", [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
        )
        store = StageStore(tmp_path / name)
        warmed.append(warmup(config, store, StageOutput("encode", "encode", encoded, True, 0.0)).path)
        job = gradient_job(
            encoded, checkpoint_folders(warmed[-1]), base, sample=warmed[-1] / SAMPLE, features=store.root / "features",
            output=store.root / "gradients",
        )  # fmt: skip
        outcomes, rows = run_job(job), read_rows(job.pool, job.targets)
        matrices.append(
            attribution_matrix(
                [FeatureStore(each.store, each.identity).rows(rows.keys) for each in outcomes],
                np.array([each.weight for each in outcomes]),
                [row.id for row in rows.pool],
                [row.id for row in rows.targets],
                ["a", "b"] * 3,
                settings="test",
            )
        )
    for one, two in zip(*map(checkpoint_folders, warmed), strict=True):
        for file in ("adapter_model.safetensors", MOMENTS_FILE):
            assert differ(two / file, one / file) < TOLERANCE
    one, two = matrices
    np.testing.assert_allclose(two.values, one.values, atol=1e-3)
    assert list(bids(two.values, budget=16).order) == list(bids(one.values, budget=16).order)


def test_fsdp_trains_the_adapter_of_one_process_with_mixture_and_reweighting(base, tmp_path):
    """Every process holds pieces of the layers; the saved adapter and the merged model are whole."""
    one, pieces = make_job(base, tmp_path, "one", **PARTS), make_job(base, tmp_path, "pieces", **PARTS, merge=True)
    run(one)
    settings = yaml.safe_load((ACCELERATE / "fsdp.yaml").read_text()) | {"use_cpu": True, "mixed_precision": "no"}
    (tmp_path / "fsdp.yaml").write_text(yaml.safe_dump(settings))
    pieces.output.mkdir()
    (pieces.output / "job.json").write_text(pieces.model_dump_json())
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "fsdp.yaml"), "-m",
               "tests.train.fsdp_on_cpu", str(pieces.output / "job.json")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    adapter = "adapter/adapter_model.safetensors"
    assert differ(pieces.output / adapter, one.output / adapter) < TOLERANCE
    for ours, theirs in zip(log_lines(pieces.output), log_lines(one.output), strict=True):
        assert ours["selected"] == theirs["selected"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert "DistributedDataParallel" not in done.stderr and "reducer.cpp" not in done.stderr  # it did shard
    merged, plain = (load_file(folder / "model.safetensors") for folder in (pieces.output / "merged", base))
    changed = [name for name in plain if not merged[name].equal(plain[name])]
    assert changed and all("_proj" in name for name in changed)
