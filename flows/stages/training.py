"""Training processes, and fine-tuning as a stage: one adapter per selection and seed, each with exactly the same budget
and steps."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flows.config import RunConfig
from flows.process import run_logged
from flows.stages.data import external_digest
from flows.store import StageOutput, StageStore
from train.settings import TrainingParts, TrainJob

JOB = "job.json"
TRAIN_LOG = "train.log"


def launch(module: str, job: Path, accelerate_config: Path | None, log: Path, name: str) -> None:
    """Run `accelerate launch -m MODULE JOB` to its end; raises `ProcessError` with the reason when it fails."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    if accelerate_config:
        launcher += ["--config_file", str(accelerate_config)]
    else:
        launcher += ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        if "OMP_NUM_THREADS" not in os.environ:  # accelerate gives a process as many threads as it says, else one
            launcher += ["--num_cpu_threads_per_process", str(os.cpu_count() or 1)]
    run_logged([*launcher, "-m", module, str(job)], log, name=name)


def launch_training(job: TrainJob, accelerate_config: Path | None, name: str) -> None:
    """Write the job beside its output and train."""
    path = job.output / JOB
    path.write_text(job.model_dump_json(indent=1))
    launch("train", path, accelerate_config, job.output / TRAIN_LOG, name)


def finetune(config: RunConfig, store: StageStore, arm: str, dataset: Path, dataset_key: str, seed: int) -> StageOutput:
    """Fine-tune the base model on an exported dataset folder."""
    settings = config.finetune

    def build(folder: Path) -> None:
        job = TrainJob(
            model=config.model,
            data=dataset / "data",
            output=folder,
            seed=seed,
            max_length=config.max_length,
            **{name: getattr(settings, name) for name in TrainingParts.model_fields},
        )
        launch_training(job, settings.accelerate, f"fine-tuning on {arm}, seed {seed}")

    return store.run(
        "finetune",
        build,
        params={
            "arm": arm,
            "settings": settings.model_dump(mode="json", exclude={"save_every", "seeds"}),
            "seed": seed,
            "max_length": config.max_length,
        },
        inputs={"dataset": dataset_key, "model": external_digest(config.model)},
        code=["train", "flows/stages/training.py"],
        resumable=True,  # the training goes on at its last checkpoint
    )
