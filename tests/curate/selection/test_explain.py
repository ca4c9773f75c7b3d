"""What is said about a selection, by hand on the worked example."""

from __future__ import annotations

import math

import numpy as np
import pytest

from curate.selection import METHODS, SelectionError, bids
from curate.selection.explain import (
    average_influence,
    balance,
    imbalance_ratio,
    influence_by_source,
    near_misses,
    nearest_selected,
    selection_table,
    source_shares,
    strongest_tasks,
    utility_curve,
    why_not,
)
from curate.selection.explain.blocks import raw_blocks
from curate.selection.normalise import SelectionWarning, usable
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


def random_scores(rows=60, columns=8, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


@pytest.mark.parametrize("block_rows", [1, 7, 1000])
@pytest.mark.parametrize("order", [None, [5, 0, 59, 3], list(range(10, 30))])
def test_blocks_hold_the_rows_asked_for_in_their_order(block_rows, order):
    scores = random_scores()
    scores[4, 2] = np.nan
    scores[:, 6] = 1.0
    with pytest.warns(SelectionWarning):
        view = usable(scores)
    rows = [row for row in range(60) if row != 4] if order is None else order
    positions = None if order is None else np.searchsorted(view.rows, rows)
    blocks = [values for _, values in raw_blocks(view, positions, block_rows)]
    assert max(map(len, blocks)) <= block_rows
    assert np.array_equal(np.concatenate(blocks), np.delete(scores[rows].astype(np.float64), 6, axis=1))


def test_balance_counts_all_four_definitions_over_any_blocks(monkeypatch):
    scores, tasks = random_scores(), list("aabbbcca")
    Z, rows = z_scores(scores), np.array([3, 50, 7, 8, 21, 30])
    whole = balance(scores, rows, tasks)
    for X, thi in ((Z, whole.strongest_normalised), (scores.astype(np.float64), whole.strongest_raw)):
        for definition in ("instance", "task_mean"):
            counts = dict.fromkeys("abc", 0)
            for row in rows:
                means = {t: np.mean([X[row, j] for j in range(8) if tasks[j] == t]) for t in "abc"}
                by_instance = tasks[int(np.argmax(X[row]))]
                counts[by_instance if definition == "instance" else max(means, key=means.get)] += 1
            assert thi[definition] == counts
    monkeypatch.setattr("curate.selection.explain.blocks.BLOCK_BYTES", 8 * 8 * 2)
    blocked = balance(scores, rows, tasks)
    assert blocked.strongest_raw == whole.strongest_raw
    assert blocked.normalised.per_target == pytest.approx(whole.normalised.per_target, rel=1e-12)
    everything = balance(scores, None, tasks)
    assert everything.rows == 60
    assert everything.normalised.per_target == pytest.approx(np.zeros(8), abs=1e-12)


def test_influence_by_source_is_the_mean_of_the_columns_z_scores():
    scores, tasks = random_scores(), list("aabbbcca")
    sources = ["web", "code", "maths", "web"] * 15
    found = influence_by_source(scores, sources, tasks)
    Z = z_scores(scores)
    assert list(found) == ["web", "code", "maths"]
    for source, per_task in found.items():
        for task, value in per_task.items():
            cells = [Z[i, j] for i in range(60) for j in range(8) if sources[i] == source and tasks[j] == task]
            assert value == pytest.approx(sum(cells) / len(cells), rel=1e-10)


def test_a_source_without_a_usable_row_is_left_out():
    scores = random_scores(rows=4)
    scores[2] = np.nan
    with pytest.warns(SelectionWarning):
        assert list(influence_by_source(scores, ["a", "a", "b", "a"], ["t"] * 8)) == ["a"]
    with pytest.raises(SelectionError, match="3 sources for 4 rows"):
        influence_by_source(random_scores(rows=4), ["a"] * 3, ["t"] * 8)


def test_near_misses_are_the_largest_gaps_of_the_rows_left_out():
    scores = random_scores()
    selection = bids(scores, 10)
    mean = z_scores(scores)[selection.order].mean(axis=0)
    gaps = {row: (z_scores(scores)[row] - mean).max() for row in range(60) if row not in selection.order}
    expected = sorted(gaps, key=lambda row: -gaps[row])[:5]
    found = near_misses(scores, selection, 5)
    assert [miss.row for miss in found] == expected
    assert [miss.gap for miss in found] == pytest.approx([gaps[row] for row in expected], rel=1e-12)
    assert [miss.target for miss in found] == [why_not(scores, selection, row).target for row in expected]
    assert len(near_misses(scores, bids(scores, 58), 5)) == 2
    with pytest.raises(SelectionError, match="empty"):
        near_misses(scores, bids(scores, 0))


def test_nearest_selected_are_the_largest_cosines():
    scores, order = random_scores(), np.array([3, 50, 7, 8, 21, 30])
    found = nearest_selected(order, scores, k=2)
    units = z_scores(scores)[order]
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    for place, (rows, similarity) in enumerate(zip(found.rows, found.similarity, strict=True)):
        cosines = {row: float(units[place] @ units[k]) for k, row in enumerate(order.tolist()) if k != place}
        assert rows.tolist() == sorted(cosines, key=lambda row: -cosines[row])[:2]
        assert similarity == pytest.approx([cosines[row] for row in rows.tolist()], abs=1e-5)  # float32
    features = np.eye(60)[:, ::-1] + 1
    assert nearest_selected(order, features=features, k=9).rows.shape == (6, 5)
    assert nearest_selected(order[:1], scores).rows.shape == (1, 0)


def test_a_row_is_never_its_own_neighbour_even_among_equal_rows():
    scores = np.repeat(random_scores(rows=2), 6, axis=0)
    order = np.arange(12)
    found = nearest_selected(order, scores, k=3)
    assert not (found.rows == order[:, None]).any()
    assert found.similarity == pytest.approx(np.ones((12, 3)), abs=1e-6)
    with pytest.raises(SelectionError, match="either scores or features"):
        nearest_selected(order, scores, features=scores)
    with pytest.raises(SelectionError, match="NaN"):
        nearest_selected(order, features=np.full((12, 2), np.nan))


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
