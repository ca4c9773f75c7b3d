"""train.reweighting: the tables of the spec, its invariances, and its edge cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import reweighting as reference
from train.reweighting import (
    STRATEGIES,
    Anneal,
    ReweightingError,
    ReweightingSchedule,
    cap_weights,
    combined_weights,
    effective_sample_size,
    loss_weights,
)

LOSSES = np.array([1.0, 2.0, 3.0, 5.0])
light = settings(max_examples=50, deadline=None)
# Multiples of 1/8 keep the range above 1e-6 whenever two losses differ, and shifts and doublings exact in binary.
loss_lists = st.lists(st.integers(0, 120).map(lambda n: n / 8), min_size=1, max_size=12)
strategies = st.sampled_from(STRATEGIES)

TABLE = {
    "linupper": [
        (1.0, (0.123681, 0.203916, 0.336201, 0.336201), 3.221123),
        (0.4, (0.034656, 0.120960, 0.422192, 0.422192), 3.654113),
    ],
    "quadratic": [
        (1.0, (0.146300, 0.309717, 0.397684, 0.146300), 2.690283),
        (0.4, (0.048301, 0.314965, 0.588432, 0.048301), 2.685035),
    ],
    "extremes": [
        (1.0, (0.336201, 0.203916, 0.123681, 0.336201), 2.796084),
        (0.4, (0.422192, 0.120960, 0.034656, 0.422192), 2.879040),
    ],
    "linear": [
        (1.0, (0.150353, 0.193057, 0.247890, 0.408701), 3.323640),
        (0.4, (0.053934, 0.100763, 0.188249, 0.657054), 4.105477),
    ],
}


@pytest.mark.parametrize(
    ("strategy", "r", "w", "weighted"),
    [(strategy, *row) for strategy, rows in TABLE.items() for row in rows],
)
def test_table(strategy, r, w, weighted):
    omega = loss_weights(LOSSES, strategy, r)
    assert omega.dtype == np.float64
    np.testing.assert_allclose(omega / 4, w, atol=1e-6)
    assert (omega * LOSSES).mean() == pytest.approx(weighted, abs=1e-6)


def test_further_examples():
    np.testing.assert_allclose(loss_weights(LOSSES), (0.494726, 0.815665, 1.344804, 1.344804), atol=1e-6)
    soft = loss_weights(LOSSES, temperature=100) / 4
    np.testing.assert_allclose(soft, (0.248440, 0.249686, 0.250937, 0.250937), atol=1e-6)
    np.testing.assert_array_equal(loss_weights(LOSSES, "uniform") / 4, np.full(4, 0.25))
    # Two ranks with two examples each: W * sum over the rank's share of w_i l_i.
    terms = loss_weights(LOSSES, temperature=0.4) * LOSSES / 4
    np.testing.assert_allclose((2 * terms[:2].sum(), 2 * terms[2:].sum()), (0.553152, 6.755074), atol=1e-6)


def test_coreset_composition_and_loss_scaling_example():
    # spec "coreset", section 9
    tokens = np.array([10, 20, 30, 40])
    clusters = np.array([1, 1, 3, 3])
    omega = combined_weights([loss_weights(LOSSES), clusters / clusters.mean()])
    np.testing.assert_allclose(omega, (0.210988, 0.347861, 1.720576, 1.720576), atol=1e-6)
    assert effective_sample_size(omega) == pytest.approx(2.628862, abs=1e-6)
    sums = LOSSES * tokens
    assert (omega * LOSSES).mean() == pytest.approx(3.667829, abs=1e-6)
    assert (omega * sums).sum() / tokens.sum() == pytest.approx(5.149912, abs=1e-6)
    assert (omega * sums).sum() / (omega * tokens).sum() == pytest.approx(3.976539, abs=1e-6)
    micro = 2 * omega * LOSSES / 4
    np.testing.assert_allclose(micro, (0.105494, 0.347861, 2.580863, 4.301439), atol=1e-6)
    np.testing.assert_allclose((micro[:2].sum(), micro[2:].sum()), (0.453355, 6.882302), atol=1e-6)


def test_combined_weights_keep_invalid_examples_out():
    got = combined_weights([[1, 2, 3, 0], [1, 1, 1, 1]], cap=1.25, valid=[True, True, True, False])
    np.testing.assert_allclose(got, (0.583333, 1.166667, 1.25, 0), atol=1e-6)
    assert combined_weights([[1.0, 2.0]], valid=[False, False]).tolist() == [0, 0]


def test_cap_example_and_bounds():
    np.testing.assert_allclose(cap_weights([0.1, 0.2, 0.3, 5], 2), (0.333333, 0.666667, 1, 2), atol=1e-6)
    np.testing.assert_allclose(cap_weights([0.1, 0.2, 0.3, 5], 1), np.ones(4), atol=1e-12)
    np.testing.assert_allclose(cap_weights([0, 0, 4, 0], 2), (2 / 3, 2 / 3, 2, 2 / 3), atol=1e-12)
    half = np.repeat([1.0, 0.0], 8)  # half the scores at 1, half at 0: within the theory's bound of 2
    assert loss_weights(half, temperature=0.4).max() == pytest.approx(2 / (1 + math.exp(-1 / 0.4)), abs=1e-12)
    outlier = np.array([*np.linspace(0, 0.01, 255), 100.0])
    assert loss_weights(outlier, temperature=0.1).max() > 200
    assert loss_weights(outlier, temperature=0.1, cap=2).max() == 2
    for cap in (0.5, math.nan):
        with pytest.raises(ReweightingError, match="cap"):
            loss_weights(LOSSES, cap=cap)


@light
@given(loss_lists, strategies, st.floats(0.05, 10), st.floats(0.1, 5), st.one_of(st.none(), st.floats(1, 5)))
def test_against_reference(losses, strategy, r, delta, cap):
    got = loss_weights(losses, strategy, r, delta, cap)
    np.testing.assert_allclose(got, reference.loss_weights(losses, strategy, r, delta, cap), rtol=1e-9, atol=1e-12)


@light
@given(loss_lists, strategies, st.floats(0, 10), st.one_of(st.none(), st.floats(1, 5)))
def test_mean_one_and_cap(losses, strategy, r, cap):
    omega = loss_weights(losses, strategy, r, cap=cap)
    assert omega.mean() == pytest.approx(1, abs=1e-12)
    assert cap is None or omega.max() <= cap
    assert (omega >= 0).all()


@light
@given(loss_lists, strategies, st.integers(-100, 100), st.sampled_from([0.25, 3.0, 64.0]), st.randoms())
def test_shift_scale_permutation(losses, strategy, shift, factor, random):
    omega = loss_weights(losses, strategy)
    np.testing.assert_allclose(loss_weights(np.array(losses) + shift, strategy), omega, rtol=1e-10)
    np.testing.assert_allclose(loss_weights(np.array(losses) * factor, strategy), omega, rtol=1e-10)
    order = list(range(len(losses)))
    random.shuffle(order)
    np.testing.assert_allclose(loss_weights(np.array(losses)[order], strategy), omega[order], rtol=1e-12)


@light
@given(loss_lists, st.sampled_from(["linupper", "linear"]), st.one_of(st.none(), st.floats(1, 3)))
def test_order_of_losses_is_order_of_weights(losses, strategy, cap):
    ascending = np.sort(losses)
    assert (np.diff(loss_weights(ascending, strategy, cap=cap)) >= -1e-12).all()


def test_small_range_on_large_losses_keeps_its_digits():
    small = np.float32(8.0) + np.arange(6, dtype=np.float32) * np.float32(2**-18)  # range 2e-5, exact in float32
    want = loss_weights(np.arange(6.0))
    np.testing.assert_allclose(loss_weights(small), want, rtol=1e-12)


def test_equal_losses_are_uniform():
    for strategy in STRATEGIES:
        np.testing.assert_array_equal(loss_weights(np.full(6, 2.5), strategy), np.ones(6))
    np.testing.assert_allclose(loss_weights([2.0, 2.0 + 1e-9, 2.0 - 1e-9]), np.ones(3), atol=2e-3)


def test_invalid_losses_get_nothing_and_do_not_disturb():
    dirty = np.array([np.nan, 1.0, 2.0, np.inf, 3.0, 5.0, -np.inf])
    omega = loss_weights(dirty)
    np.testing.assert_array_equal(omega[[1, 2, 4, 5]], loss_weights(LOSSES))
    assert omega[[0, 3, 6]].tolist() == [0, 0, 0]
    assert loss_weights(dirty, "uniform").tolist() == [0, 1, 1, 0, 1, 1, 0]
    assert loss_weights([np.nan, np.nan]).tolist() == [0, 0]
    assert loss_weights([]).size == 0
    assert loss_weights([np.nan, 7.0], cap=2).tolist() == [0, 1]


def test_temperature_limits():
    np.testing.assert_array_equal(loss_weights(LOSSES, temperature=math.inf), np.ones(4))
    np.testing.assert_array_equal(loss_weights(LOSSES, temperature=0), [0, 0, 2, 2])
    np.testing.assert_array_equal(loss_weights(LOSSES, temperature=5e-324), [0, 0, 2, 2])
    np.testing.assert_allclose(loss_weights(LOSSES, temperature=0, cap=1.5), (0.5, 0.5, 1.5, 1.5), atol=1e-12)
    for bad in (-1, math.nan):
        with pytest.raises(ReweightingError, match="temperature"):
            loss_weights(LOSSES, temperature=bad)
    for bad in (0, -1, math.inf, math.nan):
        with pytest.raises(ReweightingError, match="delta"):
            loss_weights(LOSSES, delta=bad)


@pytest.mark.parametrize(("wrong", "nearest"), [("upper", "linupper"), ("quadratc", "quadratic"), ("mid", "")])
def test_unknown_strategy_names_the_nearest(wrong, nearest):
    with pytest.raises(ReweightingError, match=f"{wrong}.*did you mean '{nearest}"):
        loss_weights(LOSSES, wrong)


def test_within_source_scaling():
    losses = np.array([1.0, 2.0, 3.0, 10.0, 20.0, 30.0, 7.0])
    omega = loss_weights(losses, "linear", sources=np.array(["a", "a", "a", "b", "b", "b", "c"]))
    np.testing.assert_allclose(omega[:3], omega[3:6], rtol=1e-12)
    assert omega[6] == pytest.approx(omega[1], rel=1e-12)  # alone in its source: h = 0, as the middle of the others
    with pytest.raises(ReweightingError, match="sources"):
        loss_weights(losses, sources=["a"])


def test_effective_sample_size():
    assert effective_sample_size(np.ones(7)) == 7
    assert effective_sample_size([0, 3, 0]) == 1
    assert effective_sample_size([0, 0]) == 0


def test_schedule():
    r = ReweightingSchedule(total_steps=140)
    assert [r(t) for t in (0, 6, 7, 139)] == [math.inf, math.inf, 1.0, 1.0]
    r = ReweightingSchedule(total_steps=140, burn_in_steps=0, temperature=0.4)
    assert r(0) == 0.4
    r = ReweightingSchedule(total_steps=100, burn_in_steps=10, anneal=Anneal(2.0, 0.5, 20, 40))
    assert [r(t) for t in (9, 10, 20, 30, 40, 99)] == [math.inf, 2.0, 2.0, 1.25, 0.5, 0.5]
    # Burn-in is the exact uniform bypass: weights of 1, bit for bit.
    np.testing.assert_array_equal(loss_weights(LOSSES, temperature=r(0)), np.ones(4))
    for bad in ({"temperature": -1}, {"burn_in": 2.0}, {"burn_in_steps": -1}, {"total_steps": 0}):
        with pytest.raises(ReweightingError, match=next(iter(bad))):
            ReweightingSchedule(**{"total_steps": 10, **bad})
    with pytest.raises(ReweightingError, match="anneal"):
        Anneal(1, 2, 5, 5)


def test_resume_needs_only_the_step_counter():
    losses = np.random.default_rng(0).random((20, 6))
    r = ReweightingSchedule(total_steps=20, burn_in=0.25)
    whole = [loss_weights(row, temperature=r(t)) for t, row in enumerate(losses)]
    for stop in (2, 5, 13):  # in burn-in, at its end, after it
        again = ReweightingSchedule(total_steps=20, burn_in=0.25)
        rest = [loss_weights(losses[t], temperature=again(t)) for t in range(stop, 20)]
        np.testing.assert_array_equal(rest, whole[stop:])
