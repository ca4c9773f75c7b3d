"""What a person demands of a selection beside its budget, as one small object that every method takes.

    fifth_of_code = Constraints(sources=labels, limits={"code": SourceLimit(min=0.2)})
    METHODS[name](scores, TokenBudget(500_000, lengths), constraints=fifth_of_code)

A budget in tokens; a minimum and maximum per source; rows that must or must not be in; at most k rows of a cluster of
near-duplicates. How they are kept is `ledger`; what cannot be satisfied is found by `conflicts` before any pick.
Limits: a demand for tokens (a share of a token budget) is met by whole rows, shortest first, so a set of demands that
only one combination of rows fulfils may be refused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from curate.selection.normalise import ScoreView, SelectionError, resolve_budget, rows_to_select
from train.names import nearest


@dataclass(frozen=True, eq=False)
class TokenBudget:
    """A budget in tokens. limit: tokens, or a fraction of the sum of `lengths`; lengths: (N,) tokens of every row.

    A row that does not fit is skipped and shorter ones after it may still fit; the selection ends when none does.
    """

    limit: int | float
    lengths: Sequence[int] | np.ndarray


Budget = int | float | TokenBudget


@dataclass(frozen=True, slots=True)
class SourceLimit:
    """Least and most of one source: an integer counts rows, a float from 0 to 1 is a share of the budget (of its
    tokens, if it is one of tokens). max=None: no maximum."""

    min: int | float = 0
    max: int | float | None = None


@dataclass(frozen=True, eq=False)
class Constraints:
    """include, exclude: row indices into `scores`; the former are the first picks, in row order. sources: (N,) labels
    that `limits` speaks of. clusters: (N,) labels of near-duplicates, equal for rows of one cluster."""

    include: Sequence[int] | np.ndarray = ()
    exclude: Sequence[int] | np.ndarray = ()
    sources: Sequence[str] | None = None
    limits: Mapping[str, SourceLimit] = field(default_factory=dict)
    clusters: Sequence[int] | np.ndarray | None = None
    max_per_cluster: int | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """A `SourceLimit` in rows and in units of the budget."""

    name: str
    min_rows: int
    max_rows: int
    min_weight: int
    max_weight: int


@dataclass(frozen=True, eq=False)
class Terms:
    """Budget and constraints over the n usable rows of a view, by position.

    size: most rows a selection can have; capacity: the budget in `unit` ("rows" or "tokens"); weight: (n,) int64 of
    each row in that unit. include: ascending positions. allowed: (n,) bool, not excluded. source: (n,) index into
    `bounds`. cluster: (n,) labels from 0 on, of which at most `cap` rows each, or None without such a cap.
    """

    size: int
    capacity: int
    unit: str
    weight: np.ndarray
    include: np.ndarray
    allowed: np.ndarray
    source: np.ndarray
    bounds: list[Bounds]
    cluster: np.ndarray | None
    cap: int
    rows: np.ndarray


def rows_of(ids: Sequence[str], wanted: Sequence[str], what: str) -> np.ndarray:
    """Ascending rows of the wanted ids. Raises `SelectionError` for ids that are unknown or listed twice."""
    if repeated := [name for name, count in Counter(wanted).items() if count > 1]:
        raise SelectionError(f"{what}: {len(repeated)} id(s) listed twice, the first {repeated[0]!r}; list each once")
    places = {name: row for row, name in enumerate(ids)}
    if len(places) != len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise SelectionError(f"row id {twice!r} occurs more than once among the scored rows; ids must be unique")
    if unknown := [name for name in wanted if name not in places]:
        raise SelectionError(
            f"{what}: {len(unknown)} of {len(wanted)} ids are not among the {len(ids)} scored rows, the first "
            f"{unknown[0]!r}{nearest(unknown[0], list(places)[:5000])}"
        )
    return np.array(sorted(places[name] for name in wanted), dtype=np.int64)


def resolve(view: ScoreView, budget: Budget, constraints: Constraints) -> Terms:
    """Budget and constraints in terms of the view. Raises `SelectionError` for what is malformed."""
    n_rows, n = view.scores.shape[0], view.rows.size
    if isinstance(budget, TokenBudget):
        lengths = _per_row(budget.lengths, n_rows, "token lengths")
        if lengths.dtype.kind not in "iu" or (lengths < 1).any():
            raise SelectionError("token lengths must be whole numbers of at least 1, one per row of scores")
        capacity, unit = resolve_budget(budget.limit, int(lengths.sum())), "tokens"
        weight = lengths[view.rows].astype(np.int64)
        size = int(np.searchsorted(np.cumsum(np.sort(weight)), capacity, side="right"))
    else:
        capacity = size = rows_to_select(budget, view)
        unit, weight = "rows", np.ones(n, dtype=np.int64)
    include = _rows(constraints.include, n_rows, "include")
    exclude = _rows(constraints.exclude, n_rows, "exclude")
    if (both := np.intersect1d(include, exclude)).size:
        raise SelectionError(f"row {both[0]} is in include and in exclude ({both.size} such rows); take it out of one")
    if (lost := np.setdiff1d(include, view.rows)).size:
        raise SelectionError(
            f"row {lost[0]} is in include, but its scores are not finite ({lost.size} such rows); take it out of "
            "include or score it again"
        )
    source, bounds = _sources(constraints, view, capacity, unit)
    cluster = None
    if constraints.max_per_cluster is not None:
        if constraints.clusters is None:
            raise SelectionError("max_per_cluster needs clusters=, one label per row of scores")
        if constraints.max_per_cluster < 1:
            raise SelectionError(f"max_per_cluster {constraints.max_per_cluster} must be at least 1")
        labels = _per_row(constraints.clusters, n_rows, "clusters")[view.rows]
        cluster = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return Terms(
        size=size,
        capacity=capacity,
        unit=unit,
        weight=weight,
        include=np.searchsorted(view.rows, include),
        allowed=~np.isin(view.rows, exclude),
        source=source,
        bounds=bounds,
        cluster=cluster,
        cap=constraints.max_per_cluster or 0,
        rows=view.rows,
    )


def _sources(constraints: Constraints, view: ScoreView, capacity: int, unit: str) -> tuple[np.ndarray, list[Bounds]]:
    """(n,) index of each row's bounds, and the bounds; the last ones are those of sources without a limit."""
    unlimited = Bounds("", 0, view.rows.size, 0, capacity)
    if not constraints.limits:
        return np.zeros(view.rows.size, dtype=np.int64), [unlimited]
    if constraints.sources is None:
        raise SelectionError("limits per source need sources=, one label per row of scores")
    labels = np.asarray(_per_row(constraints.sources, view.scores.shape[0], "sources"), dtype=object)
    known = set(labels.tolist())
    for name in constraints.limits:
        if name not in known:
            raise SelectionError(f"limits name the source {name!r}, which no row has{nearest(name, map(str, known))}")
    bounds = [_bounds(name, limit, capacity, unit, view.rows.size) for name, limit in constraints.limits.items()]
    index = {name: number for number, name in enumerate(constraints.limits)}
    source = np.array([index.get(label, len(bounds)) for label in labels[view.rows]], dtype=np.int64)
    return source, [*bounds, unlimited]


