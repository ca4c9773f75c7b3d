"""Where every exported row comes from, what was done to it and why it is there: `lineage.parquet`, one line a row.

It stands beside the data and not in it, so that the dataset stays small and a question about one row has one place to
look. Paths are as the configuration named them; of absolute ones only what is below their common folder is told, since
the rest names a machine and often a person.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from curate.cleaning.contract import Changed
from curate.export.rows import shard_names, tables, write_parquet
from curate.records import Example, Place
from curate.selection.explain.reasons import RESERVED_COLUMNS

LINEAGE = "lineage.parquet"
LINEAGE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("rank", pa.int64()),
        ("shard", pa.string()),
        ("shard_row", pa.int64()),  # from 0, as in the shard
        ("source", pa.string()),
        ("license", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),  # from 1: the line of a text file
        (
            "transformations",
            pa.list_(pa.struct([("step", pa.string()), ("what", pa.string()), ("places", pa.int64())])),
        ),
        ("filters_passed", pa.list_(pa.string())),
        ("tokens", pa.int64()),
        ("truncated", pa.bool_()),
        ("utility", pa.float64()),
        ("target", pa.string()),
        ("task", pa.string()),
        ("influence", pa.list_(pa.struct([("task", pa.string()), ("score", pa.float64())]))),
        ("near_duplicate_cluster", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Trail:
    """What earlier stages did to the pool, by row id; what is not known stays empty.

    filters: those every exported row passed, in order. changed: what editors altered. tokens: scored and trained on,
    after the cut; truncated: the ids that were cut. clusters: near-duplicate cluster, where one was made.
    """

    filters: tuple[str, ...] = ()
    changed: tuple[Changed, ...] = ()
    tokens: Mapping[str, int] = field(default_factory=dict)
    truncated: frozenset[str] = frozenset()
    clusters: Mapping[str, int] = field(default_factory=dict)


def write_lineage(
    path: Path, examples: Sequence[Example], rows: Sequence[Mapping[str, Any]], trail: Trail, rows_per_shard: int
) -> None:
    """One line per exported row, in the order of the export. rows: of `selection.parquet`."""
    write_parquet(path, LINEAGE_SCHEMA, tables(_lines(examples, rows, trail, rows_per_shard), LINEAGE_SCHEMA))


def _lines(
    examples: Sequence[Example], rows: Sequence[Mapping[str, Any]], trail: Trail, rows_per_shard: int
) -> Iterator[dict[str, Any]]:
    places = [Place.of(example.origin) for example in examples]
    shown = shareable_paths(place.file for place in places)
    shards = shard_names(len(examples), rows_per_shard)
    edits: dict[str, list[dict[str, Any]]] = {}
    for change in trail.changed:
        told = {"step": change.filter, "what": change.what, "places": change.places}
        edits.setdefault(change.id, []).append(told)
    for number, (example, row, place) in enumerate(zip(examples, rows, places, strict=True)):
        tasks = {
            name: score for name, score in row.items() if name not in RESERVED_COLUMNS and isinstance(score, float)
        }
        yield {
            "id": example.id,
            "rank": row["rank"],
            "shard": shards[number // rows_per_shard],
            "shard_row": number % rows_per_shard,
            "source": example.source,
            "license": example.license,
            "file": shown[place.file],
            "row": place.row,
            "transformations": edits.get(example.id, []),
            "filters_passed": list(trail.filters),
            "tokens": trail.tokens.get(example.id),
            "truncated": example.id in trail.truncated if trail.tokens else None,
            "utility": row["utility"],
            "target": row.get("target"),
            "task": row["task"],
            "influence": [{"task": name, "score": score} for name, score in tasks.items()],
            "near_duplicate_cluster": trail.clusters.get(example.id),
        }


def shareable_paths(files: Iterable[str]) -> dict[str, str]:
    """Path -> what to tell of it: absolute ones from their common folder down, others as they are."""
    found = sorted(set(files))
    absolute = [name for name in found if PurePosixPath(name).is_absolute()]
    parents = [str(PurePosixPath(name).parent) for name in absolute]
    common = os.path.commonpath(parents) if parents else ""
    return {name: str(PurePosixPath(name).relative_to(common)) if name in absolute else name for name in found}
