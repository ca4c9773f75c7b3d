"""Which rows left the selection and which entered it, each with the reason: a pure comparison of two nights.

A row leaves because it is gone, because something before the selection ended it, or because others are worth more; it
enters because it is new, because what had ended it no longer does, or because it is worth more than others now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flows.nightly.fates import Chosen, Fate, Gap
from flows.nightly.night import Entered, Left, SelectionChange


def compare_selections(
    before: Mapping[str, Chosen],
    now: Mapping[str, Chosen],
    *,
    fates_now: Mapping[str, Fate],
    fates_before: Mapping[str, Fate],
    gaps: Mapping[str, Gap] | None = None,
    rewritten: Sequence[str] = (),
) -> SelectionChange:
    """before, now: id -> place in the live and in tonight's selection; fates_now: of the rows that left, tonight;
    fates_before: of those that entered, on the night that is live; gaps: of the scored ones among the first."""
    last = min((each.utility for each in now.values() if each.utility is not None), default=None)
    return SelectionChange(
        rows=len(now),
        kept=len(before.keys() & now.keys()),
        added=tuple(
            _entered(name, each, fates_before.get(name, Fate("absent")))
            for name, each in sorted(now.items(), key=lambda row: row[1].rank)
            if name not in before
        ),
        dropped=tuple(
            _left(name, each, fates_now[name], (gaps or {}).get(name), last)
            for name, each in sorted(before.items(), key=lambda row: row[1].rank)
            if name not in now
        ),
        rewritten=tuple(rewritten),
    )


def _entered(name: str, row: Chosen, fate: Fate) -> Entered:
    utility = "" if row.utility is None else f", utility {row.utility:+.4f}"
    place = f"rank {row.rank + 1}{utility}"
    common: dict[str, Any] = {"id": name, "source": row.source, "rank": row.rank, "utility": row.utility}
    if fate.kind == "absent":
        return Entered(**common, why="new", told=f"new in the pool; {place}")
    if fate.kind == "scored":
        return Entered(**common, why="risen", told=f"was scored and not selected; now {place}")
    return Entered(**common, why="returned", told=f"was {fate.kind} ({fate.told}); now {place}")


def _left(name: str, row: Chosen, fate: Fate, gap: Gap | None, last: float | None) -> Left:
    common: dict[str, Any] = {"id": name, "source": row.source, "rank": row.rank, "utility": row.utility}
    if fate.kind == "absent":
        return Left(**common, why="vanished", told=f"no longer in the pool (source {row.source})")
    if fate.kind != "scored":
        return Left(**common, why=fate.kind, told=f"{fate.kind}: {fate.told}")
    was = f"was rank {row.rank + 1}" + ("" if row.utility is None else f" (utility {row.utility:+.4f})")
    if gap:
        told = f"outranked: {was}; now it would add {gap.gap:+.4f}, the last row adds {gap.last:+.4f}"
        return Left(**common, why="outranked", told=told, gap=gap.gap, last=gap.last)
    now = "" if last is None else f"; the least utility selected now is {last:+.4f}"
    return Left(**common, why="outranked", told=f"not among the selected: {was}{now}", last=last)
