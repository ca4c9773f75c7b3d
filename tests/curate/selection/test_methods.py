"""Every baseline on the worked example and against explicit row scores."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from curate.selection import METHODS, SelectionError, SelectionWarning
from tests.reference.baselines import best_rows, equal_quota_order, less_scores, max_scores, sum_scores
from tests.reference.bids import z_scores

EXAMPLE = np.array([[4, 0, 1], [3, 1, 0], [0, 5, 2], [1, 2, 9], [2, 6, 3], [1, 1, 1]], dtype=np.float64)
TASKS = [0, 0, 1]


@pytest.mark.filterwarnings("ignore:unequal columns")
@pytest.mark.parametrize(
    ("method", "order", "target"),
    [
        ("less", [3, 4, 2, 0, 1, 5], [2, 1, 1, 0, 0, 0]),
        ("sum", [3, 4, 2, 0, 1, 5], [2, 1, 1, 0, 0, 0]),
        ("instance_max", [3, 4, 2, 0, 1, 5], [2, 1, 1, 0, 0, 0]),
        ("instance_max_normalized", [3, 0, 4, 2, 1, 5], [2, 0, 1, 1, 0, 2]),
        ("weakest_first", [0, 4, 3, 2, 1, 5], None),
        ("equal_quota", [4, 3, 2, 0, 1, 5], None),
        ("rds", [3, 4, 2, 0, 1, 5], [2, 1, 1, 0, 0, 0]),
    ],
)
def test_worked_example(method, order, target):
    selection = METHODS[method](EXAMPLE, 6, tasks=TASKS)
    assert selection.order.tolist() == order
    if target is not None:
        assert selection.target.tolist() == target
    assert METHODS[method](EXAMPLE, 3, tasks=TASKS).order.tolist() == order[:3]


def test_less_scores_of_the_worked_example():
    selection = METHODS["less"](EXAMPLE, 6, tasks=TASKS)
    assert dict(zip(selection.order.tolist(), selection.utility.tolist(), strict=True)) == {
        0: 2,
        1: 2,
        2: 2.5,
        3: 9,
        4: 4,
        5: 1,
    }


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(2, 12), st.integers(1, 3))
def test_like_explicit_scores(data, rows, columns_per_task):
    # Small integers keep every sum exact, so that the order of addition cannot matter.
    A = data.draw(hnp.arrays(np.float64, (rows, 2 * columns_per_task), elements=st.integers(-3, 3)))
    A[0], A[1] = 5.0, 6.0  # no constant column
    tasks, budget = ["a", "b"] * columns_per_task, data.draw(st.integers(0, rows))
    expected = {
        "less": best_rows(less_scores(A, tasks), budget),
        "sum": best_rows(sum_scores(A), budget),
        "instance_max": best_rows(max_scores(A), budget),
        "rds": best_rows(max_scores(A), budget),
        "instance_max_normalized": best_rows(max_scores(z_scores(A)), budget),
        "equal_quota": equal_quota_order(A, tasks, budget),
    }
    for method, order in expected.items():
        assert METHODS[method](A, budget, tasks=tasks).order.tolist() == order, method


@pytest.mark.filterwarnings("ignore::curate.selection.SelectionWarning")
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_skips_bad_rows_and_columns_and_keeps_the_prefix(method):
    A = np.random.default_rng(0).normal(size=(30, 6))
    A[[4, 9], [1, 2]] = np.nan, np.inf
    A[:, 3] = 0.1
    tasks = ["a", "b"] * 3
    with pytest.warns(SelectionWarning, match=r"2 row\(s\) with NaN or infinity excluded: 4, 9"):
        whole = METHODS[method](A, 28, tasks=tasks, seed=3)
    assert sorted(whole.order.tolist()) == [row for row in range(30) if row not in (4, 9)]
    assert 3 not in whole.target
    assert (whole.excluded_rows, whole.dropped_columns) == ((4, 9), (3,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SelectionWarning)
        assert METHODS[method](A, 11, tasks=tasks, seed=3).order.tolist() == whole.order[:11].tolist()
        assert METHODS[method](A, 0, tasks=tasks).order.size == 0
        with pytest.raises(SelectionError, match="more than the 28 usable rows"):
            METHODS[method](A, 29, tasks=tasks)


def test_random_depends_on_the_seed_only():
    one, same, other = (METHODS["random"](EXAMPLE, 6, seed=seed).order.tolist() for seed in (1, 1, 2))
    assert one == same != other
    assert METHODS["random"](np.zeros((6, 2)) + np.arange(6)[:, None], 6, seed=1).order.tolist() == one


@pytest.mark.parametrize("method", ["less", "equal_quota"])
def test_task_methods_need_tasks(method):
    with pytest.raises(SelectionError, match="pass tasks="):
        METHODS[method](EXAMPLE, 2)
    with pytest.raises(SelectionError, match="2 labels for 3 columns"):
        METHODS[method](EXAMPLE, 2, tasks=["a", "b"])


def test_equal_quota_counts_differ_by_one():
    A = np.random.default_rng(1).normal(size=(50, 6))
    target = METHODS["equal_quota"](A, 20, tasks=list("aabbcc")).target
    assert sorted(np.bincount(target // 2).tolist()) == [6, 7, 7]


@pytest.mark.parametrize("scores", [np.zeros(3), np.array([["a"]]), np.zeros((2, 2, 2))])
def test_scores_that_are_no_matrix(scores):
    with pytest.raises(SelectionError, match="real"):
        METHODS["bids"](scores, 1)
