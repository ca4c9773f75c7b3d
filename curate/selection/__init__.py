"""Which pool rows to train on: BIDS and its baselines, one file per method, all called in the same way.

    METHODS[name](scores, budget, *, normalize=True, tasks=None, seed=0, constraints=None)
        -> Selection(order, target, utility)

scores: (N pool rows, M targets) array, memory map or `ShardedScores`; budget: number of rows, a fraction of N, or a
`TokenBudget`; tasks: M labels; constraints: sources, ids and near-duplicates (`Constraints`).
"""

from collections.abc import Callable

from curate.selection.bids import bids
from curate.selection.bm25 import bm25
from curate.selection.constraints import Constraints, SourceLimit, TokenBudget
from curate.selection.dsir import dsir
from curate.selection.equal_quota import equal_quota
from curate.selection.instance_max import instance_max, instance_max_normalized, rds
from curate.selection.less import less
from curate.selection.normalise import SelectionError, SelectionWarning, resolve_budget
from curate.selection.random_subset import random_subset
from curate.selection.result import Selection
from curate.selection.sharded import ShardedScores
from curate.selection.total import total
from curate.selection.weakest_first import weakest_first

METHODS: dict[str, Callable[..., Selection]] = {
    "bids": bids,
    "less": less,
    "sum": total,
    "instance_max": instance_max,
    "instance_max_normalized": instance_max_normalized,
    "weakest_first": weakest_first,
    "equal_quota": equal_quota,
    "random": random_subset,
    "rds": rds,
    "bm25": bm25,
    "dsir": dsir,
}

__all__ = [
    "METHODS",
    "Constraints",
    "Selection",
    "SelectionError",
    "SelectionWarning",
    "ShardedScores",
    "SourceLimit",
    "TokenBudget",
    "bids",
    "resolve_budget",
]
