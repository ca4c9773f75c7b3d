"""What the configuration demands of a selection, in terms of the scored rows: budget, sources, ids, near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.cleaning import read_removed
from curate.cleaning.near_duplicates import near_duplicate_clusters
from curate.records import read_examples
from curate.selection import SelectionError, resolve_budget
from curate.selection.constraints import Budget, Constraints, TokenBudget, rows_of
from flows.config import RunConfig
from flows.stages.data import POOL, REMOVED
from flows.store import Accounting, StageOutput, StageStore
from train.encoding import read_encoded
from train.names import nearest

CLUSTERS = "clusters.parquet"


def near_duplicates(config: RunConfig, store: StageStore, cleaned: StageOutput) -> StageOutput:
    """The near-duplicate cluster of every pool row; made once for all methods."""
    threshold = config.selection.near_duplicate_threshold

    def build(folder: Path) -> Accounting:
        pool = read_examples(cleaned.path / POOL)
        texts = ("\n".join(message.content for message in example.messages) for example in pool)
        labels = near_duplicate_clusters(texts, threshold)
        pq.write_table(pa.table({"id": [example.id for example in pool], "cluster": labels}), folder / CLUSTERS)
        return Accounting(len(pool), len(pool))

    return store.run(
        "near_duplicates",
        build,
        params={"threshold": threshold},
        inputs={"clean": cleaned.key},
        code=["curate/records.py", "curate/cleaning", "flows/stages/constraints.py"],
    )


def selection_budget(config: RunConfig, pool_rows: int, encoded: StageOutput, row_ids: Sequence[str]) -> Budget:
    """Rows or tokens to select. A fraction is of the pool before exclusions (of tokens: of all encoded rows)."""
    settings = config.selection
    if settings.budget_tokens is None:
        return resolve_budget(settings.budget, pool_rows)
    lengths = {row.id: len(row.input_ids) for row in read_encoded(encoded.path / POOL)}
    limit = resolve_budget(settings.budget_tokens, sum(lengths.values()))
    return TokenBudget(limit, [lengths[name] for name in row_ids])


def selection_constraints(
    config: RunConfig,
    cleaned: StageOutput,
    row_ids: Sequence[str],
    sources: Sequence[str],
    clusters: StageOutput | None,
) -> Constraints | None:
    """The settings as constraints on the scored rows, or None. sources: (N,) of the rows; clusters: the output of
    `near_duplicates`.

    Raises `SelectionError` for ids that no pool row has, and for an id of include that has no scores.
    """
    settings = config.selection
    if not settings.constrained:
        return None
    labels = None
    if clusters is not None:
        table = pq.read_table(clusters.path / CLUSTERS)
        cluster = dict(zip(table["id"].to_pylist(), table["cluster"].to_pylist(), strict=True))
        labels = np.array([cluster[name] for name in row_ids], dtype=np.int64)
    include, exclude = _rows(cleaned, row_ids, settings.include, settings.exclude)
    return Constraints(
        include=include,
        exclude=exclude,
        sources=sources,
        limits={name: source.limit() for name, source in settings.sources.items()},
        clusters=labels,
        max_per_cluster=settings.max_per_cluster,
    )


def _rows(
    cleaned: StageOutput, row_ids: Sequence[str], include: Sequence[str], exclude: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the ids; one to exclude that was left out before is excluded already."""
    scored = set(row_ids)
    lost = [(what, name) for what, ids in (("include", include), ("exclude", exclude)) for name in ids]
    lost = [(what, name) for what, name in lost if name not in scored]
    if lost:
        removed = {row.id: row.filter for row in read_removed(cleaned.path / REMOVED)}
        pool = set(pq.read_table(cleaned.path / POOL, columns=["id"])["id"].to_pylist())
        for what, name in lost:
            if name not in removed and name not in pool:
                raise SelectionError(
                    f"selection.{what}: no pool row has the id {name!r}{nearest(name, row_ids[:5000])}"
                )
            if what == "include":
                reason = f"the filter {removed[name]} removed it" if name in removed else "it could not be scored"
                raise SelectionError(
                    f"selection.include: {name!r} cannot be selected, {reason}; take it out of include"
                )
    present = [name for name in exclude if name in scored]
    return rows_of(row_ids, include, "selection.include"), rows_of(row_ids, present, "selection.exclude")
