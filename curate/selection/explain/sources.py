"""Where the rows come from: rows per source before and after, and which source helps which task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.selection.explain.blocks import TaskColumns, open_view, z_blocks
from curate.selection.normalise import ScoreView, SelectionError


@dataclass(frozen=True)
class SourceShare:
    """Rows of one source in the pool and in the selection, with their shares of each (0 to 1)."""

    source: str
    pool: int
    selected: int
    pool_share: float
    selected_share: float


def source_shares(pool_sources: Sequence[str], rows: Iterable[int]) -> list[SourceShare]:
    """Per source its rows and share before and after, largest in the pool first, then by name."""
    chosen = [int(row) for row in rows]
    before, after = Counter(pool_sources), Counter(pool_sources[row] for row in chosen)
    return [
        SourceShare(source, count, after[source], count / len(pool_sources), after[source] / max(1, len(chosen)))
        for source, count in sorted(before.items(), key=lambda item: (-item[1], item[0]))
    ]


def influence_by_source(
    scores: np.ndarray | ScoreView, sources: Sequence[str], tasks: Sequence[Any]
) -> dict[str, dict[Any, float]]:
    """source -> task -> mean z-score of the source's usable rows on the task's targets.

    sources: (N,) of the rows, tasks: (M,) of the columns. Sources in order of first appearance; one without a usable
    row is left out. Every target has the same weight within its task. O(N * M), one pass.
    """
    view = open_view(scores)
    if len(sources) != view.scores.shape[0]:
        raise SelectionError(f"{len(sources)} sources for {view.scores.shape[0]} rows of scores; give one per row")
    columns = TaskColumns(view, tasks)
    names = list(dict.fromkeys(sources))
    number = {name: source for source, name in enumerate(names)}
    of_row = np.array([number[source] for source in sources], dtype=np.int64)[view.rows]
    sums = np.zeros((len(names), len(columns.names)))
    for part, values in z_blocks(view):
        np.add.at(sums, of_row[part], columns.means(values))
    counts = np.bincount(of_row, minlength=len(names))
    return {
        name: dict(zip(columns.names, (sums[source] / counts[source]).tolist(), strict=True))
        for source, name in enumerate(names)
        if counts[source]
    }
