"""Cleans a pool file of any size in several processes: the filters of `steps`, a shard of rows at a time.

The filters fall into passes. In a pass every shard (a row group of the file) is read once by one process, loses what
the pool-wide filter before took, goes through the filters that judge rows alone, and is written; then the next
pool-wide filter's `sketch` of it is left beside it, and one process decides over the sketches of all. So memory holds a
shard per process, the sketches' keys and the list of the removed, never the pool; the shards are cut by the file, not
by the number of processes, so that number does not change the result. Filters with a model run in this process, since
each would load it. Scratch: twice the pool's bytes on disk, removed at the end.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.cleaning.balance import GroupRate, Split, group_rates
from curate.cleaning.contract import Changed, Gone, Reference, Removed, Step, Steps, check
from curate.cleaning.settings import CleaningSettings
from curate.cleaning.steps import Planned, languages_of, planned
from curate.records import POOL_SCHEMA, DataError, check_columns, examples_of, examples_table

SCRATCH = ".shards"
LANGUAGE = "language"
ROW_ID, ROW_SOURCE = "row id", "row source"


@dataclass(frozen=True)
class Shard:
    """A row group of a Parquet file."""

    path: str
    group: int


@dataclass(frozen=True)
class Task:
    """One shard in one pass: drop these ids, run the filters at places `start` to `stop` of the plan, sketch for the
    one at `stop` if there is one."""

    number: int
    shard: Shard
    dropped: tuple[str, ...]
    start: int
    stop: int
    folder: str


@dataclass
class Count:
    """What one filter did to one shard. groups: (grouping, group) -> rows of it seen, and removed."""

    seen: int = 0
    groups_seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    groups_removed: Counter[tuple[str, str]] = field(default_factory=Counter)
    removed: list[Removed] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)

    def add(self, other: Count) -> None:
        self.seen += other.seen
        self.groups_seen += other.groups_seen
        self.groups_removed += other.groups_removed
        self.removed += other.removed
        self.changed += other.changed


@dataclass(frozen=True)
class Done:
    """What came of a task: where the rows are now, and what each filter did, by its place in the plan."""

    shard: Shard
    counts: dict[int, Count]


Spread = Callable[[CleaningSettings, Sequence[Reference], Sequence[Task]], Iterable[Done]]


def clean_pool(
    pool: Path,
    output: Path,
    references: Sequence[Reference],
    settings: CleaningSettings,
    *,
    processes: int | None = None,
    spread: Spread | None = None,
) -> tuple[Steps, list[GroupRate]]:
    """Clean `pool` (as `records.ExampleWriter` leaves it) into `output`, with the result of `steps.run_filters`.

    processes: None for one per core; spread: runs the tasks of a pass elsewhere, in order, with `run_tasks`, where
    `output`'s folder is shared. Raises `DataError` when a process dies, and what the filters raise.
    """
    with pq.ParquetFile(pool) as file:
        check_columns(pool, file.schema_arrow.names)
        shards = [Shard(str(pool), number) for number in range(file.num_row_groups)]
    folder = output.parent / SCRATCH
    folder.mkdir()
    own = _Processes(processes or len(os.sched_getaffinity(0)))
    try:
        counts = _passes(shards, references, settings, folder, spread or own)
        steps = [
            Step(step.name, counts[k].seen, tuple(counts[k].removed), tuple(counts[k].changed))
            for k, step in enumerate(planned(settings, references, {}))
        ]
        _join(shards, output)
    finally:
        own.close()
        shutil.rmtree(folder, ignore_errors=True)
    splits = [
        Split(step.filter, by, _of(by, counts[k].groups_seen), _of(by, counts[k].groups_removed))
        for k, step in enumerate(steps)
        for by in settings.groupings
    ]
    return Steps(steps), group_rates(splits, ratio=settings.balance.ratio, alpha=settings.balance.alpha)


def _passes(
    shards: list[Shard], references: Sequence[Reference], settings: CleaningSettings, folder: Path, spread: Spread
) -> list[Count]:
    """Run all filters; `shards` is left with where the rows are. Returns a count per filter of the plan."""
    plan = planned(settings, references, {})
    counts = [Count() for _ in plan]
    alone = _Here()
    dropped: list[tuple[str, ...]] = [()] * len(shards)
    start = 0
    while start <= len(plan):
        stop = next((k for k in range(start, len(plan)) if plan[k].by_pool), len(plan))
        tasks = [Task(number, shard, dropped[number], start, stop, str(folder)) for number, shard in enumerate(shards)]
        run = alone if any(step.has_model for step in plan[start : stop + 1]) else spread
        for number, done in enumerate(run(settings, references, tasks)):
            if done.shard != shards[number] and Path(shards[number].path).parent == folder:
                Path(shards[number].path).unlink()
            shards[number] = done.shard
            for k, count in done.counts.items():
                counts[k].add(count)
        if stop < len(plan):
            decided = _decided(plan[stop], alone.step(settings, references, stop), len(shards), folder, counts[stop])
            dropped = decided
        start = stop + 1
    return counts


def _decided(step: Planned, run: Any, shards: int, folder: Path, count: Count) -> list[tuple[str, ...]]:
    """The pool-wide verdict: enters the removed rows in `count`; returns the ids that go, by shard."""
    sketches = [_read_sketch(folder, number) for number in range(shards)]
    rows = pa.concat_tables([sketch.select([ROW_ID, ROW_SOURCE]) for sketch in sketches]) if sketches else None
    gone: list[Gone] = sorted(run.decide(sketches)) if rows is not None and rows.num_rows else []
    if rows is None or not gone:
        return [()] * shards
    places = np.array([each.row for each in gone])
    if (np.diff(places) <= 0).any() or places[0] < 0 or places[-1] >= rows.num_rows:
        raise RuntimeError(f"filter {step.name}: removed a row twice, or one that it was not given")
    ids, sources = (rows[name].take(pa.array(places)).to_pylist() for name in (ROW_ID, ROW_SOURCE))
    matched = rows[ROW_ID].take(pa.array([max(each.match, 0) for each in gone])).to_pylist()
    count.removed += [
        Removed(row, source, step.name, each.reason, match if each.match >= 0 else "")
        for row, source, each, match in zip(ids, sources, gone, matched, strict=True)
    ]
    ends = np.searchsorted(places, np.cumsum([sketch.num_rows for sketch in sketches])).tolist()
    return [tuple(ids[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _join(shards: Sequence[Shard], output: Path) -> None:
    with pq.ParquetWriter(output, POOL_SCHEMA) as writer:
        for shard in shards:
            table = _read(shard).select(POOL_SCHEMA.names)
            if table.num_rows:
                writer.write_table(table)


def _of(by: str, counts: Counter[tuple[str, str]]) -> dict[str, int]:
    return {group: count for (grouping, group), count in counts.items() if grouping == by}


class _Worker:
    """The plan of a run in one process; filters are made when they are first used, and models let go after."""

    def __init__(self, settings: CleaningSettings, references: Sequence[Reference]):
        self._settings = settings
        self._languages: dict[str, str] = {}  # of the shard in hand
        self.plan = planned(settings, references, self._languages)
        self._made: dict[int, Any] = {}

    def step(self, place: int) -> Any:
        if place not in self._made:
            self._made = {k: made for k, made in self._made.items() if not self.plan[k].has_model}
            self._made[place] = self.plan[place].make()
        return self._made[place]

    def run(self, task: Task) -> Done:
        before = _read(task.shard)
        table = self._with_languages(before)
        counts: dict[int, Count] = {}
        if task.start:
            counts[task.start - 1] = self._count(table, set(task.dropped))
            if task.dropped:
                table = table.filter(pc.invert(pc.is_in(table["id"], pa.array(task.dropped, pa.string()))))
        sketched = task.stop < len(self.plan)
        if sketched or task.start < task.stop:
            table = self._rows(task, table, counts, sketched)
        if table is before:
            return Done(task.shard, counts)
        path = Path(task.folder) / f"{task.number:06}-{task.start:02}.parquet"
        pq.write_table(table, path, row_group_size=max(1, table.num_rows))
        return Done(Shard(str(path), 0), counts)

    def _rows(self, task: Task, table: pa.Table, counts: dict[int, Count], sketched: bool) -> pa.Table:
        """The table after the filters that judge rows alone; leaves the sketch of it."""
        examples = examples_of(table)
        altered = False
        for k in range(task.start, task.stop):
            run, given, gone, changed = self.step(k), examples, list[Removed](), list[Changed]()
            if hasattr(run, "edit"):
                examples, changed = run.edit(given)
            else:
                examples, gone = run(given)
            check(run.name, given, examples, gone, changed)
            ids = {row.id for row in gone}
            counts[k] = self._count(table, ids)
            counts[k].removed, counts[k].changed = gone, changed
            altered |= bool(changed)
            if ids:
                table = table.filter(pa.array([example.id not in ids for example in given], pa.bool_()))
        if altered:
            messages = examples_table(examples)["messages"]
            table = table.set_column(table.schema.get_field_index("messages"), "messages", messages)
        if sketched:
            sketch = self.step(task.stop).sketch(examples)
            sketch = sketch.append_column(ROW_ID, table["id"]).append_column(ROW_SOURCE, table["source"])
            _write_sketch(sketch, Path(task.folder), task.number)
        return table

    def _with_languages(self, table: pa.Table) -> pa.Table:
        self._languages.clear()
        if not self._settings.needs_languages:
            return table
        if LANGUAGE not in table.schema.names:
            found = languages_of(examples_of(table), self._settings)
            table = table.append_column(LANGUAGE, pa.array([found[row] for row in table["id"].to_pylist()]))
        self._languages.update(zip(table["id"].to_pylist(), table[LANGUAGE].to_pylist(), strict=True))
        return table

    def _count(self, table: pa.Table, gone: set[str]) -> Count:
        """How many rows of each group are there, and how many of them go."""
        count = Count(seen=table.num_rows)
        removed = table.filter(pc.is_in(table["id"], pa.array(gone, pa.string()))) if gone else table.slice(0, 0)
        for by in self._settings.groupings:
            for rows, groups in ((table, count.groups_seen), (removed, count.groups_removed)):
                for each in rows[by].value_counts().to_pylist():
                    groups[by, each["values"]] += each["counts"]
        return count


def run_tasks(settings: CleaningSettings, references: Sequence[Reference], tasks: Sequence[Task]) -> Iterator[Done]:
    """Tasks of one pass, for whoever spreads them. A task may be run again as long as nobody has seen its result."""
    return map(_Worker(settings, references).run, tasks)


class _Here:
    """Runs tasks in this process."""

    def __init__(self) -> None:
        self._worker: _Worker | None = None

    def __call__(
        self, settings: CleaningSettings, references: Sequence[Reference], tasks: Sequence[Task]
    ) -> Iterator[Done]:
        worker = self._made(settings, references)
        return map(worker.run, tasks)

    def step(self, settings: CleaningSettings, references: Sequence[Reference], place: int) -> Any:
        return self._made(settings, references).step(place)

    def _made(self, settings: CleaningSettings, references: Sequence[Reference]) -> _Worker:
        if self._worker is None:
            self._worker = _Worker(settings, references)
        return self._worker


class _Processes:
    """Runs tasks in `count` processes; in this one where there is only one task or process."""

    def __init__(self, count: int):
        self._count = count
        self._here = _Here()
        self._executor: ProcessPoolExecutor | None = None

    def __call__(
        self, settings: CleaningSettings, references: Sequence[Reference], tasks: Sequence[Task]
    ) -> Iterator[Done]:
        count = min(self._count, len(tasks))
        if count < 2:
            return self._here(settings, references, tasks)
        if self._executor is None:
            # spawned: a process forked from one with threads (Prefect, torch) may hang
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(count, context, _open, (settings, references))
        with _without_main():  # tasks are submitted, and so processes started, before `map` returns
            found = self._executor.map(_run, tasks)
        return _living(found)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Spawned processes import the main module again, which runs a script that lacks the usual guard a second time and
    costs the imports of one that has it; ours need nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _living(found: Iterator[Done]) -> Iterator[Done]:
    try:
        yield from found
    except BrokenExecutor as error:
        raise DataError(
            "a cleaning process died, most likely for want of memory; use fewer with data.processes"
        ) from error


_worker: _Worker | None = None


def _open(settings: CleaningSettings, references: Sequence[Reference]) -> None:
    global _worker
    _worker = _Worker(settings, references)


def _run(task: Task) -> Done:
    assert _worker is not None
    return _worker.run(task)


def _read(shard: Shard) -> pa.Table:
    with pq.ParquetFile(shard.path) as file:
        return file.read_row_group(shard.group) if file.num_row_groups else file.schema_arrow.empty_table()


def _write_sketch(sketch: pa.Table, folder: Path, number: int) -> None:
    with pa.OSFile(str(folder / f"{number:06}.arrow"), "wb") as sink, pa.ipc.new_file(sink, sketch.schema) as writer:
        writer.write_table(sketch.combine_chunks())


def _read_sketch(folder: Path, number: int) -> pa.Table:
    """Mapped: its pages are read when they are looked at."""
    return pa.ipc.open_file(pa.memory_map(str(folder / f"{number:06}.arrow"))).read_all()
