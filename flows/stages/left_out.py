"""What rows that a selection left out would have added at its end, from what the stages stored."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from curate.scores import read_scores
from curate.selection.explain import why_not_rows
from curate.selection.normalise import SelectionWarning, usable
from flows.stages.analysis import read_selection

EXPLAINED = "bids"  # the one method whose end can be asked about a row that it left out


class LeftOut(NamedTuple):
    """What a row would have added at the end of a BIDS selection, what the last row added, and the target that the row
    would have served."""

    gap: float
    last: float
    target: str


def left_out(method: str, scored: Path, selected: Path, ids: Sequence[str]) -> dict[str, LeftOut]:
    """What each of these rows would have added; empty for a method that cannot be asked. Rows or whole targets that the
    scores leave out are left out here. scored, selected: folders of the stages."""
    if method != EXPLAINED or not ids:
        return {}
    matrix = read_scores(scored)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SelectionWarning)  # the select stage has warned of what it left out
        view = usable(matrix.values)
    rows = {matrix.row_ids[row]: int(row) for row in view.rows}
    asked = [name for name in ids if name in rows]
    if not asked:
        return {}
    found = why_not_rows(view, read_selection(selected, matrix), [rows[name] for name in asked])
    return {
        name: LeftOut(why.gap, why.last_utility, matrix.column_ids[why.target])
        for name, why in zip(asked, found, strict=True)
    }
