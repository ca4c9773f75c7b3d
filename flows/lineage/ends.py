"""The end of every source line of a run: exactly one, read from what the stages wrote.

Nothing may leave silently, so a line that no stage accounts for, or two do, is an error here and not a gap in a table.
Whole columns of ids are read, some 100 bytes a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from curate.scores import ROWS
from flows.runs import Run
from flows.stages.data import POOL, REJECTED, REMOVED, TARGETS
from flows.stages.encoding import EXCLUDED
from flows.stages.selection import SELECTION
from flows.store import StoreError

REJECTED_END, REMOVED_END, NOT_ENCODED = "rejected", "removed", "not encoded"
NOT_SCORED, NOT_SELECTED, SELECTED, STEERS = "not scored", "not selected", "selected", "steers"
SELECT = "select-"


@dataclass(frozen=True)
class End:
    """What became of one source line. kind: `pool row`, `target` or `rejected row`; id is '' where it has none."""

    origin: str
    kind: str
    id: str
    end: str


def ends(run: Run) -> list[End]:
    """Of every line that was read, in the order of the files. Raises `StoreError` for a line that got lost on the
    way or came out twice."""
    found = list(_ends(run))
    read = run.stages["ingest"].rows["rows_in"]
    if len(found) != read:
        raise StoreError(f"run {run.record}: {read} lines were read and {len(found)} have an end")
    return found


def _ends(run: Run) -> Iterator[End]:
    ingested, cleaned = run.stage("ingest"), run.stage("clean")
    for row in _rows(ingested / REJECTED, "origin", "id"):
        yield End(row["origin"], "rejected row", row["id"], REJECTED_END)
    excluded = not_encoded(run)
    for row in _rows(ingested / TARGETS, "origin", "id"):
        yield End(row["origin"], "target", row["id"], NOT_ENCODED if row["id"] in excluded["targets"] else STEERS)
    sets = [
        (REMOVED_END, _ids(cleaned / REMOVED)),
        (NOT_ENCODED, set(excluded["pool"])),
        (SELECTED, set().union(*(_ids(run.stage(name) / SELECTION) for name in methods(run).values()))),
    ]
    kept, scored = _ids(cleaned / POOL), set[str]().union(*(_ids(path) for path in score_folders(run).values()))
    for row in _rows(ingested / POOL, "origin", "id"):
        name = row["id"]
        known = [end for end, ids in sets if name in ids]
        if len(known) > 1 or (name in kept) == (REMOVED_END in known):
            raise StoreError(f"run {run.record}: row {name!r} is {' and '.join(known) or 'lost'} after the clean stage")
        yield End(
            row["origin"], "pool row", name, known[0] if known else NOT_SELECTED if name in scored else NOT_SCORED
        )


def methods(run: Run) -> dict[str, str]:
    """Method -> its select stage."""
    return {name.removeprefix(SELECT): name for name in run.stages if name.startswith(SELECT)}


def score_folders(run: Run) -> dict[str, Path]:
    """Stage -> the table of the rows it scored."""
    names = [name for name in run.stages if name == "attribution" or name.startswith("similarity-")]
    return {name: run.stage(name) / ROWS for name in names}


def not_encoded(run: Run) -> dict[str, dict[str, str]]:
    """`pool` and `targets` -> id -> why the row has no tokens to train on."""
    path = run.stage("encode") / EXCLUDED
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {"pool": {}, "targets": {}, **told}


def _rows(path: Path, *columns: str) -> list[dict[str, str]]:
    return pq.read_table(path, columns=list(columns)).to_pylist()


def _ids(path: Path) -> set[str]:
    return set(pq.read_table(path, columns=["id"])["id"].to_pylist())
