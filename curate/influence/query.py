"""Features of examples that were not among the targets, so that stored gradients answer for them without a new pass.

"Which pool rows matter most for this example" is its plain gradient at every checkpoint, projected as the pool's rows
were, against the index over the stores (`neighbours`). Cost: K gradient passes over the few examples asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from curate.influence.checkpoints import load_checkpoint
from curate.influence.engine import open_engine
from curate.influence.projection import make_projection
from curate.influence.scoring import InfluenceError, score_rows
from curate.influence.settings import CheckpointOutcome, GradientJob
from train.encoding import Encoded


def query_features(
    job: GradientJob, outcomes: Sequence[CheckpointOutcome], stores: Path, rows: Sequence[Encoded], device: str = "cpu"
) -> list[np.ndarray]:
    """K arrays (n, d) float32 of the rows' unit features, as the target side of the outcomes' stores.

    job, outcomes: of the run that made the stores; stores: folder the outcomes' `store` paths are relative to. Raises
    `InfluenceError` when the run kept no features or a row has no usable gradient.
    """
    features = []
    for outcome in outcomes:
        identity = outcome.identity
        if identity.kind == "cosines" or identity.seed is None:
            raise InfluenceError("the run kept cosines with its own targets only; run with influence.mode=sketch")
        checkpoint = load_checkpoint(outcome.checkpoint, moments=job.settings.needs_moments)
        engine = open_engine(job, checkpoint, stores / outcome.store, device, lambda count: None, lambda: None)
        projection = make_projection(identity.kind, identity.width, identity.seed)
        scores = score_rows(engine, rows, None, projection, as_target=True)
        if scores.excluded:
            row, reason = next(iter(scores.excluded.items()))
            raise InfluenceError(f"example {row} has no usable gradient at {outcome.checkpoint.name}: {reason}")
        assert scores.features is not None
        features.append(scores.features)
    return features
