"""The gradient job: every pool row's values at every warmup checkpoint, in feature stores that outlive the run.

Rows are known by content and stores by what made them, so only rows that no run has seen cost a gradient, and a
killed job goes on at the missing shard. Any number of processes share the shards; a shard's batches do not depend on
who computes it, so neither do its values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.influence.checkpoint_pass import CheckpointPass
from curate.influence.checkpoints import Checkpoint, learning_rate_weights, load_checkpoint
from curate.influence.rows import Rows, read_rows
from curate.influence.scoring import InfluenceError
from curate.influence.settings import CheckpointOutcome, GradientJob

OUTCOME = "gradients.json"


@dataclass(frozen=True)
class Worker:
    """This process among those that share the job. wait: returns when all have come to the same place."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"
    wait: Callable[[], None] = lambda: None


def run_job(
    job: GradientJob, worker: Worker = Worker(), on_rows: Callable[[int], None] = lambda count: None
) -> list[CheckpointOutcome]:
    """Fill the feature stores; the first process writes `OUTCOME` under `job.output`. on_rows: told of rows done.

    Raises `InfluenceError`, `CheckpointError`, `ModelError` or `FeatureStoreError`, each naming the thing and the
    remedy.
    """
    rows = read_job_rows(job)
    checkpoints = load_checkpoints(job)
    weights = learning_rate_weights([checkpoint.learning_rates for checkpoint in checkpoints])
    outcomes = []
    for number, (checkpoint, weight) in enumerate(zip(checkpoints, weights.tolist(), strict=True)):
        # one pass at a time: its model's memory is free for the next
        outcomes.append(
            _run_pass(CheckpointPass(job, rows, number, checkpoint, worker.device, on_rows), worker, weight)
        )
    if worker.rank == 0:
        write_outcomes(job.output, outcomes)
    return outcomes


def _run_pass(each: CheckpointPass, worker: Worker, weight: float) -> CheckpointOutcome:
    if worker.rank == 0:
        each.verify()
    worker.wait()
    plan = each.plan()
    each.on_rows(len(each.rows.keys) - plan.new_rows)
    each.prepare()
    worker.wait()  # nobody lists what is missing after somebody has begun to write
    each.write(plan.shards[worker.rank :: worker.count])
    worker.wait()
    return each.outcome(plan, weight, each.halvings)


def read_job_rows(job: GradientJob) -> Rows:
    """Pool and targets. Raises `InfluenceError` when either has nothing to score."""
    rows = read_rows(job.pool, job.targets)
    if not rows.targets:
        raise InfluenceError(f"{job.targets} has no target with an answer to score; check max_length and the targets")
    if not rows.pool:
        raise InfluenceError(f"{job.pool} has no row with an answer to score; check max_length and the pool")
    return rows


def load_checkpoints(job: GradientJob) -> list[Checkpoint]:
    return [load_checkpoint(path, moments=job.settings.needs_moments) for path in job.checkpoints]


def write_outcomes(folder: Path, outcomes: Sequence[CheckpointOutcome]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps([outcome.model_dump(mode="json") for outcome in outcomes], indent=1)
    (folder / OUTCOME).write_text(text)


def feature_folders(job: GradientJob) -> list[Path]:
    """The folders under `job.features` that the job reads and fills, one per checkpoint; no model is loaded."""
    rows, checkpoints = read_job_rows(job), load_checkpoints(job)
    return [CheckpointPass(job, rows, number, each).folder for number, each in enumerate(checkpoints)]


def read_outcomes(folder: Path) -> list[CheckpointOutcome]:
    return [CheckpointOutcome.model_validate(each) for each in json.loads((folder / OUTCOME).read_text())]
