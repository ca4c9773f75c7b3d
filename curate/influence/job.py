"""The gradient job: every pool row's values at every warmup checkpoint, in feature stores that outlive the run.

Rows are known by content and stores by what made them, so only rows that no run has seen cost a gradient, and a
killed job goes on at the missing shard. Any number of processes share the shards; a shard's batches do not depend on
who computes it, so neither do its values. The model is loaded only where something is missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from curate.influence.checkpoints import Checkpoint, learning_rate_weights, load_checkpoint
from curate.influence.engine import open_engine
from curate.influence.features import FeatureIdentity, FeatureStore
from curate.influence.projection import Projection, make_projection
from curate.influence.rows import Rows, content_digest, read_rows
from curate.influence.scoring import Engine, InfluenceError, TargetGradients, score_rows, target_gradients
from curate.influence.settings import CheckpointOutcome, GradientJob
from curate.influence.target_side import TargetSide
from train.encoding import read_encoded
from train.models import load_tokenizer

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
    rows = read_rows(job.pool, job.targets)
    if not rows.targets:
        raise InfluenceError(f"{job.targets} has no target with an answer to score; check max_length and the targets")
    if not rows.pool:
        raise InfluenceError(f"{job.pool} has no row with an answer to score; check max_length and the pool")
    job.output.mkdir(parents=True, exist_ok=True)
    checkpoints = [load_checkpoint(path, moments=job.settings.needs_moments) for path in job.checkpoints]
    weights = learning_rate_weights([checkpoint.learning_rates for checkpoint in checkpoints])
    outcomes = [
        _Pass(job, worker, rows, number, checkpoint, weight, on_rows).run()
        for number, (checkpoint, weight) in enumerate(zip(checkpoints, weights.tolist(), strict=True))
    ]
    if worker.rank == 0:
        text = json.dumps([outcome.model_dump(mode="json") for outcome in outcomes], indent=1)
        (job.output / OUTCOME).write_text(text)
    return outcomes


def read_outcomes(folder: Path) -> list[CheckpointOutcome]:
    return [CheckpointOutcome.model_validate(each) for each in json.loads((folder / OUTCOME).read_text())]


class _Pass:
    """One checkpoint's share of the job."""

    def __init__(
        self,
        job: GradientJob,
        worker: Worker,
        rows: Rows,
        number: int,
        checkpoint: Checkpoint,
        weight: float,
        on_rows: Callable[[int], None],
    ) -> None:
        self.job, self.settings, self.worker, self.rows = job, job.settings, worker, rows
        self.number, self.checkpoint, self.weight, self.on_rows = number, checkpoint, weight, on_rows
        self.halvings = 0

    def run(self) -> CheckpointOutcome:
        identity, folder = self.identity, self.folder
        if self.worker.rank == 0:
            FeatureStore(folder, identity).verify()
        self.worker.wait()
        store = FeatureStore(folder, identity)
        missing = store.missing(self.rows.keys)
        self.on_rows(len(self.rows.keys) - len(missing))
        new = {self.rows.keys[i] for i in missing}  # rows of equal content are computed once
        found = sum(key not in new for key in self.rows.keys)
        self.target_side.ensure()
        shards = [missing[i : i + self.settings.shard_rows] for i in range(0, len(missing), self.settings.shard_rows)]
        self.worker.wait()  # nobody lists what is missing after somebody has begun to write
        for positions in shards[self.worker.rank :: self.worker.count]:
            self._write_shard(store, positions)
        self.worker.wait()
        store = FeatureStore(folder, identity)
        fidelity = store.fidelity()
        by_key = store.excluded(self.rows.keys)
        lost = {r.id: by_key[key] for r, key in zip(self.rows.pool, self.rows.keys, strict=True) if key in by_key}
        figures = store.figures()
        return CheckpointOutcome(
            checkpoint=self.checkpoint.path,
            store=folder,
            identity=identity,
            weight=self.weight,
            rows_found=found,
            excluded=lost | self.target_side.excluded(),
            small_v_share=figures.get("small_v_share"),
            out_of_memory=self.halvings,
            noise=self.target_side.noise(),
            fidelity=None if fidelity is None else asdict(fidelity),
        )

    @property
    def folder(self) -> Path:
        return self.job.features / _digest(self.identity.model_dump_json())

    @property
    def exact(self) -> bool:
        return self.settings.mode == "exact"

    @cached_property
    def projection(self) -> Projection | None:
        if self.exact:
            return None
        return make_projection(self.settings.mode, self.settings.dimension, self.projection_seed)

    @cached_property
    def target_side(self) -> TargetSide:
        settings = self.settings
        return TargetSide(
            self.folder,
            self.rows,
            lambda: self.quiet_engine,
            lambda: self.unit_targets,
            self.projection,
            settings.noise_rows,
            self.job.seed,
        )

    @property
    def projection_seed(self) -> int:
        """Another one for each checkpoint, which makes their noise independent."""
        return 1000 * self.settings.projection_seed + self.number

    @cached_property
    def identity(self) -> FeatureIdentity:
        settings, checkpoint = self.settings, self.checkpoint
        return FeatureIdentity(
            kind="cosines" if settings.mode == "exact" else settings.mode,
            width=len(self.rows.targets) if self.exact else settings.dimension,
            seed=None if self.exact else self.projection_seed,
            dtype="float32" if self.exact else settings.stored_as,
            model=self.job.model_digest,
            checkpoint=checkpoint.digest,
            template=_tokenizer_digest(self.job.model),
            max_length=self.job.max_length,
            preconditioner=self._preconditioner_name,
            betas=checkpoint.betas,
            eps=checkpoint.eps,
            step=checkpoint.step,
            parameters=_digest(json.dumps([settings.layers, settings.full_rank])),
            targets=self.rows.targets_digest if self.exact else None,
            precision=settings.precision,
            code=self.job.code,
        )

    @property
    def _preconditioner_name(self) -> str:
        name, curvature = self.settings.preconditioner, self.settings.curvature
        if name != "ekfac":
            return name
        sample = content_digest(read_encoded(self.job.sample))
        return f"{name}({curvature.model_dump_json()}, seed={self.job.seed}, sample={sample})"

    @cached_property
    def engine(self) -> Engine:
        """Made when the first missing shard asks for it."""
        device, folder = self.worker.device, self.folder
        return open_engine(self.job, self.checkpoint, folder, device, self.on_rows, self._count_halving)

    @cached_property
    def quiet_engine(self) -> Engine:
        """The same without progress, for rows that are not the pool's."""
        return replace(self.engine, on_batch=lambda count: None)

    def _count_halving(self) -> None:
        self.halvings += 1

    @cached_property
    def unit_targets(self) -> TargetGradients:
        return target_gradients(self.quiet_engine, self.rows.targets)

    def _write_shard(self, store: FeatureStore, positions: Sequence[int]) -> None:
        rows = [self.rows.pool[i] for i in positions]
        keys = {self.rows.pool[i].id: self.rows.keys[i] for i in positions}
        scores = score_rows(self.engine, rows, self.unit_targets if self.exact else None, self.projection)
        values = scores.cosines if self.exact else scores.features
        assert values is not None
        store.write(
            [keys[row.id] for row in rows],
            values,
            scores.norms,
            np.array([row.trained_tokens for row in rows]),
            {keys[row]: reason for row, reason in scores.excluded.items()},
            empty_columns=self._empty_columns if self.exact else (),
            figures={} if scores.small_v_share is None else {"small_v_share": scores.small_v_share},
        )

    @property
    def _empty_columns(self) -> list[int]:
        return [j for j, row in enumerate(self.rows.targets) if row.id in self.unit_targets.excluded]


def _tokenizer_digest(model: str) -> str:
    """Digest of how text becomes tokens: vocabulary, special tokens and chat template."""
    tokenizer = load_tokenizer(model)
    parts = [sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map, tokenizer.chat_template]
    return _digest(json.dumps(parts, default=str, sort_keys=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]
