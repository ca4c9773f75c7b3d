"""What became of a scored row: selected by which methods and why, or why not; exported where; drawn how often."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from curate.export.lineage import LINEAGE
from curate.selection.explain.reasons import RESERVED_COLUMNS
from flows.lineage.ends import methods
from flows.lineage.event import Event, rows_with
from flows.naming import FINETUNE
from flows.runs import Run
from flows.stages.export import DATASET
from flows.stages.left_out import EXPLAINED, left_out
from flows.stages.selection import SELECTION
from train.settings import MIXTURE_LOG


class Chosen:
    """One row in the selections of a run. by: the methods that took it, once `events` has run."""

    def __init__(self, run: Run, row: str, source: str):
        self._run, self._id, self._source = run, row, source
        self.by: list[str] = []

    def events(self) -> Iterator[Event]:
        yield from self._selected()
        yield from self._exported()
        yield from self._trained()

    def _selected(self) -> Iterator[Event]:
        for method, stage in methods(self._run).items():
            path = self._run.stage(stage) / SELECTION
            for row in rows_with(path, "id", self._id):
                self.by.append(method)
                won = f", for target {row['target']} ({row['task']})" if row["target"] else ""
                worth = f", utility {row['utility']:+.4f}" if row["utility"] is not None else ""
                facts = {name: row[name] for name in ("rank", "utility", "target", "task")}
                facts |= {"influence": {name: value for name, value in row.items() if name not in RESERVED_COLUMNS}}
                yield Event(stage, f"selected at rank {row['rank'] + 1}{won}{worth}", facts)
            if method not in self.by:
                yield self._left_out(method, stage, path)

    def _left_out(self, method: str, stage: str, path: Path) -> Event:
        chosen = pq.read_table(path, columns=["id", "utility"]).to_pydict()
        told = f"not among the {len(chosen['id'])} selected"
        if method == EXPLAINED and (found := left_out(method, self._run.stage("attribution"), path.parent, [self._id])):
            gap, last, target = found[self._id]
            told += f": at the end it would have added {gap:+.4f} (for target {target}), the last row added {last:+.4f}"
            return Event(stage, told, {"selected": False, "gap": gap, "last_utility": last, "target": target})
        least = next((value for value in reversed(chosen["utility"]) if value is not None), None)
        told += f"; the last has utility {least:+.4f}" if least is not None else ""
        return Event(stage, told, {"selected": False, "last_utility": least})

    def _exported(self) -> Iterator[Event]:
        for stage in (f"export-{method}" for method in self.by):
            if stage in self._run.stages:
                dataset = self._run.stage(stage) / DATASET
                for line in rows_with(dataset / LINEAGE, "id", self._id):
                    file = dataset / line["shard"]
                    facts = {"file": str(file), "row": line["shard_row"]}
                    yield Event(stage, f"exported to {file}, row {line['shard_row']} (from 0)", facts)

    def _trained(self) -> Iterator[Event]:
        """What the step logs tell: passes over the row's source, in each of which every row comes once, and the steps
        that left the row out."""
        for stage in self._run.stages:
            if not stage.startswith(FINETUNE):
                continue
            if stage.removeprefix(FINETUNE).partition("-seed")[0] not in self.by:
                continue
            path = self._run.stage(stage) / MIXTURE_LOG
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
            steps = list(map(json.loads, lines))
            passes = steps[-1]["epochs"].get(self._source) if steps else None
            if passes is None:
                yield Event(stage, "in the training set; the log does not tell how often it was drawn")
                continue
            least, most = math.floor(passes + 1e-9), math.ceil(passes - 1e-9)
            often = f"{least}" if least == most else f"{least} or {most}"
            left = [step["step"] for step in steps if self._id in step["excluded"]]
            without = f"; left out of {len(left)} steps, its loss was not finite" if left else ""
            told = f"drawn {often} times ({passes:.2f} passes over source {self._source}){without}"
            yield Event(stage, told, {"passes": passes, "drawn": [least, most], "left_out_of_steps": left})
