"""Which pool rows matter most for examples that were not among the targets, from the gradients a run has stored.

Reads what a curate run in mode `sketch` left in the store (and computes what is missing); only the few examples cost a
gradient pass. The index over the stored gradients is made once and kept as a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curate.influence.features import FeatureStore
from curate.influence.job import read_outcomes
from curate.influence.neighbours import FeatureIndex
from curate.influence.query import query_features
from curate.influence.rows import read_rows
from curate.influence.settings import CheckpointOutcome, GradientJob
from curate.records import read_examples, rows_to_encode
from curate.sources import SourceSpec
from curate.sources.pool import read_pool
from flows.config import ConfigError, RunConfig
from flows.stages.data import POOL, TARGETS, clean, ingest
from flows.stages.encoding import encode
from flows.stages.influence import JOB, gradients, warmup
from flows.store import Accounting, StageOutput, StageStore
from train.encoding import encode_all
from train.models import load_tokenizer

INDEX = "index"


@dataclass(frozen=True)
class Traced:
    """One pool row that matters for one example. score: influence, in [-1, 1]; text: the row's last turn."""

    example: str
    rank: int
    row: str
    source: str
    score: float
    text: str


def trace(config: RunConfig, examples: Path, top: int) -> list[Traced]:
    """The `top` pool rows of largest influence for every example in a file of conversations, best first.

    Raises `ConfigError` when the run keeps no gradients, and what the readers and stages raise.
    """
    if config.influence.mode == "exact":
        raise ConfigError(
            "influence.mode is exact, which keeps no gradients to ask: use --set influence.mode=sketch (one gradient "
            "pass over the pool, if the store has none yet)"
        )
    asked, rejected = read_pool([SourceSpec(path=str(examples))], max_rejected=1.0)
    store = config.open_store()
    ingested = ingest(config, store)
    cleaned = clean(config, store, ingested)
    encoded = encode(config, store, ingested, cleaned)
    gradient = gradients(config, store, encoded, warmup(config, store, encoded))
    queries, excluded = encode_all(rows_to_encode(asked), load_tokenizer(config.model), config.max_length)
    if rejected or excluded:
        first = f"{rejected[0].origin}: {rejected[0].reason}" if rejected else ": ".join(excluded[0])
        raise ConfigError(f"{examples}: {len(rejected) + len(excluded)} example(s) cannot be used, the first: {first}")
    job = GradientJob.model_validate_json((gradient.path / JOB).read_text())
    outcomes = read_outcomes(gradient.path)
    features = query_features(job, outcomes, gradient.path, queries)
    index = FeatureIndex.load(
        _index(store, encoded, gradient, outcomes).path / INDEX, [outcome.identity for outcome in outcomes]
    )
    ids, scores = index.search(features, top)
    pool = {example.id: example for example in read_examples(cleaned.path / POOL)}
    return [
        Traced(query.id, rank, row, pool[row].source, float(score), pool[row].messages[-1].content)
        for query, found, values in zip(queries, ids.tolist(), scores, strict=True)
        for rank, (row, score) in enumerate(zip(found, values, strict=True), start=1)
    ]


def _index(
    store: StageStore, encoded: StageOutput, gradient: StageOutput, outcomes: Sequence[CheckpointOutcome]
) -> StageOutput:
    def build(folder: Path) -> Accounting:
        rows = read_rows(encoded.path / POOL, encoded.path / TARGETS)
        sources = [FeatureStore(gradient.path / o.store, o.identity).rows(rows.keys) for o in outcomes]
        weights = np.array([outcome.weight for outcome in outcomes])
        index = FeatureIndex.build(sources, weights, [row.id for row in rows.pool], [o.identity for o in outcomes])
        index.save(folder / INDEX)
        return Accounting(len(rows.pool), len(index.ids), excluded=len(index.excluded))

    return store.run(
        "index",
        build,
        params={},
        inputs={"encode": encoded.key, "gradients": gradient.key},
        code=["curate/influence/neighbours.py", "curate/influence/features", "flows/trace.py"],
    )
