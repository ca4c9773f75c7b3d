"""The gradient job on a cluster: its shards are computed by any worker of any node, into feature stores that all share.

Shards go out in worker-sized chunks, checkpoint by checkpoint; the first chunk of each also makes the targets' side. A
worker keeps the model of the checkpoint it is at, so a model is loaded once per worker and checkpoint, however many
tasks there are.
Shards are cut as one process cuts them, and a shard that is there already is not computed again, so neither the number
of workers nor the loss of some changes a byte; on a CPU the number of threads does, in the last bits. Cost over one
process: the start of Ray, and on each worker its imports, the reading of the rows and, in exact mode, the targets'
gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from curate.influence.checkpoint_pass import CheckpointPass
from curate.influence.checkpoints import learning_rate_weights, load_checkpoint
from curate.influence.job import load_checkpoints, read_job_rows, write_outcomes
from curate.influence.rows import Rows
from curate.influence.settings import CheckpointOutcome, GradientJob
from flows.cluster.executor import RayExecutor, cut
from flows.cluster.paths import everywhere
from flows.cluster.worker import check_node, compute_with, device
from train.process import progress_line


@dataclass(frozen=True)
class Chunk:
    """Shards of one checkpoint, by the content keys of their rows. prepares: the targets' side is made first."""

    job: str
    code: list[str]
    number: int
    prepares: bool
    threads: int
    shards: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Done:
    """rows: pool rows computed or found; halvings: batches split for want of memory; loaded: models loaded."""

    number: int
    rows: int
    halvings: int
    loaded: int


def run_on_cluster(
    job: GradientJob, code: list[str], executor: RayExecutor, say: Callable[[str], None]
) -> list[CheckpointOutcome]:
    """As `curate.influence.job.run_job`, by the workers of `executor`. code: the sources whose digest the job holds."""
    rows = read_job_rows(job)
    checkpoints = load_checkpoints(job)
    passes = [CheckpointPass(job, rows, number, checkpoint) for number, checkpoint in enumerate(checkpoints)]
    for each in passes:
        each.verify()
    plans = [each.plan() for each in passes]
    text = _everywhere(job).model_dump_json()
    total = len(rows.keys) * len(passes)
    workers, loaded = executor.slots, 0
    halvings = [0] * len(passes)
    # drawn on a terminal; elsewhere the lines say how far it is
    with tqdm(total=total, desc="gradients", unit="row", mininterval=1.0, disable=None) as bar:
        finished = total - sum(plan.new_rows for plan in plans)
        bar.update(finished)

        def note(done: Done) -> None:
            nonlocal loaded, finished
            finished += done.rows
            bar.update(done.rows)
            say(progress_line(finished, total, "gradients of rows"))
            loaded += done.loaded
            halvings[done.number] += done.halvings

        chunks = [
            Chunk(text, code, number, place == 0, executor.threads, shards)
            for number, plan in enumerate(plans)
            # at least one, which may be empty: the targets may be new where the rows are not
            for place, shards in enumerate(cut(plan.shards, workers, len(passes)) or [[]])
        ]
        if job.settings.preconditioner == "ekfac":  # fitted once, on which all the workers of a checkpoint would wait
            fits = [Chunk(text, code, number, True, executor.threads, []) for number in range(len(passes))]
            executor.map("curvature", work, fits, note)
        executor.map("gradients", work, chunks, note)
    say(f"gradients: {len(chunks)} tasks on {workers} worker(s); models loaded {loaded} times")
    weights = learning_rate_weights([checkpoint.learning_rates for checkpoint in checkpoints]).tolist()
    outcomes = [each.outcome(*rest) for each, *rest in zip(passes, plans, weights, halvings, strict=True)]
    write_outcomes(job.output, outcomes)
    return outcomes


def work(chunk: Chunk) -> Done:
    """On a node: compute what a chunk names, with the model that this process has open, if it is the right one."""
    compute_with(chunk.threads)
    opened = _opened(chunk, device())
    halvings, had_model = opened.halvings, "engine" in vars(opened)
    if chunk.prepares:
        opened.prepare()
    opened.write(chunk.shards, again=True)
    loaded = int("engine" in vars(opened) and not had_model)
    return Done(chunk.number, sum(map(len, chunk.shards)), opened.halvings - halvings, loaded)


@dataclass
class _Open:
    """What this process keeps between its tasks: the rows of one job, and one checkpoint's pass with its model."""

    job: str = ""
    rows: Rows | None = None
    of: tuple[str, int, str] | None = None
    opened: CheckpointPass | None = None


_kept = _Open()


def _opened(chunk: Chunk, where: str) -> CheckpointPass:
    job = GradientJob.model_validate_json(chunk.job)
    if _kept.job != chunk.job or _kept.rows is None:
        check_node(job.pool, chunk.code, job.code)
        _kept.job, _kept.rows, _kept.of, _kept.opened = chunk.job, read_job_rows(job), None, None
    of = (chunk.job, chunk.number, where)
    if _kept.of != of or _kept.opened is None:
        _kept.of, _kept.opened = None, None  # the last one's model is freed before the next is loaded
        checkpoint = load_checkpoint(job.checkpoints[chunk.number], moments=job.settings.needs_moments)
        _kept.of, _kept.opened = of, CheckpointPass(job, _kept.rows, chunk.number, checkpoint, where)
    return _kept.opened


def _everywhere(job: GradientJob) -> GradientJob:
    """The job as a process in another working directory reads it."""
    paths = {name: value.resolve() for name, value in job if isinstance(value, Path)}
    return job.model_copy(
        update={**paths, "model": everywhere(job.model), "checkpoints": [path.resolve() for path in job.checkpoints]}
    )
