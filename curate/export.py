"""Writes a selection as a dataset folder: Parquet, a dataset card, chat JSONL for trainers, and a manifest of
checksums.

The card's YAML header names the Parquet files, so `datasets.load_dataset(folder)` opens exactly those and the JSONL
beside them is not read twice. Nothing depends on the clock or the machine: the same input gives the same bytes.
Writing is not atomic; that is the stage store's work. Linear in the characters selected.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.records import MESSAGES_TYPE, DataError, Example, messages_as_dicts

EXPORT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("license", pa.string()),
        ("domain", pa.string()),
        ("messages", MESSAGES_TYPE),
        ("rank", pa.int64()),
        ("utility", pa.float64()),
        ("task", pa.string()),
    ]
)
ROWS_PER_SHARD = 200_000
CARD, CHAT, MANIFEST = "README.md", "chat.jsonl", "manifest.json"
# Licence ids that the hub knows; every other text becomes `other` in the header and stays as it is in the table.
# fmt: off
HUB_LICENSES = frozenset(
    [
        "afl-3.0", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "cc", "cc-by-2.0", "cc-by-2.5",
        "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-2.0",
        "gfdl", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "mit", "mpl-2.0", "odbl", "odc-by", "pddl", "unknown",
        "unlicense", "wtfpl",
    ]
)
# fmt: on
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGEST_SIZE = "n>1M"


class ExportError(DataError):
    """Examples and selection rows that do not belong together."""


@dataclass(frozen=True)
class PoolSource:
    """Rows of one source under one licence in the pool before cleaning and selection; attribution: whom to name."""

    source: str
    license: str
    rows: int
    attribution: tuple[str, ...] = ()


@dataclass(frozen=True)
class CardInfo:
    """What the dataset card says beyond what the rows show.

    title: heading. summary: what the dataset is, for whom. method: how rows were selected, with budget and base
    model. pool: the pool that was drawn from (`pool_sources`). removed: filter name -> rows it took out. gaps: known
    gaps, one sentence each. languages, tags: for the header, as the hub writes them.
    """

    title: str
    summary: str
    method: str
    pool: tuple[PoolSource, ...]
    removed: Mapping[str, int] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ("equipoise", "instruction-tuning", "data-selection")


def pool_sources(
    examples: Iterable[Example], attributions: Mapping[str, Sequence[str]] | None = None
) -> tuple[PoolSource, ...]:
    """Rows per source and licence, most rows first, then by name. attributions: source -> whom to name for its rows."""
    named = attributions or {}
    counts = Counter((example.source, example.license) for example in examples)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(PoolSource(source, license, rows, tuple(named.get(source, ()))) for (source, license), rows in ordered)


def export_dataset(
    folder: Path,
    examples: Sequence[Example],
    selection_rows: Sequence[Mapping[str, Any]],
    card: CardInfo,
    *,
    lineage: Mapping[str, Any] | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> dict[str, Any]:
    """Write `data/train-*.parquet`, `README.md`, `chat.jsonl` and `manifest.json`; return the manifest.

    examples: in rank order. selection_rows: the rows of `selection.parquet` in the same order (`id, rank, utility,
    task`). lineage: inputs and parameters to put in the manifest, JSON values. Raises `ExportError` when there are no
    rows, the two lists differ, or ranks do not ascend.
    """
    _check(examples, selection_rows)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    files = _write_shards(folder, examples, selection_rows, rows_per_shard)
    with (folder / CHAT).open("w", encoding="utf-8", newline="\n") as lines:
        for example in examples:
            lines.write(json.dumps({"messages": messages_as_dicts(example.messages)}, ensure_ascii=False) + "\n")
    (folder / CARD).write_text(dataset_card(card, examples), encoding="utf-8", newline="\n")
    manifest = {
        "rows": len(examples),
        "sources": dict(sorted(Counter(example.source for example in examples).items())),
        "tasks": dict(sorted(Counter(str(row["task"]) for row in selection_rows if row["task"] is not None).items())),
        "files": {name: _checksum(folder / name) for name in sorted([*files, CARD, CHAT])},
        "lineage": dict(lineage or {}),
    }
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8", newline="\n")
    return manifest


def dataset_card(card: CardInfo, examples: Sequence[Example]) -> str:
    """The README.md: YAML header and sections, for the given selected examples."""
    from huggingface_hub import DatasetCardData

    total = len(examples)
    header = DatasetCardData(
        language=list(card.languages) or None,
        license=sorted({hub_license(example.license) for example in examples}),
        task_categories=["text-generation"],
        size_categories=[next((name for limit, name in _SIZES if total < limit), _LARGEST_SIZE)],
        tags=list(card.tags),
        pretty_name=card.title,
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    )
    removed = [f"| {_cell(name)} | {count:,} |" for name, count in card.removed.items()] or ["| none | 0 |"]
    gaps = [f"- {gap}" for gap in card.gaps] or ["- None are recorded."]
    sections = [
        f"---\n{header.to_yaml()}\n---",
        f"# {card.title}",
        card.summary,
        f"{total:,} conversations in rank order (`rank` 0 is the first pick). `utility` is the selection criterion at "
        "that pick, `task` the capability it was taken for.",
        "## Sources before and after",
        "\n".join(_source_table(card.pool, examples)),
        "Every row keeps its source and its licence; the licences above are the sources' own.",
        *_attribution(card.pool, examples),
        "## How rows were selected",
        card.method,
        "## What was filtered out before",
        "\n".join(["| filter | rows removed |", "| --- | ---: |", *removed]),
        "## Known gaps",
        "\n".join(gaps),
        "## Files",
        f"`data/train-*.parquet` is what `load_dataset` opens; `{CHAT}` holds the same conversations in the same order "
        f'as `{{"messages": [...]}}` lines; `{MANIFEST}` holds checksums and the lineage.',
    ]
    return "\n\n".join(sections) + "\n"


def hub_license(text: str) -> str:
    """The hub's id for a licence text, or `other`."""
    name = text.strip().lower().replace(" ", "-")
    return name if name in HUB_LICENSES else "other"


