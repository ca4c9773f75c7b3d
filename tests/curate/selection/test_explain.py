"""What is said about a selection, by hand on the worked example."""

from __future__ import annotations

import math

import numpy as np
import pytest

from curate.selection import METHODS, SelectionError, bids
from curate.selection.explain import (
    average_influence,
    imbalance_ratio,
    selection_table,
    source_shares,
    strongest_tasks,
    utility_curve,
    why_not,
)
from tests.reference.bids import z_scores

EXAMPLE = np.array([[4, 0, 1], [3, 1, 0], [0, 5, 2], [1, 2, 9], [2, 6, 3], [1, 1, 1]], dtype=np.float64)
TASKS = ["x", "x", "y"]


def test_average_influence_raw_and_normalised():
    raw = average_influence(EXAMPLE, np.array([0, 3]), TASKS, normalize=False)
    assert raw.per_target.tolist() == [2.5, 1, 5]
    assert raw.per_task == {"x": 1.75, "y": 5}
    assert (raw.between_task_std, raw.lowest, raw.highest) == (1.625, 1, 5)
    normalised = average_influence(EXAMPLE, np.array([0, 3]), TASKS)
    assert normalised.per_target.tolist() == z_scores(EXAMPLE)[[0, 3]].mean(axis=0).tolist()


def test_strongest_tasks_by_both_definitions():
    rows = np.arange(6)
    assert strongest_tasks(EXAMPLE, rows, TASKS, normalize=False) == {"x": 5, "y": 1}
    # Z of row 5 is largest in column 2; raw task means are (2, 1) (2, 0) (2.5, 2) (1.5, 9) (4, 3) (1, 1).
    assert strongest_tasks(EXAMPLE, rows, TASKS) == {"x": 4, "y": 2}
    assert strongest_tasks(EXAMPLE, rows, TASKS, by="task_mean", normalize=False) == {"x": 5, "y": 1}
    assert imbalance_ratio({"x": 5, "y": 1}) == 5 and imbalance_ratio({"x": 5, "y": 0}) == math.inf


def test_source_shares_count_all_rows():
    shares = source_shares(["a", "b", "a", "b", "a", "c"], [1, 3, 0])
    assert [(share.source, share.pool, share.selected) for share in shares] == [("a", 3, 1), ("b", 2, 2), ("c", 1, 0)]
    assert sum(share.pool_share for share in shares) == pytest.approx(1)
    assert shares[1].selected_share == pytest.approx(2 / 3)


def test_utility_curve_keeps_both_ends():
    selection = bids(EXAMPLE, 6)
    assert utility_curve(selection) == list(zip(range(1, 7), selection.utility.tolist(), strict=True))
    assert [rank for rank, _ in utility_curve(selection, points=3)] == [1, 3, 6]
    assert utility_curve(bids(EXAMPLE, 0)) == []


def test_why_not():
    selection = bids(EXAMPLE, 3)
    answer = why_not(EXAMPLE, selection, 2)
    Z = z_scores(EXAMPLE)
    gaps = Z[2] - Z[[3, 0, 4]].mean(axis=0)
    assert (answer.target, answer.selected_at) == (1, None)
    assert answer.gap == pytest.approx(gaps.max(), rel=1e-15)
    assert answer.gap == pytest.approx(bids(EXAMPLE, 4).utility[3], rel=1e-12)  # row 2 is the next pick
    assert answer.last_utility == selection.utility[2]
    assert why_not(EXAMPLE, selection, 4).selected_at == 2
    with pytest.raises(SelectionError, match="row 9"):
        why_not(EXAMPLE, selection, 9)


def test_selection_table():
    names = {"ids": list("pqrstu"), "sources": ["web"] * 6, "targets": ["t0", "t1", "t2"], "tasks": TASKS}
    table = selection_table(bids(EXAMPLE, 2), EXAMPLE, **names)
    assert table.column_names == ["rank", "id", "source", "target", "task", "utility", "x", "y"]
    rows = table.to_pylist()
    assert [(row["rank"], row["id"], row["target"], row["task"]) for row in rows] == [
        (0, "s", "t2", "y"),
        (1, "p", "t0", "x"),
    ]
    assert [(row["x"], row["y"]) for row in rows] == [(1.5, 9), (2, 1)]
    drawn = selection_table(METHODS["random"](EXAMPLE, 2, seed=1), EXAMPLE, **names)
    assert drawn["utility"].null_count == drawn["target"].null_count == drawn["task"].null_count == 2
    with pytest.raises(SelectionError, match="rename the capability"):
        selection_table(bids(EXAMPLE, 2), EXAMPLE, **(names | {"tasks": ["x", "x", "id"]}))
