"""Intervals against a naive bootstrap, the normal theory, and what an interval promises: coverage."""

from __future__ import annotations

import numpy as np
import pytest

from eval.statistics import (
    Interval,
    StatisticsError,
    bootstrap_interval,
    macro_average,
    pair,
    paired_difference,
    verdict,
)
from tests.reference.bootstrap import percentile_interval


def test_interval_agrees_with_the_naive_bootstrap():
    values = np.random.default_rng(1).gamma(2.0, size=80)
    ours = bootstrap_interval(values, resamples=4000)
    low, high = percentile_interval([values.tolist()], 0.95, 4000, seed=5)
    # both ends are percentiles of 4000 draws: their Monte Carlo error is about 0.04 standard errors
    tolerance = 0.2 * values.std() / np.sqrt(len(values))
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(low, abs=tolerance)
    assert ours.high == pytest.approx(high, abs=tolerance)
    assert ours.items == 80


def test_interval_of_a_large_sample_is_the_normal_one():
    values = np.random.default_rng(2).normal(3.0, 2.0, size=2000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    interval = bootstrap_interval(values)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.08)


def test_macro_average_agrees_with_the_naive_stratified_bootstrap():
    rng = np.random.default_rng(3)
    groups = {"small": rng.normal(0, 1, 15), "large": rng.normal(5, 1, 150)}
    ours = macro_average(groups, resamples=4000)
    low, high = percentile_interval([g.tolist() for g in groups.values()], 0.95, 4000, seed=5)
    assert ours.mean == pytest.approx((groups["small"].mean() + groups["large"].mean()) / 2)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.04)
    assert ours.items == 165


def test_coverage_is_near_the_nominal_one():
    rng = np.random.default_rng(4)
    trials, hits = 300, 0
    for trial in range(trials):
        interval = bootstrap_interval(rng.random(60) < 0.3, resamples=500, seed=trial)
        hits += interval.low <= 0.3 <= interval.high
    # the percentile interval of 60 coin flips covers a little less than 95 %; 300 trials have a standard error of 1.4 %
    assert 0.89 <= hits / trials <= 0.99


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


def test_the_difference_does_not_depend_on_the_order_of_items():
    rng = np.random.default_rng(7)
    a = {f"i{k}": float(x) for k, x in enumerate(rng.random(40))}
    b = {f"i{k}": float(x) for k, x in enumerate(rng.random(40))}
    assert paired_difference(a, b) == paired_difference(dict(reversed(a.items())), dict(reversed(b.items())))
    forward, back = paired_difference(a, b), paired_difference(b, a)
    assert forward.mean == pytest.approx(-back.mean)


def test_other_items_are_refused_by_name():
    with pytest.raises(StatisticsError, match="'only-here'"):
        pair({"x": 1.0, "only-here": 2.0}, {"x": 1.0})


@pytest.mark.parametrize("values", [[], [1.0], [[1.0, 2.0]], [1.0, float("nan")], [1.0, float("inf")]])
def test_no_interval_from_bad_values(values):
    with pytest.raises(StatisticsError):
        bootstrap_interval(values)


def test_a_constant_sample_has_a_point_for_an_interval():
    interval = bootstrap_interval([2.0] * 10)
    assert (interval.low, interval.mean, interval.high) == (2.0, 2.0, 2.0)


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
    ],
)
def test_a_win_needs_an_interval_without_zero(low, high, higher_is_better, expected):
    interval = Interval(mean=(low + high) / 2, low=low, high=high, items=10)
    assert verdict(interval, higher_is_better) == expected
