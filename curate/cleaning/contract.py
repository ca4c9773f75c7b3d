"""The one contract of every filter: examples in, `(kept, removed)` out, and together they are what came in.

A filter is a named callable and no more, so that the run's filters are a list, their counts come from the same place,
and a filter that loses a row silently is caught here. Filters run in list order, each on what the one before kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from curate.records import Example, write_rows

REMOVED_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "source", "filter", "reason", "matched_id")])


@dataclass(frozen=True, slots=True)
class Removed:
    """One pool row that a filter took out. `matched_id` is the row, target or evaluation item it matched, or ''."""

    id: str
    source: str
    filter: str
    reason: str
    matched_id: str


@dataclass(frozen=True, slots=True)
class Reference:
    """What the pool must not contain: the user's text of a target, or the prompt of an evaluation item."""

    id: str
    turns: tuple[str, ...]

    @classmethod
    def of(cls, example: Example) -> Reference:
        return cls(example.id, example.user_turns())


class Filter(Protocol):
    """`name` is what `removed.parquet` calls the filter."""

    @property
    def name(self) -> str: ...

    def __call__(self, examples: Sequence[Example]) -> tuple[list[Example], list[Removed]]: ...


def clean(examples: Sequence[Example], filters: Iterable[Filter]) -> tuple[list[Example], list[Removed]]:
    """Run the filters in order. Raises `RuntimeError` if one returns fewer or more rows than it was given."""
    kept, removed = list(examples), []
    for run in filters:
        given = [example.id for example in kept]
        kept, gone = run(kept)
        if sorted(given) != sorted([example.id for example in kept] + [row.id for row in gone]):
            raise RuntimeError(f"filter {run.name}: {len(given)} rows in, {len(kept)} kept + {len(gone)} removed out")
        removed.extend(gone)
    return kept, removed


def write_removed(path: Path, removed: Iterable[Removed]) -> None:
    """Write `removed.parquet`; an empty one has the same columns."""
    write_rows(path, removed, REMOVED_SCHEMA)


def read_removed(path: Path) -> list[Removed]:
    return [Removed(**row) for row in pq.read_table(path).to_pylist()]
