"""What selections are made of and how alike they are: rows in common, what chance would give, what came and went.

Two selections of 10 % of a pool share 10 % of their rows even if drawn blindly, so an overlap is told beside its
expectation: a * b / N rows for draws of a and b from the N rows that both could select. Rows are the same where their
ids are. Cost: a set operation per pair of arms, source and task; nothing is copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

from flows.comparison.read import ArmData, RunData
from flows.comparison.values import Change, Measured, Overlap, Part, RowOf, Scope, SelectedArm

SHOWN_ROWS = 10


def selected_arms(runs: Sequence[RunData]) -> list[SelectedArm]:
    """What every arm is made of; sources and tasks by their number of rows."""
    found = []
    for run in runs:
        pool = Counter(run.sources.values())
        for arm in run.arms:
            sources = Counter(row.source for row in arm.rows)
            tasks = Counter(row.task for row in arm.rows if row.task is not None)
            tokens = run.tokens
            found.append(
                SelectedArm(
                    label=arm.label,
                    run=run.label,
                    method=arm.method,
                    rows=len(arm.rows),
                    tokens=None if tokens is None else sum(tokens[row.id] for row in arm.rows),
                    sources=_parts(sources, len(arm.rows), pool),
                    tasks=_parts(tasks, len(arm.rows)),
                )
            )
    return found


def measured(runs: Sequence[RunData]) -> list[Measured]:
    """Quality, diversity and complexity of every pool and arm, as each run measured them."""
    return [
        Measured(label=f"{run.label}:{group}", figure=figure, value=value, low=low, high=high)
        for run in runs
        for figure, groups in run.figures.get("figures", {}).items()
        for group, (value, low, high) in groups.items()
    ]


def overlaps(runs: Sequence[RunData]) -> list[Overlap]:
    """Of every pair of arms: over all rows, per source, and per winning task where both have one."""
    arms = [(run, arm) for run in runs for arm in run.arms]
    pools: dict[tuple[int, int], tuple[frozenset[str], Counter[str]]] = {}
    found = []
    for (one, first), (_, second) in combinations(arms, 2):
        key = id(first.eligible), id(second.eligible)
        if key not in pools:
            common = first.eligible & second.eligible
            pools[key] = common, Counter(one.sources[row] for row in common)
        found += _of_pair(first, second, *pools[key])
    return found


def changes(runs: Sequence[RunData]) -> list[Change]:
    """From the first run to each other, for the methods that both have."""
    first, *others = runs
    found = []
    for run in others:
        ours = {arm.method: arm for arm in run.arms}
        for before in first.arms:
            if (after := ours.get(before.method)) is not None:
                old, new = {row.id for row in before.rows}, {row.id for row in after.rows}
                added = [row for row in after.rows if row.id not in old]
                dropped = [row for row in before.rows if row.id not in new]
                found.append(
                    Change(
                        method=before.method,
                        first=before.label,
                        other=after.label,
                        kept=len(old & new),
                        added_rows=len(added),
                        dropped_rows=len(dropped),
                        added=tuple(added[:SHOWN_ROWS]),
                        dropped=tuple(dropped[:SHOWN_ROWS]),
                    )
                )
    return found


def _of_pair(first: ArmData, second: ArmData, common: frozenset[str], by_source: Mapping[str, int]) -> list[Overlap]:
    def overlap(scope: Scope, name: str, a: set[str], b: set[str], pool: int) -> Overlap:
        either = len(a | b)
        both = len(a & b)
        return Overlap(
            first=first.label,
            second=second.label,
            scope=scope,
            name=name,
            first_rows=len(a),
            second_rows=len(b),
            common=both,
            jaccard=both / either if either else None,
            expected=len(a & common) * len(b & common) / pool if pool else 0.0,
        )

    found = [overlap("all", "", {r.id for r in first.rows}, {r.id for r in second.rows}, len(common))]
    ours, theirs = (_grouped(arm.rows, "source") for arm in (first, second))
    for name in dict.fromkeys([*ours, *theirs]):
        found.append(overlap("source", name, ours.get(name, set()), theirs.get(name, set()), by_source.get(name, 0)))
    ours, theirs = (_grouped(arm.rows, "task") for arm in (first, second))
    if ours and theirs:
        for name in dict.fromkeys([*ours, *theirs]):
            found.append(overlap("task", name, ours.get(name, set()), theirs.get(name, set()), len(common)))
    return found


def _grouped(rows: Sequence[RowOf], by: str) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = {}
    for row in rows:
        if (name := getattr(row, by)) is not None:
            groups.setdefault(name, set()).add(row.id)
    return groups


def _parts(counts: Mapping[str, int], rows: int, pool: Mapping[str, int] | None = None) -> tuple[Part, ...]:
    whole = sum(pool.values()) if pool else 0
    names = sorted({*counts, *(pool or {})}, key=lambda name: (-counts.get(name, 0), name))
    return tuple(
        Part(
            name=name,
            rows=counts.get(name, 0),
            share=counts.get(name, 0) / rows if rows else 0.0,
            pool=pool.get(name, 0) / whole if pool else None,
        )
        for name in names
    )
