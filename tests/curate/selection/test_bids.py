"""BIDS against the worked example of its specification and against the naive method, pick by pick."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from curate.selection import METHODS, SelectionError, SelectionWarning, bids
from tests.reference.bids import naive_bids, naive_weakest_first, z_scores

EXAMPLE = np.array([[4, 0, 1], [3, 1, 0], [0, 5, 2], [1, 2, 9], [2, 6, 3], [1, 1, 1]], dtype=np.float64)


def test_worked_example():
    selection = bids(EXAMPLE, 5)
    assert selection.order.tolist() == [3, 0, 4, 2, 1]
    assert selection.target.tolist() == [2, 0, 1, 1, 0]
    # The specification prints four decimals.
    np.testing.assert_allclose(selection.utility, [1.9392, 2.0381, 2.0585, 0.9606, 0.8492], atol=5e-5)
    assert selection.order.dtype == np.int64 and selection.utility.dtype == np.float64


def assert_like_naive(Z, depth):
    """The fast method on raw scores `Z` gives the naive picks, columns and utilities bit for bit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SelectionWarning)
        varying = [column for column in range(Z.shape[1]) if Z[:, column].min() != Z[:, column].max()]
        if not varying:
            with pytest.raises(SelectionError, match="constant"):
                bids(Z, 1, normalize=False)
            return
        selection = bids(Z, len(Z), normalize=False, depth=depth)
    order, target, utility = naive_bids(Z[:, varying], len(Z))
    assert selection.order.tolist() == order
    assert selection.target.tolist() == [varying[column] for column in target]
    assert selection.utility.tolist() == utility


shapes = st.tuples(st.integers(2, 14), st.integers(1, 5))
depths = st.integers(1, 16)


@settings(max_examples=150, deadline=None)
@given(st.data(), shapes, depths)
def test_integer_ties_and_duplicates_like_naive(data, shape, depth):
    Z = data.draw(hnp.arrays(np.float64, shape, elements=st.integers(-2, 2)))
    assert_like_naive(Z, depth)


@settings(max_examples=150, deadline=None)
@given(st.data(), shapes, depths)
def test_one_ulp_spacing_like_naive(data, shape, depth):
    # Values one ulp apart round to the same difference, which only the tie walk resolves as the naive method does.
    steps = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 6)))
    base = data.draw(st.sampled_from([0.1, 1.0, -0.3]))
    offset = data.draw(hnp.arrays(np.float64, shape[1], elements=st.sampled_from([0.0, -3.0, 5.0])))
    assert_like_naive(base + steps * np.spacing(abs(base)) + offset * (np.arange(shape[0])[:, None] == 0), depth)


@settings(max_examples=100, deadline=None)
@given(st.data(), shapes, depths)
def test_float16_values_like_naive(data, shape, depth):
    Z = data.draw(hnp.arrays(np.float16, shape, elements=st.floats(-4, 4, width=16)))
    assert_like_naive(Z.astype(np.float64), depth)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), shapes, depths, st.sampled_from([np.float64, np.float32, np.float16]))
def test_normal_scores_like_naive(seed, shape, depth, dtype):
    A = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    assert_like_naive(A.astype(np.float64), depth)
    order, target, utility = naive_bids(z_scores(A), shape[0])
    if all(len(set(column)) > 1 for column in A.T.tolist()):
        selection = bids(A, shape[0], depth=depth)
        assert (selection.order.tolist(), selection.target.tolist()) == (order, target)
        assert selection.utility.tolist() == utility


@settings(max_examples=100, deadline=None)
@given(st.data(), shapes, depths)
def test_bad_rows_and_constant_columns_like_naive_on_the_rest(data, shape, depth):
    A = data.draw(hnp.arrays(np.float64, shape, elements=st.integers(-3, 3)))
    bad = data.draw(st.sets(st.integers(0, shape[0] - 1), max_size=3))
    flat = data.draw(st.sets(st.integers(0, shape[1] - 1), max_size=2))
    for row in bad:
        A[row, data.draw(st.integers(0, shape[1] - 1))] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    A[:, sorted(flat)] = 0.1
    # a column without a finite value says nothing about any row, so it costs none
    alive = np.isfinite(A).any(axis=0)
    rows = np.flatnonzero(np.isfinite(A[:, alive]).all(axis=1))
    kept = [c for c in np.flatnonzero(alive) if rows.size > 1 and np.ptp(A[rows, c]) > 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SelectionWarning)
        if not kept:
            with pytest.raises(SelectionError):
                bids(A, 1, depth=depth)
            return
        selection = bids(A, rows.size, depth=depth)
        with pytest.raises(SelectionError, match="usable rows"):
            bids(A, rows.size + 1, depth=depth)
    order, target, utility = naive_bids(z_scores(A[np.ix_(rows, kept)]), rows.size)
    assert selection.order.tolist() == rows[order].tolist()
    assert selection.target.tolist() == np.array(kept)[target].tolist()
    assert selection.utility.tolist() == utility