def _bounds(name: str, limit: SourceLimit, capacity: int, unit: str, n: int) -> Bounds:
    rows, weight = [0, n], [0, capacity]
    for end, value in enumerate((limit.min, limit.max)):
        if value is None:
            continue
        if isinstance(value, bool) or not 0 <= value <= (1 if isinstance(value, float) else math.inf):
            raise SelectionError(f"source {name!r}: {value} is neither a number of rows nor a share from 0.0 to 1.0")
        if isinstance(value, int | np.integer):
            rows[end] = min(int(value), n) if end else int(value)
        else:
            exact = Fraction(str(value)) * capacity  # the decimal that was written, as for a budget
            share = math.floor(exact) if end else math.ceil(exact)
            if unit == "rows":
                rows[end] = share
            else:
                weight[end] = share
    return Bounds(name, rows[0], rows[1], weight[0], weight[1])


def _per_row(values: Any, n_rows: int, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (n_rows,):
        raise SelectionError(f"{what}: {len(array)} values for {n_rows} rows of scores; give one per row")
    return array


def _rows(values: Any, n_rows: int, what: str) -> np.ndarray:
    """Ascending row indices; `SelectionError` if one is out of range or listed twice."""
    rows = np.asarray(values, dtype=np.int64)
    unique, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        raise SelectionError(f"{what}: row {unique[counts > 1][0]} is listed twice; list each row once")
    if unique.size and not (unique[0] >= 0 and unique[-1] < n_rows):
        bad = unique[0] if unique[0] < 0 else unique[-1]
        raise SelectionError(f"{what}: row {bad} is not among the {n_rows} rows of scores")
    return unique
