"""The story of one row, stage by stage, from the files of a finished run.

Everything told was written by the stage it is told of; only why BIDS left a row out is computed, from the stored scores
(`why_not`). A stage that a run does not have, or whose large output is not here, is left out of the story.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from curate.cleaning.steps import CLEANING
from curate.influence.job import read_outcomes
from curate.scores import read_scores
from eval.leakage import read_leaks
from flows.config import ConfigError
from flows.lineage.chosen import Chosen
from flows.lineage.ends import (
    NOT_ENCODED,
    NOT_SCORED,
    NOT_SELECTED,
    REJECTED_END,
    REMOVED_END,
    SELECTED,
    STEERS,
    not_encoded,
    score_folders,
)
from flows.lineage.event import Event, rows_with, short
from flows.runs import Run
from flows.stages.data import CHANGED, POOL, REJECTED, REMOVED, TARGETS
from flows.stages.guard import LEAKS
from flows.stages.influence import SAMPLE

NEAREST, SEARCHED = 5, 50_000


@dataclass(frozen=True)
class Story:
    """kind: `pool row`, `target` or `rejected row`; text: the beginning of what it says; end: one of `ends`."""

    id: str
    kind: str
    origin: str
    text: str
    events: list[Event]
    end: str


def stories(run: Run, asked: str) -> list[Story]:
    """The story of every row that `asked` names: an id, or the `FILE:LINE` it was read from, where FILE may be the
    last part of the path. A pool row, a target and rejected rows may share an id. Raises `ConfigError` with the
    nearest ids when there is none."""
    ingested = run.stage("ingest")
    found = []
    for kind, file in (("pool row", POOL), ("target", TARGETS), ("rejected row", REJECTED)):
        for row in _find(ingested / file, asked):
            found.append(_Told(run, kind, row).story())
    if not found:
        raise ConfigError(f"run {run.name} read no row {asked!r}{_nearest(ingested, asked)}")
    return found


def _find(path: Path, asked: str) -> list[dict[str, Any]]:
    """The rows with this id, else those read there."""
    if by_id := pq.read_table(path, filters=[("id", "=", asked)]).to_pylist():
        return by_id
    file, _, line = asked.rpartition(":")
    if not file or not line.isdigit():
        return []
    origins = pq.read_table(path, columns=["origin"])["origin"].to_pylist()
    places = [name for name in origins if name == asked or name.endswith(f"/{asked}")]
    return pq.read_table(path, filters=[("origin", "in", places)]).to_pylist() if places else []


def _nearest(ingested: Path, asked: str) -> str:
    ids: list[str] = []
    for file in (POOL, TARGETS, REJECTED):
        ids += [name for name in pq.read_table(ingested / file, columns=["id"])["id"].to_pylist() if name]
    alike = [name for name in ids if abs(len(name) - len(asked)) <= 2] if len(ids) > SEARCHED else ids
    near = difflib.get_close_matches(asked, alike[:SEARCHED], n=NEAREST, cutoff=0.5)
    listed = f"; the nearest ids: {', '.join(near)}" if near else ""
    return f"{listed}. Ids are in {ingested / POOL}; a place is asked for as file:line"


class _Told:
    """One row, and the stages of a run asked about it in order; `end` is set by the first that ends it."""

    def __init__(self, run: Run, kind: str, row: dict[str, Any]):
        self.run, self.kind, self.row, self.id = run, kind, row, row["id"]
        self.end: str | None = None

    def story(self) -> Story:
        events = list(self._events())
        text = self.row.get("excerpt") or "\n".join(turn["content"] for turn in self.row.get("messages", ()))
        return Story(self.id, self.kind, self.row["origin"], short(text), events, str(self.end))

    def _events(self) -> Iterator[Event]:
        row = self.row
        if self.kind == "rejected row":
            self.end = REJECTED_END
            yield Event("ingest", f"rejected: {row['reason']}", {"reason": row["reason"]})
            return
        facts = {name: row[name] for name in ("source", "license", "domain", "capability") if row.get(name)}
        yield Event("ingest", "read: " + ", ".join(f"{name} {value}" for name, value in facts.items()), facts)
        if self.kind == "target":
            yield from self._guarded()
        else:
            yield from self._cleaned()
        if self.end is None:
            yield from self._encoded()
        if self.kind == "target":
            self.end = self.end or STEERS
        elif self.end is None:
            yield from self._warmed()
            yield from self._scored()
            chosen = Chosen(self.run, self.id, self.row["source"])
            yield from chosen.events()
            scored = any(rows_with(path, "id", self.id) for path in score_folders(self.run).values())
            self.end = SELECTED if chosen.by else NOT_SELECTED if scored else NOT_SCORED

    def _guarded(self) -> Iterator[Event]:
        if "guard" not in self.run.stages:
            return
        leaks = [leak for leak in read_leaks(self.run.stage("guard") / LEAKS) if leak.matched_id == self.id]
        for leak in leaks:
            facts = {"task": leak.task, "item": leak.item_id, "test": leak.test, "matched_text": leak.matched_text}
            told = f"overlaps {leak.task} item {leak.item_id}: {leak.test}: {leak.matched_text}"
            yield Event("guard", told, facts)
        if not leaks:
            yield Event("guard", "overlaps nothing that scores")

    def _cleaned(self) -> Iterator[Event]:
        folder = self.run.stage("clean")
        gone = next(iter(rows_with(folder / REMOVED, "id", self.id)), None)
        changed = rows_with(folder / CHANGED, "id", self.id)
        filters = [step["filter"] for step in json.loads((folder / CLEANING).read_text(encoding="utf-8"))["filters"]]
        for name in filters:
            edits = {each["what"]: each["places"] for each in changed if each["filter"] == name}
            if gone and gone["filter"] == name:
                facts = {"filter": name, "reason": gone["reason"], "matched_id": gone["matched_id"]}
                match = self._match(gone["matched_id"])
                facts |= {"matched_text": match} if match else {}
                beside = f"; it matches {gone['matched_id']}" if gone["matched_id"] else ""
                self.end = REMOVED_END
                yield Event(
                    "clean", f"removed by {name}: {gone['reason']}{beside}" + (f": {match}" if match else ""), facts
                )
                return
            if edits:
                listed = ", ".join(f"{count} {what}" for what, count in edits.items())
                yield Event("clean", f"changed by {name}: {listed} masked", {"filter": name, "changed": edits})
            else:
                yield Event("clean", f"passed {name}", {"filter": name})
        if copies := rows_with(folder / REMOVED, "matched_id", self.id):
            names = [each["id"] for each in copies]
            more = f" and {len(names) - NEAREST} more" if len(names) > NEAREST else ""
            told = f"{len(names)} rows were removed for being like it: {', '.join(names[:NEAREST])}{more}"
            yield Event("clean", told, {"removed_for_it": names})

    def _match(self, name: str) -> str:
        """The beginning of the pool row or target of that id; '' for an item, which the reason shows."""
        for file in (POOL, TARGETS) if name else ():
            for row in rows_with(self.run.stage("ingest") / file, "id", name):
                return short("\n".join(turn["content"] for turn in row["messages"]))
        return ""

    def _encoded(self) -> Iterator[Event]:
        part, file = ("targets", TARGETS) if self.kind == "target" else ("pool", POOL)
        if why := not_encoded(self.run)[part].get(self.id):
            self.end = NOT_ENCODED
            yield Event("encode", f"excluded: {why}", {"reason": why})
            return
        path = self.run.stage("encode") / file
        for row in rows_with(path, "id", self.id) if path.is_file() else ():
            labelled = sum(label != -100 for label in row["labels"])
            facts = {"tokens": len(row["input_ids"]), "labelled": labelled, "truncated": row["truncated"]}
            cut = ", cut at the right" if row["truncated"] else ""
            yield Event("encode", f"{facts['tokens']} tokens, {labelled} of them trained on{cut}", facts)

    def _warmed(self) -> Iterator[Event]:
        output = self.run.stages.get("warmup")
        path = output.path / SAMPLE if output else None
        if path and path.is_file():
            there = bool(rows_with(path, "id", self.id))
            yield Event("warmup", "in the sample" if there else "not in the sample", {"in_sample": there})

    def _scored(self) -> Iterator[Event]:
        for stage in score_folders(self.run):
            matrix = read_scores(self.run.stage(stage))
            if self.id not in matrix.row_ids:
                yield Event(stage, f"not scored: {self._why_unscored()}", {"scored": False})
                continue
            values = np.asarray(matrix.values[matrix.row_ids.index(self.id)], dtype=np.float64)
            by_task = {
                task: float(np.nanmean(values[[other == task for other in matrix.tasks]]))
                for task in dict.fromkeys(matrix.tasks)
            }
            best = int(np.nanargmax(values))
            listed = ", ".join(f"{task} {value:+.3f}" for task, value in by_task.items())
            told = f"mean per task: {listed}; largest {values[best]:+.3f} on target {matrix.column_ids[best]}"
            facts = {"by_task": by_task, "largest": float(values[best]), "largest_on": matrix.column_ids[best]}
            yield Event(stage, told, facts)

    def _why_unscored(self) -> str:
        output = self.run.stages.get("gradients")
        if output and output.path.is_dir():
            for outcome in read_outcomes(output.path):
                if self.id in outcome.excluded:
                    return outcome.excluded[self.id]
        return "it has no finite gradient or no text to compare"
