"""Selection and export: from scores to a ranked list with its reasons, and from that to a dataset folder."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from curate.cleaning import read_removed
from curate.export import CardInfo, export_dataset, pool_sources
from curate.records import read_examples
from curate.scores import read_scores
from curate.selection import METHODS, resolve_budget
from curate.selection.explain import average_influence, imbalance_ratio, selection_table, strongest_tasks
from flows.config import RunConfig
from flows.stages.data import POOL, REMOVED, TARGETS
from flows.store import Accounting, StageOutput, StageStore

SELECTION, ANALYSIS = "selection.parquet", "analysis.json"
DATASET = "dataset"


def select(
    config: RunConfig, store: StageStore, method: str, cleaned: StageOutput, encoded: StageOutput, scored: StageOutput
) -> StageOutput:
    """The best `budget` rows by one method, with rank, winning target, its task, utility and influence per task."""

    def build(folder: Path) -> Accounting:
        matrix = read_scores(scored.path)
        source = dict(zip(*(pq.read_table(cleaned.path / POOL)[c].to_pylist() for c in ("id", "source")), strict=True))
        # a fraction is of the pool before exclusions; what cannot be scored cannot be chosen
        budget = resolve_budget(config.selection.budget, len(source))
        selection = METHODS[method](matrix.values, budget, tasks=matrix.tasks, seed=config.seed)
        table = selection_table(
            selection,
            matrix.values,
            ids=matrix.row_ids,
            sources=[source[i] for i in matrix.row_ids],
            targets=matrix.column_ids,
            tasks=matrix.tasks,
        )
        pq.write_table(table, folder / SELECTION)
        (folder / ANALYSIS).write_text(json.dumps(_analysis(matrix.values, selection.order, matrix.tasks), indent=1))
        return Accounting(
            len(matrix.row_ids), len(selection.order), not_selected=len(matrix.row_ids) - len(selection.order)
        )

    return store.run(
        "select",
        build,
        params={"method": method, "budget": config.selection.budget, "seed": config.seed},
        inputs={"clean": cleaned.key, "encode": encoded.key, "scores": scored.key},
        code=["curate/selection", "curate/scores.py", "flows/stages/selection.py"],
    )


def _analysis(scores: np.ndarray, order: np.ndarray, tasks: list[str]) -> dict:
    """AID and THI of a selection (bids spec, section 6), on z-scores."""
    profile = average_influence(scores, order, tasks)
    counts = strongest_tasks(scores, order, tasks, by="instance")
    return {
        "aid_per_task": profile.per_task,
        "aid_between_task_std": profile.between_task_std,
        "aid_lowest_target": profile.lowest,
        "aid_highest_target": profile.highest,
        "thi_instance": counts,
        "thi_ratio": imbalance_ratio(counts) if all(counts.values()) else None,
    }


def export(
    config: RunConfig,
    store: StageStore,
    method: str,
    ingested: StageOutput,
    cleaned: StageOutput,
    encoded: StageOutput,
    matrix: StageOutput,
    selected: StageOutput,
) -> StageOutput:
    """The selected conversations as a dataset folder with card, chat JSONL and manifest."""

    def build(folder: Path) -> Accounting:
        pool = {example.id: example for example in read_examples(cleaned.path / POOL)}
        rows = pq.read_table(selected.path / SELECTION).to_pylist()
        capabilities = sorted({str(t.capability) for t in read_examples(ingested.path / TARGETS)})
        card = CardInfo(
            title=f"{config.name}: {method} selection",
            summary=(
                f"{len(rows):,} of {len(pool):,} instruction conversations, selected for balance over "
                f"{', '.join(capabilities)}. Made with Equipoise."
            ),
            method=(
                f"Method `{method}`, budget {config.selection.budget}, seed {config.seed}. "
                f"Scores: gradient influence "
                f"(LESS, arXiv 2402.04333) under `{config.model}`, {config.warmup.checkpoints} checkpoints, Adam rule "
                f"`{config.influence.adam_rule}`, exact dot products"
                + ("; BIDS (arXiv 2501.12147) balances them over the targets." if method == "bids" else ".")
            ),
            pool=pool_sources(read_examples(ingested.path / POOL)),
            removed=Counter(row.filter for row in read_removed(cleaned.path / REMOVED)),
            gaps=_gaps(config, encoded, matrix),
        )
        lineage = {stage.stage: stage.key for stage in (ingested, cleaned, encoded, matrix, selected)}
        export_dataset(folder / DATASET, [pool[row["id"]] for row in rows], rows, card, lineage=lineage)
        return Accounting(len(rows), len(rows))

    return store.run(
        "export",
        build,
        params={"method": method, "name": config.name, "model": config.model},
        inputs={"ingest": ingested.key, "clean": cleaned.key, "encode": encoded.key, "select": selected.key},
        code=["curate/records.py", "curate/export.py", "flows/stages/selection.py"],
    )


def _gaps(config: RunConfig, encoded: StageOutput, matrix: StageOutput) -> tuple[str, ...]:
    """What a reader of the card must know is missing."""
    lost = encoded.rows.get("excluded", 0) + matrix.rows.get("excluded", 0)
    gaps = ["Rows are judged by a handful of targets per capability: what no target shows is not looked for."]
    if lost:
        gaps.append(
            f"{lost:,} pool rows could not be scored: no answer in {config.max_length} tokens or no finite gradient."
        )
    gaps.append("Near-duplicates, personal data and toxicity were not filtered.")
    return tuple(gaps)
