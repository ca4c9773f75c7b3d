"""What became of rows on one night, read from what its stages wrote: the side of `changes` that knows files.

Whole columns of ids are read, some 100 bytes a row of the pool; everything else only for the rows asked about.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow.parquet as pq

from curate.influence.job import OUTCOME, read_outcomes
from curate.records import rows_with_ids
from curate.scores import ROWS
from flows.stages.data import POOL, REJECTED, REMOVED
from flows.stages.encoding import EXCLUDED
from flows.stages.left_out import left_out
from flows.stages.selection import SELECTION


class Fate(NamedTuple):
    """How far a row came, and what ended it, in words ('' for one that is not there, or came to be scored)."""

    kind: Literal["absent", "rejected", "removed", "not encoded", "not scored", "scored"]
    told: str = ""


class Chosen(NamedTuple):
    """A selected row. rank: from 0."""

    rank: int
    utility: float | None
    source: str


class Gap(NamedTuple):
    """What a row would have added at the end of a BIDS selection, and what the last row added."""

    gap: float
    last: float


def pool_ids(ingested: Path) -> set[str]:
    return set(pq.read_table(ingested / POOL, columns=["id"])["id"].to_pylist())


def chosen(selected: Path) -> dict[str, Chosen]:
    """id -> its place, best first."""
    rows = pq.read_table(selected / SELECTION, columns=["id", "rank", "utility", "source"]).to_pylist()
    return {row["id"]: Chosen(row["rank"], row["utility"], row["source"]) for row in rows}


def fates(stages: Mapping[str, Path], ids: Collection[str]) -> dict[str, Fate]:
    """How far each row came. stages: the folders of ingest, clean, encode and scores, and of gradients if it is
    there."""
    there = _among(stages["ingest"] / POOL, ids, "id")
    rejected = {row["id"]: row["reason"] for row in _among(stages["ingest"] / REJECTED, ids, "id", "reason")}
    removed = {row["id"]: row for row in _among(stages["clean"] / REMOVED, ids, "id", "filter", "reason", "matched_id")}
    encoded = json.loads((stages["encode"] / EXCLUDED).read_text(encoding="utf-8")).get("pool", {})
    scored = {row["id"] for row in _among(stages["scores"] / ROWS, ids, "id")}
    unscored = _without_gradient(stages.get("gradients"))
    found = {name: Fate("absent") for name in ids} | {name: Fate("rejected", why) for name, why in rejected.items()}
    for name in (row["id"] for row in there):
        if name in removed:
            found[name] = Fate("removed", _by_filter(removed[name]))
        elif name in encoded:
            found[name] = Fate("not encoded", encoded[name])
        elif name in scored:
            found[name] = Fate("scored")
        else:
            found[name] = Fate("not scored", unscored.get(name, "it has no finite gradient or no text to compare"))
    return found


def rewritten(before: Path, now: Path, ids: Collection[str]) -> list[str]:
    """Of the rows that both cleaned pools hold, those whose conversation is another, sorted."""
    then = {row["id"]: row["messages"] for row in _among(before / POOL, ids, "id", "messages")}
    rows = _among(now / POOL, ids, "id", "messages")
    return sorted(row["id"] for row in rows if row["id"] in then and row["messages"] != then[row["id"]])


def gaps(method: str, scored: Path, selected: Path, ids: Sequence[str]) -> dict[str, Gap]:
    """What each of these scored rows would have added, as `left_out` knows it."""
    return {name: Gap(each.gap, each.last) for name, each in left_out(method, scored, selected, ids).items()}


def _among(path: Path, ids: Collection[str], *columns: str) -> list[dict[str, Any]]:
    return rows_with_ids(path, ids, columns).to_pylist()


def _by_filter(row: Mapping[str, Any]) -> str:
    beside = f", matching {row['matched_id']}" if row["matched_id"] else ""
    return f"{row['filter']}{beside}: {row['reason']}"


def _without_gradient(gradients: Path | None) -> dict[str, str]:
    if gradients is None or not (gradients / OUTCOME).is_file():
        return {}
    return {name: why for outcome in read_outcomes(gradients) for name, why in outcome.excluded.items()}
