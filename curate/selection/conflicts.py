"""Which two demands on a selection cannot both be met, with their numbers, found before the first pick.

Every check is a count over sources or clusters, O(n). What only appears when sources and clusters cross (a maximum
per source and a cap per cluster that together leave fewer rows than the budget) is reported at the end.
"""

from __future__ import annotations

import numpy as np

from curate.selection.constraints import Terms
from curate.selection.normalise import SelectionError


def check(terms: Terms) -> None:
    """Raises `SelectionError` for the first two demands that conflict."""
    included = np.bincount(terms.source[terms.include], minlength=len(terms.bounds))
    _must_includes(terms, included)
    _minima(terms, included)
    if terms.unit == "rows":
        _room(terms)


def reserve_conflict(terms: Terms, source: int, total: int) -> SelectionError:
    """Why the minimum of a source cannot be reserved, although its rows alone are enough."""
    bounds = terms.bounds[source]
    if total > terms.capacity:
        return SelectionError(
            f"{_minimum(terms, source)} and what must come in besides take {total} {terms.unit} in the shortest rows, "
            f"more than the budget of {terms.capacity}; lower a minimum or raise the budget"
        )
    if terms.cluster is None:
        return SelectionError(
            f"{_minimum(terms, source)} cannot be reached in whole rows below its maximum of "
            f"{bounds.max_rows} rows and {bounds.max_weight} {terms.unit}; move the two apart"
        )
    return SelectionError(
        f"{_minimum(terms, source)} conflicts with max_per_cluster {terms.cap}: its rows share near-duplicate clusters "
        "with each other and with rows that other minima or include need; raise the cap or lower a minimum"
    )


def shortfall(terms: Terms, count: int) -> SelectionError:
    """Fewer rows than the budget, although every demand alone leaves enough."""
    if terms.cluster is not None and len(terms.bounds) > 1:
        return SelectionError(
            f"the maxima per source and max_per_cluster {terms.cap} together end the selection at {count} rows of the "
            f"budget's {terms.size}; raise one of them or lower the budget"
        )
    return SelectionError(f"the constraints end the selection at {count} rows of the budget's {terms.size}")


def _must_includes(terms: Terms, included: np.ndarray) -> None:
    count, weight = terms.include.size, int(terms.weight[terms.include].sum())
    if weight > terms.capacity:
        raise SelectionError(
            f"the {count} rows of include take {weight} {terms.unit}, more than the budget of {terms.capacity}; raise "
            "the budget or include fewer"
        )
    for source, bounds in enumerate(terms.bounds):
        tokens = int(terms.weight[terms.include[terms.source[terms.include] == source]].sum())
        if included[source] > bounds.max_rows or tokens > bounds.max_weight:
            raise SelectionError(
                f"include holds {included[source]} rows of source {bounds.name!r} ({tokens} {terms.unit}), more than "
                f"its maximum of {_amount(bounds.max_rows, bounds.max_weight, terms)}; raise the maximum or include "
                "fewer"
            )
    if terms.cluster is not None and terms.include.size:
        counts = np.bincount(terms.cluster[terms.include])
        if (most := int(counts.max())) > terms.cap:
            rows = terms.rows[terms.include[terms.cluster[terms.include] == counts.argmax()]]
            raise SelectionError(
                f"include holds {most} rows of one near-duplicate cluster (rows {', '.join(map(str, rows[:5]))}), more "
                f"than max_per_cluster {terms.cap}; include fewer or raise the cap"
            )


def _minima(terms: Terms, included: np.ndarray) -> None:
    for source, bounds in enumerate(terms.bounds):
        if bounds.min_rows > bounds.max_rows or bounds.min_weight > bounds.max_weight:
            raise SelectionError(
                f"{_minimum(terms, source)} is more than its maximum of "
                f"{_amount(bounds.max_rows, bounds.max_weight, terms)}"
            )
        mine = terms.source == source
        free = mine & terms.allowed
        rows, weight = int(free.sum()), int(terms.weight[free].sum())
        if rows < bounds.min_rows or weight < bounds.min_weight:
            lost = int(mine.sum()) - rows
            raise SelectionError(
                f"{_minimum(terms, source)} is more than its {_amount(rows, weight, terms)} that can be used"
                + (f" ({lost} are in exclude)" if lost else "")
                + "; lower the minimum or add data"
            )
        if terms.cluster is not None:
            left = int(np.minimum(np.bincount(terms.cluster[free], minlength=1), terms.cap).sum())
            if left < bounds.min_rows:
                raise SelectionError(
                    f"{_minimum(terms, source)} is more than the {left} of its {rows} rows that max_per_cluster "
                    f"{terms.cap} leaves; lower the minimum or raise the cap"
                )
    if terms.unit == "rows":
        needed = [max(int(count), bounds.min_rows) for count, bounds in zip(included, terms.bounds, strict=True)]
        if sum(needed) > terms.capacity:
            minima = sum(bounds.min_rows for bounds in terms.bounds)
            raise SelectionError(
                f"the minima of the sources add up to {minima} rows, {sum(needed)} with the rows of include, more than "
                f"the budget of {terms.capacity}; lower a minimum or raise the budget"
            )


def _room(terms: Terms) -> None:
    """Whether the budget's rows are there at all: not excluded, below the maxima, below the cluster cap."""
    free = int(terms.allowed.sum())
    if free < terms.size:
        raise SelectionError(
            f"the budget of {terms.size} rows is more than the {free} that exclude leaves of {terms.allowed.size}; "
            "lower the budget or exclude fewer"
        )
    counts = np.bincount(terms.source[terms.allowed], minlength=len(terms.bounds))
    below = sum(min(int(count), bounds.max_rows) for count, bounds in zip(counts, terms.bounds, strict=True))
    if below < terms.size:
        raise SelectionError(
            f"the budget of {terms.size} rows is more than the {below} that the maxima of the sources allow; raise a "
            "maximum or lower the budget"
        )
    if terms.cluster is None:
        return
    left = int(np.minimum(np.bincount(terms.cluster[terms.allowed], minlength=1), terms.cap).sum())
    if left < terms.size:
        raise SelectionError(
            f"the budget of {terms.size} rows is more than the {left} that max_per_cluster {terms.cap} leaves; raise "
            "the cap or lower the budget"
        )


def _minimum(terms: Terms, source: int) -> str:
    bounds = terms.bounds[source]
    amount = f"{bounds.min_weight} {terms.unit}" if bounds.min_weight else f"{bounds.min_rows} rows"
    return f"the minimum of source {bounds.name!r}, {amount},"


def _amount(rows: int, weight: int, terms: Terms) -> str:
    return f"{rows} rows" if terms.unit == "rows" else f"{rows} rows or {weight} {terms.unit}"
