"""Export: from a selection to a dataset folder."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from langcodes import standardize_tag

from curate.cleaning import read_changed, read_removed
from curate.cleaning.language import detect_languages
from curate.cleaning.settings import DetectionSettings
from curate.cleaning.steps import CLEANING
from curate.export import CardInfo, Trail, export_dataset
from curate.export.card import counted_sources
from curate.export.markdown import plain
from curate.records import UNKNOWN, Example, examples_of, read_examples, rows_with_ids
from curate.selection.inputs import INPUTS
from curate.sources.report import SourceReport, attributions, languages, read_reports, revisions
from flows.config import RunConfig
from flows.stages.constraints import CLUSTERS, near_duplicates
from flows.stages.data import CHANGED, POOL, REMOVED, SOURCES, TARGETS
from flows.stages.selection import SELECTION
from flows.store import Accounting, StageOutput, StageStore

DATASET = "dataset"
DETECTED_IN = 2_000  # rows of unnamed language that are read for it, half a millisecond each
LEAST_SHARE = 0.02  # of them in a language: with fewer, it is as likely the detector's error
_LANGUAGE_DOMAIN = re.compile(r"multilingual:([a-z]{2,3})")


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
    """The selected conversations as a dataset folder: shards, card, lineage, trainers' files, manifest."""

    clusters = near_duplicates(config, store, cleaned) if config.selection.max_per_cluster else None

    def build(folder: Path) -> Accounting:
        reports = read_reports(ingested.path / SOURCES)
        rows = pq.read_table(selected.path / SELECTION).to_pylist()
        table = rows_with_ids(cleaned.path / POOL, {row["id"] for row in rows})
        pool = {example.id: example for example in examples_of(table)}
        chosen = [pool[row["id"]] for row in rows]
        scorable = pq.read_metadata(cleaned.path / POOL).num_rows
        named, detected = _languages(chosen, languages(reports), config.data.cleaning.detection)
        capabilities = sorted({str(t.capability) for t in read_examples(ingested.path / TARGETS)})
        card = CardInfo(
            title=f"{config.name}: {method} selection",
            name=f"{config.name}-{method}",
            summary=(
                f"{len(rows):,} of {scorable:,} instruction conversations, selected for balance over "
                f"{', '.join(plain(name) for name in capabilities)}. Made with Equipoise."
            ),
            method=(
                f"Method `{method}`, budget {config.selection.budget_in_words}, seed {config.seed}. "
                f"Scores: {_scores_in_words(config, method)}"
                + ("; BIDS (arXiv 2501.12147) balances them over the targets." if method == "bids" else ".")
            ),
            pool=counted_sources(_counts(ingested.path / POOL), attributions(reports), revisions(reports)),
            read=sum(report.rows for report in reports if report.use == "pool"),
            fates=_fates(reports, cleaned, scorable, selected),
            gaps=(*_gaps(config, encoded, matrix), *_detected_in_words(detected)),
            languages=tuple(sorted({*named, *detected})),
        )
        export_dataset(
            folder / DATASET,
            chosen,
            rows,
            card,
            lineage={stage.stage: stage.key for stage in (ingested, cleaned, encoded, matrix, selected)},
            trail=_trail(cleaned, encoded, clusters, {row["id"] for row in rows}),
            settings=config.export,
        )
        return Accounting(len(rows), len(rows))

    return store.run(
        "export",
        build,
        params={
            "method": method,
            "name": config.name,
            "model": config.model,
            "detection": config.data.cleaning.detection.model_dump(),
            "export": config.export.model_dump(mode="json"),
        },
        inputs={
            "ingest": ingested.key,
            "clean": cleaned.key,
            "encode": encoded.key,
            "select": selected.key,
            **({"clusters": clusters.key} if clusters else {}),
        },
        code=[
            "curate/records.py",
            "curate/cleaning/language.py",
            "curate/export",
            "curate/sources/report.py",
            "flows/stages/constraints.py",
            "flows/stages/export.py",
        ],
    )


def _counts(path: Path) -> dict[tuple[str, str], int]:
    """Rows per source and licence."""
    table = pq.read_table(path, columns=["source", "license", "id"])
    found = table.group_by(["source", "license"]).aggregate([("id", "count")]).to_pylist()
    return {(row["source"], row["license"]): row["id_count"] for row in found}


def _fates(
    reports: Sequence[SourceReport], cleaned: StageOutput, scorable: int, selected: StageOutput
) -> dict[str, int]:
    """What became of the pool rows that are not exported, in the order of the work; zeros are told too."""
    removed = Counter(row.filter for row in read_removed(cleaned.path / REMOVED))
    return {
        "rejected as no conversation": sum(report.rejected for report in reports if report.use == "pool"),
        **{f"removed by {name}": removed[name] for name in _filters(cleaned)},
        "not scored": scorable - selected.rows["rows_in"],
        "not selected": selected.rows["not_selected"],
    }


def _filters(cleaned: StageOutput) -> list[str]:
    """Names of the filters and editors that ran, in order."""
    return [step["filter"] for step in json.loads((cleaned.path / CLEANING).read_text(encoding="utf-8"))["filters"]]


def _languages(
    examples: Sequence[Example], of_source: Mapping[str, tuple[str, ...]], detection: DetectionSettings
) -> tuple[set[str], list[str]]:
    """Language tags of the rows (`de`, also where `deu` was said): named by a domain `multilingual:deu`, else by the
    row's source; and, of a sample of the rows that neither names, detected, the most rows first."""
    named, unnamed = set[str](), []
    for example in examples:
        domain = _LANGUAGE_DOMAIN.fullmatch(example.domain)
        told = [domain[1]] if domain else of_source.get(example.source, ())
        named.update(told)
        if not told:
            unnamed.append(example)
    read = unnamed[:: max(1, math.ceil(len(unnamed) / DETECTED_IN))]
    counts = Counter(detect_languages(read, **detection.model_dump()).values())
    enough = [code for code, rows in counts.most_common() if code != UNKNOWN and rows >= LEAST_SHARE * len(read)]
    tags = set(map(standardize_tag, named))
    return tags, [code for code in enough if code not in tags]


def _detected_in_words(codes: Sequence[str]) -> list[str]:
    if not codes:
        return []
    return [f"No source names the language of some rows; detected in their text (py3langid): {', '.join(codes)}."]


def _trail(cleaned: StageOutput, encoded: StageOutput, clusters: StageOutput | None, chosen: set[str]) -> Trail:
    """What the stages before did to the chosen rows."""
    table = rows_with_ids(encoded.path / POOL, chosen, ["id", "truncated", "input_ids"])
    lengths = pc.list_value_length(table["input_ids"]).to_pylist()
    ids, cut = table["id"].to_pylist(), table["truncated"].to_pylist()
    labels: dict[str, int] = {}
    if clusters:
        found = pq.read_table(clusters.path / CLUSTERS)
        pairs = zip(found["id"].to_pylist(), found["cluster"].to_pylist(), strict=True)
        labels = {name: label for name, label in pairs if name in chosen}
    return Trail(
        filters=tuple(_filters(cleaned)),
        changed=tuple(row for row in read_changed(cleaned.path / CHANGED) if row.id in chosen),
        tokens=dict(zip(ids, lengths, strict=True)),
        truncated=frozenset(name for name, is_cut in zip(ids, cut, strict=True) if is_cut),
        clusters=labels,
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
