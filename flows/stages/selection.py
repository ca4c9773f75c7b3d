"""Selection: from scores to a ranked list with its reasons."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from curate.scores import read_scores
from curate.selection import METHODS
from curate.selection.explain import selection_table
from flows.config import RunConfig
from flows.stages.constraints import near_duplicates, selection_budget, selection_constraints
from flows.stages.data import POOL
from flows.store import Accounting, StageOutput, StageStore

SELECTION = "selection.parquet"


def select(
    config: RunConfig, store: StageStore, method: str, cleaned: StageOutput, encoded: StageOutput, scored: StageOutput
) -> StageOutput:
    """The best `budget` rows by one method, with rank, winning target, its task, utility and influence per task."""
    settings = config.selection
    clusters = near_duplicates(config, store, cleaned) if settings.max_per_cluster else None

    def build(folder: Path) -> Accounting:
        matrix = read_scores(scored.path)
        source = dict(zip(*(pq.read_table(cleaned.path / POOL)[c].to_pylist() for c in ("id", "source")), strict=True))
        sources = [source[i] for i in matrix.row_ids]
        budget = selection_budget(config, len(source), encoded, matrix.row_ids)
        constraints = selection_constraints(config, cleaned, matrix.row_ids, sources, clusters)
        selection = METHODS[method](
            matrix.values, budget, tasks=matrix.tasks, seed=config.seed, constraints=constraints
        )
        table = selection_table(
            selection,
            matrix.values,
            ids=matrix.row_ids,
            sources=sources,
            targets=matrix.column_ids,
            tasks=matrix.tasks,
        )
        pq.write_table(table, folder / SELECTION)
        scored_rows, chosen = len(matrix.row_ids), len(selection.order)
        return Accounting(scored_rows, chosen, not_selected=scored_rows - chosen)

    return store.run(
        "select",
        build,
        params={
            "method": method,
            "seed": config.seed,
            **settings.model_dump(mode="json", exclude={"methods", "near_duplicate_threshold"}),
        },
        inputs={
            "clean": cleaned.key,
            "encode": encoded.key,
            "scores": scored.key,
            **({"clusters": clusters.key} if clusters else {}),
        },
        code=["curate/selection", "curate/scores.py", "flows/stages/constraints.py", "flows/stages/selection.py"],
    )
