"""Equipoise itself, at one checkpoint: `exact`, `adam` (exact with the default Adam rule) and `sketch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from worker import Round, serve
from workload import Row, Workload, load_model

from curate.influence.attribution import SketchCosines
from curate.influence.checkpoints import load_checkpoint
from curate.influence.features import FeatureIdentity, FeatureStore, row_key
from curate.influence.preconditioning import Adam, Plain
from curate.influence.projection import Projection, make_projection
from curate.influence.scoring import Engine, RowScores, score_rows, target_gradients
from train.encoding import Encoded
from train.per_example import find_taps

DIMENSION = 8192


@dataclass(frozen=True)
class Ours:
    engine: Engine
    pool: list[Encoded]
    targets: list[Encoded]
    projection: Projection | None
    quantity: Literal["cosine", "adam cosine"]
    about: str

    def run(self, folder: Path) -> Round:
        return self.exact(folder) if self.projection is None else self.sketched(folder, self.projection)

    def exact(self, folder: Path) -> Round:
        done = score_rows(self.engine, self.pool, target_gradients(self.engine, self.targets))
        assert done.cosines is not None
        self.store(folder, "cosines", "float32", done.cosines, done)
        return Round(done.cosines, [folder])

    def sketched(self, folder: Path, projection: Projection) -> Round:
        targets = score_rows(self.engine, self.targets, None, projection, as_target=True).features
        done = score_rows(self.engine, self.pool, None, projection)
        assert targets is not None and done.features is not None
        store, keys = self.store(folder, "sketch", "float16", done.features, done)
        return Round(SketchCosines(store.rows(keys), targets)[0 : len(keys)], [folder])

    def store(
        self,
        folder: Path,
        kind: Literal["cosines", "sketch"],
        dtype: Literal["float32", "float16"],
        values: np.ndarray,
        done: RowScores,
    ) -> tuple[FeatureStore, list[str]]:
        """Keep the rows as a run keeps them: one durable shard with its checksums."""
        exact = kind == "cosines"
        identity = FeatureIdentity(
            kind=kind,
            width=values.shape[1],
            seed=None if exact else 0,
            dtype=dtype,
            model="benchmark",
            checkpoint="benchmark",
            template="benchmark",
            max_length=max(len(row.input_ids) for row in self.pool),
            preconditioner="benchmark",
            betas=(0.9, 0.999),
            eps=1e-8,
            step=1,
            parameters="benchmark",
            targets="benchmark" if exact else None,
            precision="float32",
        )
        store, keys = FeatureStore(folder, identity), [row_key(row) for row in self.pool]
        store.write(keys, values, done.norms, np.array([row.trained_tokens for row in self.pool]), done.excluded)
        return store, keys


def make(workload: Workload, mode: str) -> Ours:
    model = load_model(workload)
    preconditioner = Adam(load_checkpoint(workload.adapter), "less") if mode == "adam" else Plain()
    return Ours(
        Engine(model, find_taps(model), preconditioner, workload.pad_id, workload.tokens_per_batch),
        _encoded(workload.pool),
        _encoded(workload.targets),
        make_projection("sketch", DIMENSION, seed=0) if mode == "sketch" else None,
        quantity="adam cosine" if mode == "adam" else "cosine",
        about={
            "exact": "no projection; keeps the scores",
            "adam": "no projection, Adam rule `less` (the default); keeps the scores",
            "sketch": f"sparse sign sketch to d = {DIMENSION}; keeps float16 features",
        }[mode],
    )


def _encoded(rows: Sequence[Row]) -> list[Encoded]:
    return [Encoded(row.id, "benchmark", row.input_ids.tolist(), row.labels.tolist()) for row in rows]


if __name__ == "__main__":
    serve("equipoise", make)
