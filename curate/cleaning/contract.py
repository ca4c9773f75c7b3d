"""The one contract of every filter: examples in, `(kept, removed)` out, and together they are what came in; and of
every editor, which may change texts and removes nothing.

A filter is a named callable and no more, so that the run's filters are a list, their counts come from the same place,
and a filter that loses or alters a row silently is caught here. They run in list order, each on what the one before
left. A filter that judges rows by each other also says what it needs to know of a row (`sketch`) and how it decides by
that alone (`decide`), so that a pool larger than the memory can be cleaned in parts (`shards`) with the same result.
The check compares the messages of all rows once per filter, O(rows) where nothing was copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from curate.records import Example, write_rows

REMOVED_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "source", "filter", "reason", "matched_id")])
CHANGED_SCHEMA = pa.schema(
    [*((name, pa.string()) for name in ("id", "source", "filter", "what")), pa.field("places", pa.int64())]
)


@dataclass(frozen=True, slots=True)
class Removed:
    """One pool row that a filter took out. `matched_id` is the row, target or evaluation item it matched, or ''."""

    id: str
    source: str
    filter: str
    reason: str
    matched_id: str


@dataclass(frozen=True, slots=True)
class Changed:
    """What an editor altered in one row: `places` passages of the kind `what`. A row has one per kind."""

    id: str
    source: str
    filter: str
    what: str
    places: int


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


class Gone(NamedTuple):
    """One row that a pool-wide filter removes. row, match: places in all rows sketched, numbered through; match is -1
    where the row matches none."""

    row: int
    match: int
    reason: str


class PoolFilter(Filter, Protocol):
    """A filter that judges rows by each other: what it keeps of each row, then the verdict over all of them.

    `sketch` looks at each row alone: rows sketched in parts have the sketches of all together, one line per row.
    """

    def sketch(self, examples: Sequence[Example]) -> pa.Table: ...

    def decide(self, sketches: Sequence[pa.Table]) -> list[Gone]: ...


class Editor(Protocol):
    """All rows out again, in order, some with other texts; `changed` names exactly those."""

    @property
    def name(self) -> str: ...

    def edit(self, examples: Sequence[Example]) -> tuple[list[Example], list[Changed]]: ...


@dataclass(frozen=True)
class Step:
    """What one filter or editor did: of `seen` rows it removed or changed these."""

    filter: str
    seen: int
    removed: tuple[Removed, ...]
    changed: tuple[Changed, ...]


@dataclass(frozen=True)
class Steps:
    """Every step on the way, in order."""

    steps: list[Step]

    @property
    def removed(self) -> list[Removed]:
        return [row for step in self.steps for row in step.removed]

    @property
    def changed(self) -> list[Changed]:
        return [row for step in self.steps for row in step.changed]


@dataclass(frozen=True)
class Cleaned(Steps):
    """Also what is left of the pool."""

    kept: list[Example]


def clean(examples: Sequence[Example], filters: Iterable[Filter | Editor]) -> Cleaned:
    """Run filters and editors in order. Raises `RuntimeError` if one does not account for every row it was given."""
    kept, steps = list(examples), []
    for run in filters:
        given, gone, changed = kept, list[Removed](), list[Changed]()
        if hasattr(run, "edit"):
            kept, changed = run.edit(given)
        else:
            kept, gone = run(given)
        check(run.name, given, kept, gone, changed)
        steps.append(Step(run.name, len(given), tuple(gone), tuple(changed)))
    return Cleaned(steps, kept)


def pool_wide(run: PoolFilter, examples: Sequence[Example]) -> tuple[list[Example], list[Removed]]:
    """`run` on rows that are all in memory."""
    gone = {each.row: each for each in run.decide([run.sketch(examples)])}
    removed = [
        Removed(
            examples[row].id,
            examples[row].source,
            run.name,
            each.reason,
            examples[each.match].id if each.match >= 0 else "",
        )
        for row, each in sorted(gone.items())
    ]
    return [example for row, example in enumerate(examples) if row not in gone], removed


def check(
    name: str, given: Sequence[Example], kept: Sequence[Example], removed: Sequence[Removed], changed: Sequence[Changed]
) -> None:
    """Raises `RuntimeError` where a filter lost a row, or altered one that it does not tell."""
    if sorted(row.id for row in given) != sorted([row.id for row in kept] + [row.id for row in removed]):
        raise RuntimeError(f"filter {name}: {len(given)} rows in, {len(kept)} kept + {len(removed)} removed out")
    before = {row.id: row.messages for row in given}
    other = {row.id for row in kept if row.messages is not before[row.id] and row.messages != before[row.id]}
    told = {row.id for row in changed}
    if other != told:
        raise RuntimeError(f"filter {name}: {len(other)} rows have another text and {len(told)} are told as changed")


def write_removed(path: Path, removed: Iterable[Removed]) -> None:
    """Write `removed.parquet`; an empty one has the same columns."""
    write_rows(path, removed, REMOVED_SCHEMA)


def read_removed(path: Path) -> list[Removed]:
    return [Removed(**row) for row in pq.read_table(path).to_pylist()]


def write_changed(path: Path, changed: Iterable[Changed]) -> None:
    """Write `changed.parquet`; an empty one has the same columns."""
    write_rows(path, changed, CHANGED_SCHEMA)


def read_changed(path: Path) -> list[Changed]:
    return [Changed(**row) for row in pq.read_table(path).to_pylist()]
