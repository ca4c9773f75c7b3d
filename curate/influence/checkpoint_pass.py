"""One checkpoint's share of a gradient job: what its feature store lacks, the shards that fill it, and what came of it.

A pass is opened by every process that works on the job. Rows of a shard are named by content, so whoever computes a
shard, on whatever machine, computes the same rows in the same batches and writes the same bytes. The model is loaded
only where something is missing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from curate.influence.checkpoints import Checkpoint
from curate.influence.engine import open_engine
from curate.influence.features import FeatureIdentity, FeatureStore
from curate.influence.features.store import IDENTITY
from curate.influence.projection import Projection, make_projection
from curate.influence.rows import Rows, content_digest
from curate.influence.scoring import Engine, TargetGradients, score_rows, target_gradients
from curate.influence.settings import CheckpointOutcome, GradientJob
from curate.influence.target_side import TargetSide
from train.encoding import read_encoded
from train.models import load_tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a store lacks. found: rows of the job that earlier runs left there; shards: content keys of the rows of each
    shard to write, every row once."""

    found: int
    shards: list[list[str]]

    @property
    def new_rows(self) -> int:
        return sum(map(len, self.shards))


class CheckpointPass:
    """number: the checkpoint's place in the job, from 0; device: where the model is loaded; on_rows: told of pool rows
    done. `plan`, then `prepare`, `write` by any number of processes, and `outcome` when all shards are there."""

    def __init__(
        self,
        job: GradientJob,
        rows: Rows,
        number: int,
        checkpoint: Checkpoint,
        device: str = "cpu",
        on_rows: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.job, self.settings, self.rows, self.device = job, job.settings, rows, device
        self.number, self.checkpoint, self.on_rows = number, checkpoint, on_rows
        self.halvings = 0  # batches that were split for want of memory, by this process

    def verify(self) -> None:
        """Set damaged shards aside, so that their rows are missing."""
        _mend_identity(self.folder, self.identity)
        FeatureStore(self.folder, self.identity).verify()

    def plan(self) -> Plan:
        """Nobody may write before all who share the work by it have planned."""
        missing = FeatureStore(self.folder, self.identity).missing(self.rows.keys)
        absent = [self.rows.keys[i] for i in missing]  # rows of equal content are computed once
        new = set(absent)
        size = self.settings.shard_rows
        return Plan(
            found=sum(key not in new for key in self.rows.keys),
            shards=[absent[i : i + size] for i in range(0, len(absent), size)],
        )

    def prepare(self) -> None:
        """Write the targets' side, if it is missing; whoever comes first does it, the others wait."""
        self.target_side.ensure()

    def write(self, shards: Sequence[Sequence[str]], *, again: bool = False) -> None:
        """Compute and store these shards. again: an earlier attempt may have written some, which are left alone."""
        store = FeatureStore(self.folder, self.identity)
        for keys in shards:
            if again and not store.missing(keys):
                self.on_rows(len(keys))
            else:
                self._write_shard(store, keys)

    def outcome(self, plan: Plan, weight: float, halvings: int) -> CheckpointOutcome:
        """weight: the checkpoint's share in the matrix. Raises `FeatureStoreError` while a row is missing."""
        store = FeatureStore(self.folder, self.identity)
        fidelity = store.fidelity()
        by_key = store.excluded(self.rows.keys)
        lost = {r.id: by_key[key] for r, key in zip(self.rows.pool, self.rows.keys, strict=True) if key in by_key}
        return CheckpointOutcome(
            checkpoint=self.checkpoint.path,
            store=self.folder,
            identity=self.identity,
            weight=weight,
            rows_found=plan.found,
            excluded=lost | self.target_side.excluded(),
            small_v_share=store.figures().get("small_v_share"),
            out_of_memory=halvings,
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
        device, folder = self.device, self.folder
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

    def _write_shard(self, store: FeatureStore, wanted: Sequence[str]) -> None:
        rows = [self.rows.by_key[key] for key in wanted]
        keys = {row.id: key for row, key in zip(rows, wanted, strict=True)}
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


def _mend_identity(folder: Path, identity: FeatureIdentity) -> None:
    """Write a damaged or missing identity again: the folder is named for what it holds."""
    path, text = folder / IDENTITY, identity.model_dump_json(indent=1)
    if not folder.is_dir() or (path.exists() and path.read_text(errors="replace") == text):
        return
    logger.warning("%s is damaged or missing: it is written again", path)
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


def _tokenizer_digest(model: str) -> str:
    """Digest of how text becomes tokens: vocabulary, special tokens and chat template."""
    tokenizer = load_tokenizer(model)
    parts = [sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map, tokenizer.chat_template]
    return _digest(json.dumps(parts, default=str, sort_keys=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]