def _check(examples: Sequence[Example], rows: Sequence[Mapping[str, Any]]) -> None:
    if not examples:
        raise ExportError("nothing to export: the selection is empty; raise the budget")
    if len(examples) != len(rows):
        raise ExportError(f"{len(examples)} examples but {len(rows)} selection rows; pass one per example")
    for position, (example, row) in enumerate(zip(examples, rows, strict=True)):
        if example.id != row["id"]:
            raise ExportError(
                f"row {position}: example {example.id!r} stands where the selection has {row['id']!r}; "
                "put the examples in the selection's order"
            )
        if position and row["rank"] <= rows[position - 1]["rank"]:
            raise ExportError(f"row {position} ({example.id!r}): rank {row['rank']} does not ascend; sort by rank")


def _write_shards(
    folder: Path, examples: Sequence[Example], rows: Sequence[Mapping[str, Any]], rows_per_shard: int
) -> list[str]:
    starts = range(0, len(examples), rows_per_shard)
    names = []
    for number, start in enumerate(starts):
        part = slice(start, start + rows_per_shard)
        table = pa.Table.from_pylist(
            [_export_row(*pair) for pair in zip(examples[part], rows[part], strict=True)], schema=EXPORT_SCHEMA
        )
        names.append(f"data/train-{number:05d}-of-{len(starts):05d}.parquet")
        pq.write_table(table, folder / names[-1])
    return names


def _export_row(example: Example, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": example.id,
        "source": example.source,
        "license": example.license,
        "domain": example.domain,
        "messages": messages_as_dicts(example.messages),
        "rank": row["rank"],
        "utility": row["utility"],
        "task": row["task"],
    }


def _source_table(pool: Sequence[PoolSource], examples: Sequence[Example]) -> list[str]:
    selected = Counter((example.source, example.license) for example in examples)
    before = {(entry.source, entry.license): entry.rows for entry in pool}
    whole = sum(before.values())
    lines = ["| source | licence | pool | share | selected | share |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for key in [*before, *sorted(set(selected) - set(before))]:
        rows, chosen = before.get(key, 0), selected[key]
        lines.append(
            f"| {_cell(key[0])} | {_cell(key[1])} | {rows:,} | {rows / max(1, whole):.1%} "
            f"| {chosen:,} | {chosen / len(examples):.1%} |"
        )
    return lines


def _attribution(pool: Sequence[PoolSource], examples: Sequence[Example]) -> list[str]:
    """The section that names whom the licences of the selected rows ask to name, empty when the sources tell none."""
    selected = {example.source for example in examples}
    named = {entry.source: entry.attribution for entry in pool if entry.attribution and entry.source in selected}
    if not named:
        return []
    return ["## Attribution", "\n".join(f"- {_cell(source)}: {_cell('; '.join(named[source]))}" for source in named)]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _checksum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
