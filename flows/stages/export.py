"""Export: from a selection to a dataset folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from curate.cleaning import read_removed
from curate.export import CardInfo, export_dataset, pool_sources
from curate.records import read_examples
from curate.selection.inputs import INPUTS
from curate.sources.report import attributions, read_reports
from flows.config import RunConfig
from flows.stages.data import POOL, REMOVED, SOURCES, TARGETS
from flows.stages.selection import SELECTION
from flows.store import Accounting, StageOutput, StageStore

DATASET = "dataset"


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
                f"Method `{method}`, budget {config.selection.budget_in_words}, seed {config.seed}. "
                f"Scores: {_scores_in_words(config, method)}"
                + ("; BIDS (arXiv 2501.12147) balances them over the targets." if method == "bids" else ".")
            ),
            pool=pool_sources(read_examples(ingested.path / POOL), attributions(read_reports(ingested.path / SOURCES))),
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
        code=["curate/records.py", "curate/export", "curate/sources/report.py", "flows/stages/export.py"],
    )


def _scores_in_words(config: RunConfig, method: str) -> str:
    """What the method looked at, for the card."""
    kind, influence = INPUTS[method], config.influence
    if method == "random":
        return "none, the rows were drawn at random"
    if kind == "influence":
        return (
            f"gradient influence (LESS, arXiv 2402.04333) under `{config.model}`, {config.warmup.checkpoints} "
            f"checkpoints, preconditioner `{influence.preconditioner}`, mode `{influence.mode}`"
        )
    return {
        "embeddings": f"similarity of the last hidden state of `{config.model}` after the warmup",
        "bm25": "BM25 of the row's text against the targets' texts",
        "ngrams": "hashed n-gram importance weights (DSIR, arXiv 2302.03169)",
    }[kind]


def _gaps(config: RunConfig, encoded: StageOutput, matrix: StageOutput) -> tuple[str, ...]:
    """What a reader of the card must know is missing."""
    lost = encoded.rows.get("excluded", 0) + matrix.rows.get("excluded", 0)
    gaps = ["Rows are judged by a handful of targets per capability: what no target shows is not looked for."]
    if lost:
        gaps.append(
            f"{lost:,} pool rows could not be scored: no answer in {config.max_length} tokens or no finite gradient."
        )
    per_cluster = config.selection.max_per_cluster
    if per_cluster:
        gaps.append(f"At most {per_cluster} rows of a near-duplicate cluster were selected.")
    cleaning = config.data.cleaning
    if cleaning.personal_data:
        done = "masked" if cleaning.personal_data.action == "mask" else "dropped with their rows"
        gaps.append(f"Addresses, numbers and keys of the kinds {', '.join(cleaning.personal_data.kinds)} were {done}.")
    if cleaning.toxicity:
        labels = ", ".join(sorted(cleaning.toxicity.thresholds))
        gaps.append(f"Rows that `{cleaning.toxicity.model}` calls {labels} were removed.")
    looked = {
        "near-duplicates": per_cluster or cleaning.near_duplicates,
        "personal data": cleaning.personal_data,
        "toxicity": cleaning.toxicity,
    }
    missing = [what for what, found in looked.items() if not found]
    if missing:
        listed = f"{', '.join(missing[:-1])} and {missing[-1]}" if missing[1:] else missing[0]
        verb = "was" if missing == ["toxicity"] else "were"
        gaps.append(f"{listed[0].upper()}{listed[1:]} {verb} not filtered.")
    return tuple(gaps)
