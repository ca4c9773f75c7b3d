"""Writes a selection as a dataset folder that opens elsewhere: Parquet shards, a card, chat files for trainers, the
lineage of every row, a Croissant description, and a manifest of checksums.

The card's YAML header names the Parquet files, so `datasets.load_dataset(folder)` opens exactly those and the JSONL
beside them is not read twice. Nothing depends on the clock or the machine: the same input gives the same bytes.
Writing is not atomic; that is the stage store's work. Linear in the characters selected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curate.export.card import CARD, LICENSES, CardInfo, DataSize, citation, dataset_card, licenses_page
from curate.export.croissant import write_croissant
from curate.export.licenses import LicenseError, forbidden, is_allowed, terms
from curate.export.lineage import LINEAGE, Trail, write_lineage
from curate.export.manifest import checksum, write_manifest
from curate.export.rows import write_shards
from curate.export.settings import ExportSettings
from curate.export.trainers import write_trainer_files
from curate.records import DataError, Example


class ExportError(DataError):
    """Examples and selection rows that do not belong together."""


def export_dataset(
    folder: Path,
    examples: Sequence[Example],
    selection_rows: Sequence[Mapping[str, Any]],
    card: CardInfo,
    *,
    lineage: Mapping[str, Any] | None = None,
    trail: Trail | None = None,
    settings: ExportSettings | None = None,
) -> dict[str, Any]:
    """Write the folder; return the manifest.

    examples: in rank order. selection_rows: the rows of `selection.parquet` in the same order (`id, rank, utility,
    task`, perhaps `target` and a column per task). lineage: inputs and parameters to put in the manifest, JSON values.
    trail: what earlier stages did to the rows. Raises `ExportError` when there are no rows, the two lists differ, or
    ranks do not ascend; `LicenseError` when a row's licence forbids it.
    """
    settings = settings or ExportSettings()
    _check(examples, selection_rows, card)
    _check_licenses(examples, settings.allow_licenses)
    folder.mkdir(parents=True, exist_ok=True)
    shards, size = write_shards(folder, examples, selection_rows, settings.rows_per_shard)
    write_lineage(folder / LINEAGE, examples, selection_rows, trail or Trail(), settings.rows_per_shard)
    trainers = write_trainer_files(folder, examples, card.name)
    sums = {name: checksum(folder / name) for name in shards}
    data = DataSize(size, sum(entry["bytes"] for entry in sums.values()))
    licenses = Counter(example.license for example in examples)
    write_croissant(
        folder,
        name=card.name,
        description=card.summary,
        licenses=sorted({terms(license).name for license in licenses}),
        languages=card.languages,
        keywords=card.tags,
        creator=settings.creator,
        cite_as=citation(card, settings.creator),
        files={LINEAGE: checksum(folder / LINEAGE), **sums},
    )
    for name, text in (
        (LICENSES, licenses_page(card, examples, settings.allow_licenses)),
        (CARD, dataset_card(card, examples, data=data, trainers=trainers, settings=settings)),
    ):
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return write_manifest(
        folder,
        {
            "rows": len(examples),
            "sources": dict(Counter(example.source for example in examples)),
            "tasks": dict(Counter(str(row["task"]) for row in selection_rows if row["task"] is not None)),
            "licenses": {
                license: {
                    "rows": rows,
                    "standing": str(terms(license).standing),
                    "allowed_by_name": is_allowed(license, settings.allow_licenses),
                }
                for license, rows in licenses.items()
            },
            "llama_factory": {
                "file": trainers.llama_factory_file,
                "rows_joined": trainers.joined,
                "rows_skipped": trainers.skipped,
            },
            "lineage": dict(lineage or {}),
        },
    )


def _check_licenses(examples: Sequence[Example], allowed: Sequence[str]) -> None:
    found: dict[str, set[str]] = {}
    for example in examples:
        found.setdefault(example.source, set()).add(example.license)
    if problems := forbidden(found, allowed):
        raise LicenseError("\n".join(problems))


def _check(examples: Sequence[Example], rows: Sequence[Mapping[str, Any]], card: CardInfo) -> None:
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
    if card.fates is not None and sum(card.fates.values()) + len(examples) != card.read:
        raise ExportError(
            f"{card.read} pool rows were read, {len(examples)} are exported and {dict(card.fates)} are accounted for, "
            "which does not add up; please report this as a bug"
        )
