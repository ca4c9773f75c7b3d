"""DSIR and BM25 as selection methods: a draw by importance weight, and the best match on columns of one scale."""

from __future__ import annotations

import numpy as np
import pytest

from curate.selection import METHODS, SelectionError
from curate.selection.bm25 import bm25
from curate.selection.dsir import dsir
from curate.selection.inputs import INPUTS, POOLED

pytestmark = pytest.mark.filterwarnings("ignore::curate.selection.SelectionWarning")
DRAWS = 2000
WEIGHTS = np.array([1.0, 2.0, 3.0, 4.0])


def test_every_method_says_which_scores_it_reads():
    assert set(INPUTS) == set(METHODS)


def test_picks_are_drawn_without_replacement_by_weight():
    """The first two picks have the Plackett-Luce probabilities w_i / W * w_j / (W - w_i)."""
    scores = np.log(WEIGHTS)[:, None]
    counts = np.zeros((4, 4))
    for seed in range(DRAWS):
        counts[tuple(dsir(scores, 2, seed=seed).order)] += 1
    p = WEIGHTS / WEIGHTS.sum()
    expected = np.array([[p[i] * p[j] / (1 - p[i]) if i != j else 0.0 for j in range(4)] for i in range(4)])
    # four standard deviations of a share over 2,000 draws are at most 0.045
    np.testing.assert_allclose(counts / DRAWS, expected, atol=0.045)


def test_a_seed_gives_one_list_and_a_smaller_budget_a_prefix():
    scores = np.random.default_rng(0).normal(size=(200, 1))
    whole = dsir(scores, 200, seed=3)
    assert sorted(whole.order.tolist()) == list(range(200))
    assert np.array_equal(dsir(scores, 20, seed=3).order, whole.order[:20])
    assert not np.array_equal(dsir(scores, 20, seed=4).order, whole.order[:20])
    assert np.all(np.diff(whole.utility) <= 0)


def test_the_pooled_column_decides_wherever_it_stands():
    generator = np.random.default_rng(1)
    scores = generator.normal(size=(60, 3))
    alone = dsir(scores[:, [1]], 10, seed=5)
    pooled = dsir(scores, 10, seed=5, tasks=["math", POOLED, "code"])
    assert np.array_equal(pooled.order, alone.order) and set(pooled.target.tolist()) == {1}


def test_without_a_pooled_column_the_columns_are_a_mixture():
    scores = np.random.default_rng(2).normal(scale=3, size=(50, 4))
    mixed = dsir(scores, 50, seed=6, tasks=["a", "b", "c", "d"])
    single = dsir(np.log(np.exp(scores).mean(axis=1))[:, None], 50, seed=6)
    assert np.array_equal(mixed.order, single.order)
    np.testing.assert_allclose(mixed.utility, single.utility)
    assert np.array_equal(mixed.target, scores.argmax(axis=1)[mixed.order])


def test_a_constant_pooled_column_is_an_error():
    scores = np.random.default_rng(3).normal(size=(9, 2))
    scores[:, 1] = 1.0
    with pytest.raises(SelectionError, match=f"{POOLED} is constant"):
        dsir(scores, 3, tasks=["a", POOLED])


def test_an_excluded_row_does_not_change_the_draw_of_the_others():
    scores = np.random.default_rng(4).normal(size=(40, 1))
    with_gap = np.column_stack([scores, scores])
    with_gap[7, 1] = np.nan
    kept = [row for row in dsir(scores, 40, seed=1).order.tolist() if row != 7]
    assert dsir(with_gap, 39, seed=1, tasks=[POOLED, "a"]).order.tolist() == kept


def test_bm25_compares_targets_on_one_scale():
    """The second target is ten times as long; its scores say nothing more of the rows for that."""
    scores = np.array([[3.0, 10.0], [1.0, 12.0], [0.0, 30.0], [1.0, 11.0]])
    assert bm25(scores, 4).order.tolist()[:2] == METHODS["instance_max_normalized"](scores, 2).order.tolist()
    assert set(bm25(scores, 2).target.tolist()) == {0, 1}
    assert bm25(scores, 2, normalize=False).target.tolist() == [1, 1]
