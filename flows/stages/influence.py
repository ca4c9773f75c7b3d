"""Warmup, gradients and attribution: from tokens to the score of every pool row on every target."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from curate.influence import attribution_matrix, write_attribution
from curate.influence.attribution import ScaledRows, SketchCosines
from curate.influence.features import BlockSource, FeatureStore
from curate.influence.job import OUTCOME, feature_folders, read_outcomes
from curate.influence.reliability import reliability
from curate.influence.rows import Rows, read_rows
from curate.influence.settings import GradientJob
from curate.influence.target_side import read_target_features
from curate.records import read_examples
from curate.scores import VALUES
from flows.config import RunConfig
from flows.process import show
from flows.stages.data import POOL, TARGETS, external_digest
from flows.stages.training import launch, launch_training
from flows.store import Accounting, StageOutput, StageStore, source_digest
from flows.store.features import shared
from train.encoding import read_encoded, write_encoded
from train.moments import checkpoint_folders
from train.settings import TrainJob

SAMPLE, TRUST = "sample.parquet", "trust.json"
FEATURES = "features"  # feature stores of all runs, beside the stages
JOB, LOG = "job.json", "gradients.log"
COST = "cost.json"  # per checkpoint the rows that cost nothing: like seconds, another number after a kill
WARMUP_CODE = ("train", "flows/stages/influence.py")
GRADIENT_CODE = [
    *("train/audit.py", "train/encoding.py", "train/rendering.py"),
    "train/forward.py",
    "train/losses.py",
    "train/models.py",
    "train/moments.py",
    "train/per_example",
    "curate/influence",
]


def warmup(config: RunConfig, store: StageStore, encoded: StageOutput) -> StageOutput:
    """Train briefly on a random sample of the pool; keep adapters, Adam moments and learning rates."""
    settings = config.warmup

    def build(folder: Path) -> None:
        pool = read_encoded(encoded.path / POOL)
        count = max(1, int(settings.fraction * len(pool)))
        rng = np.random.default_rng([config.seed, 1])
        sample = [pool[i] for i in sorted(rng.choice(len(pool), size=count, replace=False))]
        write_encoded(folder / SAMPLE, sample)
        job = TrainJob(
            model=config.model,
            data=folder / SAMPLE,
            output=folder,
            seed=config.seed,
            max_length=config.max_length,
            lora=settings.lora,
            optimizer=settings.optimizer,
            checkpoints=settings.checkpoints,
            merge=False,
        )
        launch_training(job, settings.accelerate, "warmup")

    return store.run(
        "warmup",
        build,
        params={"settings": settings.model_dump(mode="json"), "seed": config.seed},
        inputs={"encode": encoded.key, "model": external_digest(config.model)},
        code=WARMUP_CODE,
        resumable=True,  # the training goes on at its last checkpoint
    )


def gradients(config: RunConfig, store: StageStore, encoded: StageOutput, warmed: StageOutput) -> StageOutput:
    """Every pool row's values at each warmup checkpoint: cosines with the targets, or sketched gradients.

    They are computed into feature stores that all runs share, so that only rows not seen before cost a gradient and a
    killed run goes on at the missing shard. The stage keeps its own links to the shards it used.
    """
    settings = config.influence
    model = external_digest(config.model)

    def build(folder: Path) -> Accounting:
        job = GradientJob(
            model=config.model,
            model_digest=model,
            max_length=config.max_length,
            seed=config.seed,
            checkpoints=checkpoint_folders(warmed.path),
            sample=warmed.path / SAMPLE,
            pool=encoded.path / POOL,
            targets=encoded.path / TARGETS,
            features=store.root / FEATURES,
            output=folder,
            code=source_digest(GRADIENT_CODE),
            settings=settings,
        )
        (folder / JOB).write_text(job.model_dump_json(indent=1))
        with shared(store.mirror, store.root, feature_folders(job) if store.mirror else []):
            _compute(job, config)
        outcomes = []
        for number, outcome in enumerate(read_outcomes(folder), start=1):
            kept = folder / f"checkpoint-{number}"
            _link_store(outcome.store, kept)
            outcomes.append(outcome.model_copy(update={"store": Path(kept.name)}))
        told = [outcome.model_dump(mode="json", exclude={"rows_found"}) for outcome in outcomes]
        text = json.dumps(told, indent=1)
        (folder / OUTCOME).write_text(text)
        (folder / COST).write_text(json.dumps({"rows_found": [outcome.rows_found for outcome in outcomes]}))
        pool = pq.read_table(encoded.path / POOL, columns=["id"])["id"].to_pylist()
        excluded = set().union(*(outcome.excluded for outcome in outcomes))
        lost = sum(row in excluded for row in pool)
        return Accounting(len(pool), len(pool) - lost, excluded=lost)

    return store.run(
        "gradients",
        build,
        params={
            # how the score is taken from the gradients, and by how many processes they were made, is none of theirs
            "settings": settings.model_dump(mode="json", exclude={"score", "accelerate"}),
            "seed": config.seed,
            "max_length": config.max_length,
        },
        inputs={"encode": encoded.key, "warmup": warmed.key, "model": model},
        code=[*GRADIENT_CODE, "flows/stages/influence.py"],
        resumable=True,
    )


def _compute(job: GradientJob, config: RunConfig) -> None:
    """In a process of its own, or on a cluster; the same bytes either way."""
    if config.execution.engine == "local":
        launch("curate.influence", job.output / JOB, job.settings.accelerate, job.output / LOG, "gradients")
        return
    from flows.cluster.executor import RayExecutor
    from flows.cluster.gradients import run_on_cluster

    with RayExecutor(config.execution, config.execution.requests.gradients) as executor:
        run_on_cluster(job, GRADIENT_CODE, executor, show)


def _link_store(source: Path, kept: Path) -> None:
    """The feature store once more without a second copy of its bytes, so that the stage is whole by itself."""

    def link(file: str, target: str) -> None:
        try:
            os.link(file, target)
        except OSError:  # another file system, or one without links
            shutil.copy2(file, target)

    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(source, kept, copy_function=link, ignore=shutil.ignore_patterns(".*", "*.damaged*", "*.lock"))


def attribution(
    config: RunConfig, store: StageStore, ingested: StageOutput, encoded: StageOutput, gradient: StageOutput
) -> StageOutput:
    """The matrix A with its row ids, its columns, what had to be left out, and how far it can be trusted."""

    def build(folder: Path) -> Accounting:
        rows = read_rows(encoded.path / POOL, encoded.path / TARGETS)
        capability = {t.id: str(t.capability) for t in read_examples(ingested.path / TARGETS)}
        outcomes = read_outcomes(gradient.path)
        weights = np.array([outcome.weight for outcome in outcomes])
        stores = [FeatureStore(gradient.path / outcome.store, outcome.identity) for outcome in outcomes]
        parts = [_cosines(each, rows) for each in stores]
        if config.influence.score == "dot":
            parts = _dots(stores, rows, parts)
        matrix = attribution_matrix(
            parts,
            weights,
            [row.id for row in rows.pool],
            [row.id for row in rows.targets],
            [capability[row.id] for row in rows.targets],
            out=folder / VALUES,
            settings=gradient.key,
        )
        write_attribution(folder, matrix)
        trust = reliability(matrix.values, matrix.tasks, parts, seed=config.seed)
        (folder / TRUST).write_text(
            json.dumps(
                {
                    **asdict(trust),
                    "projection": [outcome.noise for outcome in outcomes],
                    "stored": [outcome.fidelity for outcome in outcomes],
                    "share_of_v_below_eps": [outcome.small_v_share for outcome in outcomes],
                    "out_of_memory": sum(outcome.out_of_memory for outcome in outcomes),
                },
                indent=1,
            )
        )
        return Accounting(len(rows.pool), len(matrix.row_ids), excluded=len(matrix.excluded_rows))

    return store.run(
        "attribution",
        build,
        params={"seed": config.seed, "score": config.influence.score},
        inputs={"ingest": ingested.key, "encode": encoded.key, "gradients": gradient.key},
        code=["curate/influence", "curate/scores.py", "flows/stages/influence.py"],
    )


def _cosines(store: FeatureStore, rows: Rows) -> BlockSource:
    """(N, M) cosines of one checkpoint, read or multiplied block by block."""
    values = store.rows(rows.keys)
    if store.identity.kind == "cosines":
        return values
    return SketchCosines(values, read_target_features(store.folder, rows))


def _dots(stores: Sequence[FeatureStore], rows: Rows, cosines: Sequence[BlockSource]) -> list[BlockSource]:
    """Dot products with the unit targets, all divided by the longest gradient of the pool at any checkpoint: one
    factor for all, which changes no ranking."""
    lengths = [store.norms(rows.keys) for store in stores]
    longest = max((float(np.nanmax(each)) for each in lengths if np.isfinite(each).any()), default=1.0)
    return [ScaledRows(part, each / longest) for part, each in zip(cosines, lengths, strict=True)]