@settings(max_examples=60, deadline=None)
@given(st.data(), shapes, depths)
def test_every_budget_is_a_prefix_and_every_prefix_resumes(data, shape, depth):
    Z = data.draw(hnp.arrays(np.float64, shape, elements=st.integers(-2, 2)))
    Z[0], Z[1] = 3.0, 4.0  # no constant column
    whole = bids(Z, len(Z), depth=depth)
    for budget in range(len(Z) + 1):
        part = bids(Z, budget, depth=depth)
        again = bids(Z, len(Z), depth=depth, after=part)
        for name in ("order", "target", "utility"):
            assert getattr(part, name).tolist() == getattr(whole, name)[:budget].tolist()
            assert getattr(again, name).tolist() == getattr(whole, name).tolist()
    with pytest.raises(SelectionError, match=f"budget {len(Z) + 1} is more than the {len(Z)} usable rows"):
        bids(Z, len(Z) + 1)


def test_the_tie_walk_decides_adversarial_cases():
    # Values within a few ulp, and a first pick that makes the differences large, so that many round to one.
    decided = 0
    for seed in range(20):
        Z = 0.1 + np.random.default_rng(seed).integers(0, 40, (60, 3)) * np.spacing(0.1)
        Z[0] -= 4.0
        Z[0, 0] = 9.0
        for depth in (1, 4, 64):
            assert_like_naive(Z, depth)
        second = bids(Z, 2, normalize=False).order[1]
        heads = np.argsort(-Z, axis=0, kind="stable")[0]
        decided += int(second not in heads)
    assert decided >= 5  # where taking the head of a list would have been wrong


@pytest.mark.parametrize("seed", range(5))
def test_normalised_like_naive(seed):
    A = np.random.default_rng(seed).standard_t(3, (300, 12)) * np.geomspace(1e-3, 1e3, 12)
    order, target, utility = naive_bids(z_scores(A), 120)
    selection = bids(A, 120, depth=8)
    assert (selection.order.tolist(), selection.target.tolist()) == (order, target)
    assert selection.utility.tolist() == utility


def test_prefix_and_resume():
    A = np.random.default_rng(0).integers(0, 5, (80, 6)).astype(np.float32)
    whole = bids(A, 80)
    for budget in (1, 7, 40):
        part = bids(A, budget)
        assert part.order.tolist() == whole.order[:budget].tolist()
        resumed = bids(A, 80, after=part)
        assert resumed.order.tolist() == whole.order.tolist()
        assert resumed.target.tolist() == whole.target.tolist()
        assert resumed.utility.tolist() == whole.utility.tolist()
    assert sorted(whole.order.tolist()) == list(range(80))


def test_resume_refuses_what_does_not_fit():
    part = bids(EXAMPLE, 4)
    with pytest.raises(SelectionError, match="more than the budget 3"):
        bids(EXAMPLE, 3, after=part)
    with pytest.raises(SelectionError, match="other scores"):
        bids(EXAMPLE[:3], 3, after=bids(EXAMPLE, 1))


def test_positive_rescaling_and_ddof_change_nothing():
    A = np.random.default_rng(1).normal(size=(200, 9))
    order = bids(A, 100).order.tolist()
    assert bids(A * 2.0**-9, 100).order.tolist() == order
    assert naive_bids(z_scores(A, ddof=0), 100)[0] == order


def test_raw_units_form_gives_the_same_list():
    A = np.random.default_rng(2).normal(size=(200, 9)) + 3
    mean, std = A.mean(axis=0), A.std(axis=0, ddof=1)
    X, total, order = A / std, np.zeros(9), []
    for pick in range(60):
        gaps = X - (total / pick if pick else mean / std)
        gaps[order] = -np.inf
        order.append(int(gaps.max(axis=1).argmax()))
        total += X[order[-1]]
    assert bids(A, 60).order.tolist() == order


def test_each_pick_most_raises_some_column_mean():
    A = np.random.default_rng(3).normal(size=(40, 4))
    Z, selection = z_scores(A), bids(A, 20)
    for pick in range(1, 20):
        chosen = selection.order[:pick].tolist()
        rises = {
            row: (Z[[*chosen, row]].mean(axis=0) - Z[chosen].mean(axis=0)).max()
            for row in range(40)
            if row not in chosen
        }
        assert max(rises, key=rises.__getitem__) == selection.order[pick]


