"""Small training jobs on the tiny model, for the tests of `python -m train`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.tiny import make_rows
from train.encoding import write_encoded
from train.settings import (
    MIXTURE_LOG,
    CoresetSettings,
    LoraSettings,
    MixtureSettings,
    OptimizerSettings,
    ReweightingSettings,
    TrainJob,
)

ROOT = Path(__file__).parents[2]
ALL_METHODS = {
    "mixture": MixtureSettings(start=3.0, max_epochs=None),
    "reweighting": ReweightingSettings(burn_in=0.2, temperature=0.4),
    "coreset": CoresetSettings(mask_size=16),
    "lora": LoraSettings(r=2, dropout=0.1),
    "optimizer": OptimizerSettings(batch_size=8, micro_batch_size=2, learning_rate=1e-2, weight_decay=0.01),
}
ONE = ("--num_processes", "1", "--cpu")
TWO = ("--num_processes", "2", "--multi_gpu")  # the launcher's only way to start more than one; gloo without a GPU


def make_job(base: Path, folder: Path, name: str, **changes) -> TrainJob:
    """A job of 3 steps on 16 rows of two sources, unless `changes` say otherwise."""
    data = folder / "rows.parquet"
    if not data.exists():
        write_encoded(data, make_rows(16))
    settings = {
        "model": str(base),
        "data": data,
        "output": folder / name,
        "max_steps": 3,
        "lora": LoraSettings(r=2, dropout=0.1),
        "optimizer": OptimizerSettings(batch_size=4, learning_rate=1e-2),
        "merge": False,
    }
    return TrainJob(**(settings | changes))


def adapter_bytes(job: TrainJob) -> bytes:
    return (job.output / "adapter" / "adapter_model.safetensors").read_bytes()


def log_lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / MIXTURE_LOG).read_text().splitlines()]


def command(job: TrainJob, *options: str) -> list[str]:
    """The job written down, and the command that runs it."""
    job.output.mkdir(parents=True, exist_ok=True)
    path = job.output / "job.json"
    path.write_text(job.model_dump_json())
    return [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no",
            "--dynamo_backend", "no", *options, "-m", "train", str(path)]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}


def launch(job: TrainJob, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(job, *options), capture_output=True, text=True, cwd=ROOT, env=environment(), check=False
    )
