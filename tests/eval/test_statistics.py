"""Intervals against a naive bootstrap, scipy's, the normal theory, and what an interval promises: coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eval.statistics import (
    Interval,
    StatisticsError,
    TaskScores,
    bootstrap_interval,
    holm,
    interval_of,
    paired_difference,
    resampled_means,
    resamples_for,
    two_sided_p,
    verdict,
)
from tests.reference.bootstrap import percentile_interval, rejected


def scored(runs, task="t", capability="c"):
    """runs: (runs, items) values."""
    return TaskScores.of(task, capability, [{f"i{k:04}": float(x) for k, x in enumerate(run)} for run in runs])


def test_interval_agrees_with_the_naive_bootstrap_and_with_scipy():
    values = np.random.default_rng(1).gamma(2.0, size=80)
    ours = bootstrap_interval(values)
    low, high = percentile_interval([[values.tolist()]], 0.95, 4000, seed=5)
    other = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=3).confidence_interval
    # both ends are percentiles of thousands of draws: their Monte Carlo error is about 0.04 standard errors
    tolerance = 0.2 * values.std() / np.sqrt(len(values))
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=tolerance)
    assert (ours.low, ours.high) == pytest.approx(tuple(other), abs=tolerance)
    assert (ours.items, ours.runs) == (80, 1)


def test_interval_of_a_large_sample_is_the_normal_one():
    values = np.random.default_rng(2).normal(3.0, 2.0, size=2000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    interval = bootstrap_interval(values)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.08)


def test_runs_and_items_are_drawn_as_the_naive_bootstrap_draws_them():
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, (1, 60)) + rng.normal(0, 0.4, (4, 1)) + rng.normal(0, 0.3, (4, 60))
    (draws,) = resampled_means("t", [scored(values)], seed=0)
    ours = interval_of(float(values.mean()), draws, 0.95, items=60, runs=4)
    low, high = percentile_interval([values.tolist()], 0.95, 4000, seed=5)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.04)


@pytest.mark.parametrize("runs", [2, 3, 8])
def test_the_variance_over_few_runs_is_unbiased(runs):
    """Items that do not vary leave the runs' variance: the mean over `runs` of spread 1 has variance 1 / runs."""
    rng = np.random.default_rng(4)
    found = []
    for trial in range(400):
        values = np.repeat(rng.normal(size=(runs, 1)), 5, axis=1)
        (draws,) = resampled_means("t", [scored(values)], 400, seed=trial)
        found.append(draws.var())
    # 400 variances of chi-squared with runs - 1 degrees: a standard error of 7 % for two runs
    assert np.mean(found) == pytest.approx(1 / runs, rel=0.2)


def test_coverage_is_near_the_nominal_one():
    rng = np.random.default_rng(4)
    trials, hits = 300, 0
    for trial in range(trials):
        interval = bootstrap_interval(rng.random(60) < 0.3, resamples=500, seed=trial)
        hits += interval.low <= 0.3 <= interval.high
    # the percentile interval of 60 coin flips covers a little less than 95 %; 300 trials have a standard error of 1.4 %
    assert 0.89 <= hits / trials <= 0.99


def test_no_difference_is_claimed_falsely_more_often_than_the_level():
    rng = np.random.default_rng(5)
    trials, claims = 300, 0
    for trial in range(trials):
        one, two = rng.normal(size=(2, 60))
        first, second = resampled_means("t", [scored([one]), scored([two])], 500, seed=trial)
        claims += two_sided_p(first - second) <= 0.05
    assert claims / trials <= 0.09  # 0.05 and three standard errors


def test_the_seed_fixes_the_interval():
    values = np.random.default_rng(5).random(50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_pairing_removes_what_items_have_in_common():
    rng = np.random.default_rng(6)
    difficulty = {f"i{k}": x for k, x in enumerate(rng.normal(0, 10, 100))}
    better = {key: x + 0.5 + 0.1 * rng.normal() for key, x in difficulty.items()}
    difference = paired_difference(better, difficulty)
    alone = bootstrap_interval(list(better.values()))
    assert verdict(difference, higher_is_better=True) == "better"
    assert difference.high - difference.low < (alone.high - alone.low) / 20


def test_the_difference_does_not_depend_on_the_order_of_items_nor_on_the_block():
    rng = np.random.default_rng(7)
    a = {f"i{k}": float(x) for k, x in enumerate(rng.random(40))}
    b = {f"i{k}": float(x) for k, x in enumerate(rng.random(40))}
    assert paired_difference(a, b) == paired_difference(dict(reversed(a.items())), dict(reversed(b.items())))
    forward, back = paired_difference(a, b), paired_difference(b, a)
    assert forward.mean == pytest.approx(-back.mean)


def test_memory_is_taken_in_blocks_that_change_nothing(monkeypatch):
    values = scored(np.random.default_rng(8).random((2, 30)))
    (whole,) = resampled_means("t", [values], 1000)
    monkeypatch.setattr("eval.statistics.BLOCK_BYTES", 8 * 30 * 7)
    (blocks,) = resampled_means("t", [values], 1000)
    np.testing.assert_array_equal(whole, blocks)


@given(st.lists(st.floats(0.0001, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        # a hair's breadth off the level, where products and quotients round apart
        sure = {k for k, p in enumerate(adjusted) if p <= level * (1 - 1e-9)}
        possible = {k for k, p in enumerate(adjusted) if p <= level * (1 + 1e-9)}
        assert sure <= rejected(p_values, level) <= possible
    assert all(one >= two for one, two in zip(adjusted, p_values, strict=True))


def test_holm_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_smallest_p_value_survives_the_correction():
    draws = np.ones(resamples_for(57, 0.95, 1000))
    assert holm([two_sided_p(draws)] * 57)[0] < 0.05


def test_other_items_are_refused_by_name():
    with pytest.raises(StatisticsError, match="'only-here'"):
        paired_difference({"x": 1.0, "only-here": 2.0, "y": 0.0}, {"x": 1.0, "y": 2.0})
    with pytest.raises(StatisticsError, match="'b'"):
        TaskScores.of("t", "c", [{"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "c": 2.0}])


@pytest.mark.parametrize("values", [[], [1.0], [[1.0, 2.0]], [1.0, float("nan")], [1.0, float("inf")]])
def test_no_interval_from_bad_values(values):
    with pytest.raises(StatisticsError):
        bootstrap_interval(values)


def test_a_constant_sample_has_a_point_for_an_interval():
    interval = bootstrap_interval([2.0] * 10)
    assert (interval.low, interval.mean, interval.high) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "expected"),
    [
        (0.1, 0.3, True, "better"),
        (0.1, 0.3, False, "worse"),
        (-0.3, -0.1, True, "worse"),
        (-0.3, -0.1, False, "better"),
        (-0.1, 0.3, True, "no clear difference"),
        (0.0, 0.3, True, "no clear difference"),
        (-0.3, 0.0, False, "no clear difference"),
        (0.0, 0.0, True, "no clear difference"),
        (0.0004, 0.3, True, "no clear difference"),
        (0.0006, 0.3, True, "better"),
    ],
)
def test_a_win_needs_an_interval_without_zero(low, high, higher_is_better, expected):
    interval = Interval(mean=(low + high) / 2, low=low, high=high, items=10)
    assert verdict(interval, higher_is_better) == expected
    assert verdict(interval, higher_is_better, p_adjusted=0.06) == "no clear difference"
