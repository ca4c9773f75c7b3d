"""What a growing budget brings, against loops over the definitions, and where more of it stops helping."""

from __future__ import annotations

import numpy as np
import pytest

from curate.selection import METHODS, SelectionError, bids
from curate.selection.explain import coverage, suggested_budget, top_rows
from tests.reference.baselines import best_rows
from tests.reference.bids import z_scores

TASKS = list("aabbbcca")


def random_scores(rows=200, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)


def test_top_rows_are_each_column_s_best():
    scores = np.round(random_scores(), 1)  # with ties
    tops = top_rows(scores, share=0.03)
    Z = z_scores(scores)
    assert tops.tolist() == [best_rows(list(column), 6) for column in Z.T]
    assert top_rows(scores[:20]).shape == (8, 1)


@pytest.mark.parametrize("block_rows", [3, 1000])
def test_coverage_is_what_its_definitions_say(monkeypatch, block_rows):
    monkeypatch.setattr("curate.selection.explain.blocks.BLOCK_BYTES", 8 * 8 * block_rows)
    scores = random_scores()
    order, Z = bids(scores, 40).order, z_scores(scores)
    tops = top_rows(scores, share=0.05)
    found = coverage(scores, order, TASKS, tops=tops, points=9)
    assert found.tasks == ["a", "b", "c"]
    assert found.budgets[0] == 1 and found.budgets[-1] == 40 and len(found.budgets) == 9
    for place, budget in enumerate(found.budgets):
        chosen = set(order[:budget].tolist())
        for number, task in enumerate(found.tasks):
            columns = [j for j, label in enumerate(TASKS) if label == task]
            hits = [len(chosen & set(tops[j].tolist())) / tops.shape[1] for j in columns]
            assert found.recall[place, number] == pytest.approx(np.mean(hits))
            assert found.reached[place, number] == pytest.approx(np.mean([hit > 0 for hit in hits]))
            influence = np.mean([Z[order[:budget], j].mean() for j in columns])
            assert found.influence[place, number] == pytest.approx(influence, rel=1e-10, abs=1e-12)


def test_coverage_of_everything_is_complete():
    scores = random_scores(rows=50)
    found = coverage(scores, np.arange(50), TASKS)
    assert found.recall[-1].tolist() == found.reached[-1].tolist() == [1, 1, 1]
    assert found.influence[-1] == pytest.approx(np.zeros(3), abs=1e-12)
    assert (np.diff(found.recall, axis=0) >= 0).all()
    with pytest.raises(SelectionError, match="no rows"):
        coverage(scores, np.array([], dtype=int), TASKS)
    with pytest.raises(SelectionError, match="7 labels for 8 columns"):
        coverage(scores, np.arange(5), TASKS[:7])


@pytest.mark.parametrize(("pool", "window"), [(100, 21), (3200, 33), (10_000, 101)])
def test_the_suggestion_is_where_the_utility_has_halved(pool, window):
    utility = np.linspace(10, 0, 1001)
    start = np.median(utility[:window])
    found = suggested_budget(utility, pool)
    assert found.start == start
    latest = [np.median(utility[end - window : end]) for end in (found.rows, found.rows + 1)]
    assert latest[0] >= start / 2 > latest[1]


def test_the_suggestion_does_not_move_with_the_budget():
    utility = bids(random_scores(rows=800, seed=3), 800).utility
    found = suggested_budget(utility, 800)
    assert 0 < found.rows < 700
    for size in (found.rows + 1, found.rows + 50, 800):
        assert suggested_budget(utility[:size], 800).rows == found.rows
    shorter = suggested_budget(utility[: found.rows], 800)
    assert shorter.rows is None and "each adds more than 50%" in shorter.reason


def test_one_outlier_moves_no_suggestion():
    utility = np.linspace(10, 0, 1001)
    spiked = utility.copy()
    spiked[0], spiked[200] = 500, -500
    assert suggested_budget(spiked, 1001).rows == pytest.approx(suggested_budget(utility, 1001).rows, abs=2)


def test_nothing_is_suggested_without_ground():
    scores = random_scores()
    assert "no utility" in suggested_budget(METHODS["random"](scores, 100).utility, 200).reason
    assert "fewer than 42 picks" in suggested_budget(np.ones(41), 200).reason
    assert "no positive utility" in suggested_budget(-np.ones(100), 200).reason
    assert suggested_budget(np.ones(100), 200).rows is None
