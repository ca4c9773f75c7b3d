"""The targets' side of one feature store: their norms, their own unit features, which of them are unusable, and how
noisy the projection is.

Written once by whichever process comes first and read by all; the features of other targets lie beside them, because a
sketched store serves any number of target sets.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from safetensors.numpy import load_file, save_file

from curate.influence.projection import Projection
from curate.influence.reliability import projection_noise
from curate.influence.rows import Rows
from curate.influence.scoring import (
    NO_USABLE_TARGET,
    Engine,
    InfluenceError,
    TargetGradients,
    score_rows,
    target_gradients,
)
from curate.influence.sealed import is_sealed, sealing

NOISE_TARGETS = 16  # targets that the projection's noise is measured with
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TargetSide:
    """engine, unit_targets: called only if something is missing; projection: None in exact mode; noise_rows: pool rows
    that are scored both ways; seed: chooses them."""

    folder: Path
    rows: Rows
    engine: Callable[[], Engine]
    unit_targets: Callable[[], TargetGradients]
    projection: Projection | None
    noise_rows: int
    seed: int

    def ensure(self) -> None:
        """Write what is missing or damaged."""
        path, noise = features_file(self.folder, self.rows), self._noise_file
        with FileLock(self.folder / ".targets.lock"):
            if not (is_sealed(path) and is_sealed(path.with_suffix(".json"))):
                arrays, excluded = self._arrays()
                with sealing(path.with_suffix(".json")) as partial:
                    partial.write_text(json.dumps(excluded, indent=1))
                with sealing(path) as partial:
                    save_file(arrays, partial)
            if self.projection and not is_sealed(noise):
                text = json.dumps(self._measure_noise(self.projection, read_target_features(self.folder, self.rows)))
                with sealing(noise) as partial:
                    partial.write_text(text)

    def excluded(self) -> dict[str, str]:
        """Target id -> reason."""
        return json.loads(features_file(self.folder, self.rows).with_suffix(".json").read_text())

    def noise(self) -> dict[str, float] | None:
        """`reliability.ProjectionNoise` as a dictionary; None in exact mode and where it could not be measured."""
        return json.loads(self._noise_file.read_text()) if self.projection else None

    @property
    def _noise_file(self) -> Path:
        return self.folder / f"noise-{self.rows.targets_digest}-{self.noise_rows}-{self.seed}.json"

    def _arrays(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        if not self.projection:
            unit = self.unit_targets()
            return {"norms": unit.norms}, unit.excluded
        scores = score_rows(self.engine(), self.rows.targets, None, self.projection, as_target=True)
        if len(scores.excluded) == len(self.rows.targets):
            raise InfluenceError(NO_USABLE_TARGET)
        assert scores.features is not None
        return {"norms": scores.norms, "features": scores.features}, scores.excluded

    def _measure_noise(self, projection: Projection, target_features: np.ndarray) -> dict[str, float] | None:
        """On a sample of the pool that the store was begun with: another pool has the same projection."""
        rng = np.random.default_rng([self.seed, 3])
        pool, targets = self.rows.pool, self.rows.targets
        count = min(self.noise_rows, len(pool))
        if not count:
            return None
        sample = sorted(rng.choice(len(pool), count, replace=False))
        # a few targets: all of them need not fit in memory, which may be why the run sketches
        columns = sorted(rng.choice(len(targets), min(NOISE_TARGETS, len(targets)), replace=False))
        try:
            unit = target_gradients(self.engine(), [targets[j] for j in columns])
            scores = score_rows(self.engine(), [pool[i] for i in sample], unit, projection)
            assert scores.features is not None and scores.cosines is not None
            sketched = scores.features @ target_features[columns].T
            return asdict(projection_noise(sketched, scores.cosines, projection.dimension))
        except ValueError as error:
            logger.warning("the projection's noise is not reported: %s", error)
            return None


def features_file(folder: Path, rows: Rows) -> Path:
    return folder / f"targets-{rows.targets_digest}.safetensors"


def read_target_features(folder: Path, rows: Rows) -> np.ndarray:
    """(M, d) float32 unit features of the targets, from a store in a sketched mode."""
    path = features_file(folder, rows)
    if not is_sealed(path):
        raise InfluenceError(f"{path} is missing or damaged; run the gradients again to compute it anew")
    return load_file(path)["features"]
