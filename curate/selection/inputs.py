"""Which scores each selection method reads when nothing else is said.

Every method runs on any score matrix; these are the scores its name stands for. A method of its own input needs no
gradients, so a run of `random`, `bm25` and `dsir` alone would need no warmed-up model at all.
"""

from __future__ import annotations

from typing import Literal

ScoreKind = Literal["influence", "embeddings", "bm25", "ngrams"]

INPUTS: dict[str, ScoreKind] = {
    "bids": "influence",
    "less": "influence",
    "sum": "influence",
    "instance_max": "influence",
    "instance_max_normalized": "influence",
    "weakest_first": "influence",
    "equal_quota": "influence",
    "random": "influence",
    "rds": "embeddings",
    "bm25": "bm25",
    "dsir": "ngrams",
}

# the column (id and task) of an n-gram score matrix that is estimated on all targets, not on one task's
POOLED = "all_targets"
