"""The shared mean, deviation and z-scores."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
import pytest

from curate.selection.moments import mean_and_std
from curate.selection.normalise import SelectionWarning, usable
from tests.reference.bids import z_scores


def test_mean_and_std_of_the_worked_example():
    A = np.array([[4, 0, 1], [3, 1, 0], [0, 5, 2], [1, 2, 9], [2, 6, 3], [1, 1, 1]], dtype=np.float64)
    view = usable(A)
    np.testing.assert_allclose(view.mean, [1.833333, 2.5, 2.666667], atol=5e-7)
    np.testing.assert_allclose(view.std, [1.471960, 2.428992, 3.265986], atol=5e-7)


def test_two_passes_survive_a_large_offset():
    values = 1e9 + np.arange(1001) / 7
    exact = [Fraction(float(value)) for value in values]
    mean = sum(exact) / 1001
    variance = sum((value - mean) ** 2 for value in exact) / 1000
    got_mean, got_std = mean_and_std(values)
    assert got_mean == pytest.approx(float(mean), rel=1e-16)
    assert got_std == pytest.approx(float(variance) ** 0.5, rel=1e-12)  # float64 rounding of residuals near 1e9


@pytest.mark.parametrize("block", [1, 2, 3, 7])
@pytest.mark.parametrize("order", ["C", "F"])
def test_bits_do_not_depend_on_blocks_or_layout(block, order):
    A = np.random.default_rng(0).normal(size=(1000, 7)).astype(np.float32)
    view = usable(np.asarray(A, order=order), block_columns=block)
    expected = z_scores(A)
    for position, values in view.iter_columns(block):
        assert values.tolist() == expected[:, position].tolist()
        assert view.column(position).tolist() == expected[:, position].tolist()
    assert view.row(17).tolist() == expected[17].tolist()
    assert view.raw().row(17).tolist() == A[17].astype(np.float64).tolist()


def test_a_constant_column_is_found_though_its_mean_is_rounded():
    A = np.stack([np.full(10, 0.1), np.arange(10.0), np.full(10, 1e308) * np.resize([1, -1], 10)], axis=1)
    with pytest.warns(SelectionWarning, match="dropped: 0, 2"):
        view = usable(A)
    assert view.columns.tolist() == [1]


def test_a_column_without_finite_values_costs_no_rows():
    A = np.array([[np.nan, 1.0, 5.0], [np.nan, 2.0, np.inf], [np.nan, 3.0, 6.0]])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        view = usable(A)
    assert (view.rows.tolist(), view.columns.tolist()) == ([0, 2], [1, 2])
    assert len(caught) == 2
    assert view.column(1).tolist() == view.column(0).tolist()
    np.testing.assert_allclose(view.column(0), [-(0.5**0.5), 0.5**0.5], rtol=1e-15)
