"""What every selection is made of and how far to trust it, for all methods of a run on one scale.

All selections are described on the same matrix, the gradient influence where there is one, so that a selection by
text or embeddings is measured by what its rows would do to the targets. The order that the method claims (spread of
the tasks' influence: `instance_max` > `instance_max_normalized` > `bids`) is looked at by running all methods that
read this matrix, whether or not the run trains on them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.scores import ScoreMatrix, read_scores
from curate.selection.explain import (
    Balance,
    SuggestedBudget,
    balance,
    coverage,
    imbalance_ratio,
    influence_by_source,
    near_misses,
    nearest_selected,
    selection_confidence,
    suggested_budget,
    utility_curve,
)
from curate.selection.explain.confidence import BY_COLUMN, RESAMPLES
from curate.selection.inputs import INPUTS
from curate.selection.result import NO_TARGET, Selection
from flows.config import RunConfig
from flows.stages.constraints import near_duplicates, selection_budget, selection_constraints
from flows.stages.data import POOL
from flows.stages.scored_pool import ScoredPool, Yardstick
from flows.stages.selection import SELECTION
from flows.store import Accounting, StageOutput, StageStore

ANALYSIS = "analysis.json"
ATTRIBUTION = "attribution"
CLAIMED_ORDER = ("instance_max", "instance_max_normalized", "bids")
NEAR_MISSES = 10
NEIGHBOURS = 3


def confidence_file(method: str) -> str:
    return f"confidence-{method}.parquet"


def neighbours_file(method: str) -> str:
    return f"neighbours-{method}.parquet"


def analyse(
    config: RunConfig,
    store: StageStore,
    methods: Sequence[str],
    cleaned: StageOutput,
    encoded: StageOutput,
    scored: Mapping[str, StageOutput],
    selected: Mapping[str, StageOutput],
) -> StageOutput:
    """`analysis.json` on all methods; per method the confidence of every scored row and the neighbours of the selected.

    scored: method -> the stage whose folder holds the scores that it read; selected: method -> its select stage.
    """

    def build(folder: Path) -> Accounting:
        pool = pq.read_table(cleaned.path / POOL, columns=["id", "source"]).to_pydict()
        source_of = dict(zip(pool["id"], pool["source"], strict=True))
        clusters = near_duplicates(config, store, cleaned) if config.selection.max_per_cluster else None

        def opened(scores: StageOutput) -> ScoredPool:
            matrix = read_scores(scores.path)
            sources = [source_of[row] for row in matrix.row_ids]
            return ScoredPool(
                matrix,
                sources,
                selection_budget(config, len(source_of), encoded, matrix.row_ids),
                selection_constraints(config, cleaned, matrix.row_ids, sources, clusters),
                config.seed,
            )

        reference = _reference(methods, scored)
        measure = Yardstick(opened(reference))
        matrix = measure.scored.matrix
        found, orders = {}, {}
        for method in methods:
            own = measure.scored if scored[method].key == reference.key else opened(scored[method])
            selection = read_selection(selected[method].path, own.matrix)
            found[method] = _one_method(folder, method, own, selection, measure)
            orders[method] = measure.places([own.matrix.row_ids[row] for row in selection.order])
        by_source = influence_by_source(measure.view, measure.scored.sources, matrix.tasks)
        analysis = {
            "measured_on": reference.stage,
            "tasks": list(dict.fromkeys(matrix.tasks)),
            "pool": _describe(balance(measure.view, None, matrix.tasks)),
            # largest source first, as in the table of shares
            "influence_by_source": {
                name: by_source[name] for name, _ in Counter(pool["source"]).most_common() if name in by_source
            },
            "methods": found,
            "spread": _spread(measure, orders, others=_others(methods, reference)),
        }
        (folder / ANALYSIS).write_text(json.dumps(_plain(analysis), indent=1, allow_nan=False))
        scored_rows = len(matrix.row_ids)
        return Accounting(len(pool["id"]), scored_rows, not_scored=len(pool["id"]) - scored_rows)

    return store.run(
        "analysis",
        build,
        params={"methods": list(methods), "seed": config.seed, "resamples": RESAMPLES},
        inputs={
            "clean": cleaned.key,
            "encode": encoded.key,
            **{f"scores-{method}": scored[method].key for method in methods},
            **{f"select-{method}": selected[method].key for method in methods},
        },
        code=[
            "curate/selection",
            "curate/scores.py",
            "flows/stages/analysis.py",
            "flows/stages/constraints.py",
            "flows/stages/scored_pool.py",
        ],
    )


def _reference(methods: Sequence[str], scored: Mapping[str, StageOutput]) -> StageOutput:
    return next((scored[m] for m in methods if scored[m].stage == ATTRIBUTION), scored[methods[0]])


def _others(methods: Sequence[str], reference: StageOutput) -> list[str]:
    """The methods beside those of the run that read influence, if that is what is measured on."""
    if reference.stage != ATTRIBUTION:
        return []
    return [name for name, kind in INPUTS.items() if kind == "influence" and name not in methods]


def read_selection(folder: Path, matrix: ScoreMatrix) -> Selection:
    """What the select stage wrote, in indices into the scores that it read."""
    table = pq.read_table(folder / SELECTION, columns=["id", "target", "utility"]).to_pydict()
    row = {name: index for index, name in enumerate(matrix.row_ids)}
    column: dict[str | None, int] = {name: index for index, name in enumerate(matrix.column_ids)}
    column[None] = NO_TARGET
    utility = [math.nan if value is None else value for value in table["utility"]]
    return Selection(
        np.array([row[name] for name in table["id"]], dtype=np.int64),
        np.array([column[name] for name in table["target"]], dtype=np.int64),
        np.array(utility, dtype=np.float64),
    )


def _one_method(folder: Path, method: str, own: ScoredPool, selection: Selection, measure: Yardstick) -> dict[str, Any]:
    """All about one selection; own: the scores it was made from."""
    matrix, view = measure.scored.matrix, measure.view
    ids = [own.matrix.row_ids[row] for row in selection.order]
    rows = measure.places(ids)
    longer = own.again(method, selection)
    covered = coverage(view, rows, matrix.tasks, tops=measure.tops)
    neighbours = nearest_selected(rows, view, k=NEIGHBOURS)
    columns = {
        "rank": pa.array(range(rows.size), pa.int64()),
        "id": [matrix.row_ids[row] for row in rows],
        "neighbours": [[matrix.row_ids[other] for other in others] for others in neighbours.rows],
        "similarity": pa.array(neighbours.similarity.tolist(), pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(columns), folder / neighbours_file(method))
    return {
        **_describe(balance(view, rows, matrix.tasks)),
        "not_measured": len(ids) - rows.size,
        "coverage": {
            "budgets": covered.budgets,
            **{
                name: dict(zip(covered.tasks, getattr(covered, name).T, strict=True))
                for name in ("influence", "recall", "reached")
            },
        },
        "utility": {
            "curve": utility_curve(longer) if np.isfinite(longer.utility).all() else [],
            "suggested": asdict(_suggested(method, longer, own.view.rows.size)),
        },
        "last_utility": float(selection.utility[-1]),
        # under constraints a row may be out for another reason than its gap
        "near_misses": _near_misses(own, selection) if method == "bids" and own.constraints is None else [],
        "confidence": _confidence(folder, method, own, selection),
    }


def _suggested(method: str, selection: Selection, pool_rows: int) -> SuggestedBudget:
    if INPUTS[method] == "ngrams":
        return SuggestedBudget(None, None, "log weights have no zero that half could be measured from")
    return suggested_budget(selection.utility, pool_rows)


def _confidence(folder: Path, method: str, own: ScoredPool, selection: Selection) -> dict[str, Any]:
    """Stability of the selection; the share of resamples per scored row goes into a file."""
    matrix = own.matrix
    found = selection_confidence(
        lambda scores, tasks: own.select(method, scores, tasks),
        matrix.values,
        selection,
        matrix.tasks,
        seed=own.seed,
        by_column=method in BY_COLUMN,
    )
    chosen = np.zeros(len(matrix.row_ids), dtype=bool)
    chosen[selection.order] = True
    share = pa.nulls(chosen.size, pa.float64()) if found.share is None else pa.array(found.share)
    pq.write_table(
        pa.table({"id": matrix.row_ids, "share": share, "selected": chosen}), folder / confidence_file(method)
    )
    if found.share is None:
        return {"resamples": 0, "reason": found.reason}
    spread = {name: asdict(value) for name, value in found.spread().items()}
    return {"resamples": RESAMPLES, "reason": "", "by_chance": selection.order.size / chosen.size, **spread}


def _near_misses(own: ScoredPool, selection: Selection) -> list[dict[str, Any]]:
    matrix = own.matrix
    return [
        {
            "id": matrix.row_ids[miss.row],
            "source": own.sources[miss.row],
            "gap": miss.gap,
            "target": matrix.column_ids[miss.target],
            "task": matrix.tasks[miss.target],
        }
        for miss in near_misses(own.view, selection, NEAR_MISSES)
    ]


def _spread(measure: Yardstick, orders: Mapping[str, np.ndarray], others: Sequence[str]) -> dict[str, Any]:
    """AID and THI of the selections of this run and of the `others`, made for this alone, and whether the spread over
    tasks falls in the claimed order (None: not all of it could be run)."""
    scored = measure.scored
    tasks, values = scored.matrix.tasks, scored.matrix.values
    rows = {**orders, **{method: scored.select(method, values, tasks).order for method in others}}
    table = {method: _describe(balance(measure.view, order, tasks)) for method, order in rows.items()}
    spreads = [table[name]["aid_between_task_std"] for name in CLAIMED_ORDER if name in table]
    falls = all(a > b for a, b in pairwise(spreads)) if len(spreads) == len(CLAIMED_ORDER) else None
    return {"methods": table, "claimed_order": CLAIMED_ORDER, "falls": falls}


def _describe(found: Balance) -> dict[str, Any]:
    thi = found.strongest_normalised["instance"]
    return {
        "rows": found.rows,
        "aid_per_task": found.normalised.per_task,
        "aid_between_task_std": found.normalised.between_task_std,
        "aid_lowest_target": found.normalised.lowest,
        "aid_highest_target": found.normalised.highest,
        "aid_raw_per_task": found.raw.per_task,
        "aid_raw_between_task_std": found.raw.between_task_std,
        "thi_instance": thi,
        "thi_ratio": imbalance_ratio(thi),
        "thi": {"normalised": found.strongest_normalised, "raw": found.strongest_raw},
        "thi_ratios": {
            scale: {definition: imbalance_ratio(counts) for definition, counts in of.items()}
            for scale, of in (("normalised", found.strongest_normalised), ("raw", found.strongest_raw))
        },
    }


def _plain(value: Any) -> Any:
    """Arrays as lists, and null for what JSON has no number for: a ratio to nothing is infinite."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
