"""Warmup, gradients and attribution: from tokens to the score of every pool row on every target."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from curate.influence import attribution_matrix, write_attribution
from curate.influence.checkpoints import learning_rate_weights, load_checkpoint
from curate.influence.exact import pool_cosines, target_gradients
from curate.influence.shards import Scorer, sharded_cosines
from curate.records import read_examples
from flows.config import RunConfig
from flows.stages.data import POOL, TARGETS, external_digest
from flows.stages.training import launch_training
from flows.store import Accounting, StageOutput, StageStore
from train.encoding import read_encoded, write_encoded
from train.models import load_adapter, load_base, load_tokenizer
from train.settings import TrainJob

INFLUENCE_CODE = [
    "train/encoding.py",
    "train/models.py",
    "train/losses.py",
    "train/per_example.py",
    "curate/influence",
    "flows/stages/influence.py",
]


def warmup(config: RunConfig, store: StageStore, encoded: StageOutput) -> StageOutput:
    """Train briefly on a random sample of the pool; keep adapters, Adam moments and learning rates."""
    settings = config.warmup

    def build(folder: Path) -> None:
        pool = read_encoded(encoded.path / POOL)
        count = max(1, int(settings.fraction * len(pool)))
        rng = np.random.default_rng([config.seed, 1])
        sample = [pool[i] for i in sorted(rng.choice(len(pool), size=count, replace=False))]
        write_encoded(folder / "sample.parquet", sample)
        job = TrainJob(
            model=config.model,
            data=folder / "sample.parquet",
            output=folder,
            seed=config.seed,
            max_length=config.max_length,
            lora=settings.lora,
            optimizer=settings.optimizer,
            checkpoints=settings.checkpoints,
            merge=False,
        )
        launch_training(job, None, "warmup")

    return store.run(
        "warmup",
        build,
        params={"settings": settings.model_dump(mode="json"), "seed": config.seed},
        inputs={"encode": encoded.key, "model": external_digest(config.model)},
        code=["train", "flows/stages/influence.py"],
    )


def gradients(config: RunConfig, store: StageStore, encoded: StageOutput, warmed: StageOutput) -> StageOutput:
    """Cosines of every pool row with every target at each warmup checkpoint, shard by shard; a killed run goes on at
    the missing shard."""
    settings = config.influence

    def build(folder: Path) -> Accounting:
        pool, targets = read_encoded(encoded.path / POOL), read_encoded(encoded.path / TARGETS)
        pad_id = load_tokenizer(config.model).pad_token_id
        folders = sorted(warmed.path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        excluded: dict[str, str] = {}
        shares: list[float] = []
        with tqdm(total=len(folders) * len(pool), desc="gradients", unit="row") as bar:

            def advance(count: int) -> None:
                bar.update(count)

            def scorer(path: Path) -> Scorer:
                checkpoint = load_checkpoint(path)
                model = load_adapter(load_base(config.model), path)
                unit = target_gradients(model, targets, pad_id, settings.tokens_per_batch)
                return lambda rows: pool_cosines(
                    model,
                    checkpoint,
                    rows,
                    unit,
                    pad_id,
                    rule=settings.adam_rule,
                    tokens_per_batch=settings.tokens_per_batch,
                    on_batch=advance,
                )

            for k, path in enumerate(folders, start=1):
                scores = sharded_cosines(folder, f"dots-{k}", pool, settings.shard_rows, partial(scorer, path), advance)
                excluded |= scores.excluded
                shares.append(scores.small_v_share)
        (folder / "excluded.json").write_text(json.dumps(excluded, indent=1))
        rates = [load_checkpoint(path).learning_rates for path in folders]
        (folder / "checkpoints.json").write_text(
            json.dumps({"weights": learning_rate_weights(rates).tolist(), "share_of_v_below_eps": shares}, indent=1)
        )
        lost = sum(row.id in excluded for row in pool)
        return Accounting(len(pool), len(pool) - lost, excluded=lost)

    return store.run(
        "gradients",
        build,
        params={"adam_rule": settings.adam_rule, "shard_rows": settings.shard_rows},
        inputs={"encode": encoded.key, "warmup": warmed.key, "model": external_digest(config.model)},
        code=INFLUENCE_CODE,
        resumable=True,
    )


def attribution(
    config: RunConfig, store: StageStore, ingested: StageOutput, encoded: StageOutput, gradient: StageOutput
) -> StageOutput:
    """The matrix A with its row ids, its columns and what had to be left out."""

    def build(folder: Path) -> Accounting:
        rows = [row.id for row in read_encoded(encoded.path / POOL)]
        columns = [row.id for row in read_encoded(encoded.path / TARGETS)]
        capability = {t.id: str(t.capability) for t in read_examples(ingested.path / TARGETS)}
        weights = np.array(json.loads((gradient.path / "checkpoints.json").read_text())["weights"])
        parts = [np.load(gradient.path / f"dots-{k}.npy", mmap_mode="r") for k in range(1, len(weights) + 1)]
        matrix = attribution_matrix(parts, weights, rows, columns, [capability[c] for c in columns])
        write_attribution(folder, matrix)
        return Accounting(len(rows), len(matrix.row_ids), excluded=len(matrix.excluded_rows))

    return store.run(
        "attribution",
        build,
        params={},
        inputs={"ingest": ingested.key, "encode": encoded.key, "gradients": gradient.key},
        code=["curate/influence/attribution.py", "curate/scores.py", "flows/stages/influence.py"],
    )