def test_duplicate_rows_come_out_in_index_order():
    A = np.repeat(np.random.default_rng(4).normal(size=(7, 3)), 5, axis=0)[np.random.default_rng(5).permutation(35)]
    order = bids(A, 35).order.tolist()
    for row in np.unique(A, axis=0):
        copies = np.flatnonzero((row == A).all(axis=1)).tolist()
        assert [index for index in order if index in copies] == copies


def test_sums_are_kept_in_float64():
    # Around 2^26 a float32 sum has steps of 8, which the values' differences of 1 do not survive.
    Z = np.random.default_rng(7).integers(0, 40, (150, 3)) + 2.0**26
    order, total = [], np.zeros(3, dtype=np.float32)
    for pick in range(150):
        gaps = Z - (total / np.float32(pick) if pick else total)
        gaps[order] = -np.inf
        order.append(int(gaps.max(axis=1).argmax()))
        total += Z[order[-1]].astype(np.float32)
    assert bids(Z, 150, normalize=False).order.tolist() == naive_bids(Z, 150)[0] != order


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_memory_map_and_layouts_equal_the_array(tmp_path, dtype):
    A = np.random.default_rng(6).normal(size=(150, 11)).astype(dtype)
    np.save(tmp_path / "a.npy", A)
    expected = bids(A, 90)
    for other in (np.load(tmp_path / "a.npy", mmap_mode="r"), np.asfortranarray(A), A.astype(np.float64)):
        selection = bids(other, 90, depth=3)
        assert selection.order.tolist() == expected.order.tolist()
        assert selection.utility.tolist() == expected.utility.tolist()


def test_exclusions_are_reported_and_keep_their_indices():
    A = np.insert(EXAMPLE, 1, 0.1, axis=1)
    A = np.insert(A, 2, np.nan, axis=1)
    A = np.insert(A, 3, [np.nan, 0.1, np.nan, 1, 1], axis=0)
    with pytest.warns(SelectionWarning) as caught:
        selection = bids(A, 5)
    assert {str(warning.message) for warning in caught} == {
        "1 row(s) with NaN or infinity excluded: 3",
        "2 constant or non-finite column(s) dropped: 1, 2",
    }
    assert selection.order.tolist() == [4, 0, 5, 2, 1]
    assert selection.target.tolist() == [4, 0, 3, 3, 0]
    assert selection.excluded_rows == (3,) and selection.dropped_columns == (1, 2)


@pytest.mark.filterwarnings("ignore::curate.selection.SelectionWarning")
@pytest.mark.parametrize("method", ["bids", "instance_max", "weakest_first", "sum"])
def test_single_row_or_constant_scores_have_no_usable_column(method):
    for A in (np.array([[1.0, 2.0]]), np.full((4, 2), 0.1)):
        with pytest.raises(SelectionError, match="none of the 2 target columns"):
            METHODS[method](A, 1)


def test_single_column_is_a_sort():
    A = np.array([[1.0], [3.0], [2.0], [3.0]])
    assert bids(A, 4).order.tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize(
    ("budget", "message"),
    [(-1, "at least 0"), (7, "more than the 6 usable rows"), (1.5, "fraction"), (True, "at least 0"), ("3", "neither")],
)
def test_bad_budgets(budget, message):
    with pytest.raises(SelectionError, match=message):
        bids(EXAMPLE, budget)


def test_budget_fraction_floors_the_written_decimal():
    from curate.selection import resolve_budget

    assert [resolve_budget(f, 288_579) for f in (0.05, 0.10, 0.15)] == [14_428, 28_857, 43_286]
    assert resolve_budget(0.29, 100) == 29
    assert resolve_budget(1.0, 7) == 7
    assert bids(EXAMPLE, 0.5).order.tolist() == [3, 0, 4]


def test_empty_budget():
    assert all(len(part) == 0 for part in (bids(EXAMPLE, 0).order, bids(EXAMPLE, 0).target, bids(EXAMPLE, 0).utility))


def test_uneven_tasks_warn():
    with pytest.warns(SelectionWarning, match="unequal columns per task"):
        bids(EXAMPLE, 2, tasks=["a", "a", "b"])


@settings(max_examples=60, deadline=None)
@given(st.data(), shapes)
def test_weakest_first_like_naive(data, shape):
    Z = data.draw(hnp.arrays(np.float64, shape, elements=st.integers(-2, 2)))
    Z[0], Z[1] = 3.0, 4.0  # no constant column
    selection = METHODS["weakest_first"](Z, len(Z), normalize=False)
    order, target = naive_weakest_first(Z, len(Z))
    assert (selection.order.tolist(), selection.target.tolist()) == (order, target)
