"""train.mixture and train.waterfill: the worked examples of the spec, and the properties the sampler promises."""

import json
import math
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import mixture as reference
from train.mixture import (
    ConstantSchedule,
    CooldownSchedule,
    LinearSchedule,
    MixtureError,
    MixtureSampler,
    StepSchedule,
    expected_epochs,
    scalarization_weights,
    schedule_taus,
    segment_probabilities,
    systematic_counts,
    temperature_probabilities,
    unimax_probabilities,
    variance_factor,
)
from train.waterfill import WaterFillError, water_fill

D = (100, 10, 1)
DOMAINS = ["a"] * 100 + ["b"] * 10 + ["c"]
light = settings(max_examples=50, deadline=None)
sizes_lists = st.lists(st.integers(1, 10**6), min_size=1, max_size=8)


def sampler(total_steps=40, pool_size=10, seed=3, domains=DOMAINS, schedule=None, **options):
    return MixtureSampler(domains, pool_size, total_steps, schedule or CooldownSchedule(), seed, **options)


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (1, (0.900901, 0.090090, 0.009009)),
        (2, (0.706101, 0.223289, 0.070610)),
        (5, (0.492838, 0.310960, 0.196202)),
    ],
)
def test_temperature_table(tau, expected):
    np.testing.assert_allclose(temperature_probabilities(D, tau), expected, atol=1e-6)


def test_scalarization_table_and_equal_objectives():
    w = scalarization_weights(D, 2)
    np.testing.assert_allclose(w, (0.783772, 2.478505, 7.837722), atol=1e-6)
    losses = np.array([1.0, 2.0, 3.0])
    assert temperature_probabilities(D, 2) @ losses == pytest.approx(1.364509, abs=1e-6)
    assert temperature_probabilities(D, 1) @ (w * losses) == pytest.approx(1.364509, abs=1e-6)


@pytest.mark.parametrize(("tau", "f"), [(1, 1), (2, 1.660267), (3, 3.067490), (5, 5.615916), (100, 13.136077)])
def test_variance_factor_table(tau, f):
    assert variance_factor(D, tau) == pytest.approx(f, abs=1e-6)


def test_sampling_and_scalarization_together_are_wrong():
    # Section 1: sampling with p(tau) = (.6, .4) and weighting by p(tau)/p(1) as well gives (.2, .8) after normalising.
    tau = math.log(9) / math.log(1.5)  # sizes (9, 1) become (.6, .4)
    both = temperature_probabilities([9, 1], tau) * scalarization_weights([9, 1], tau)
    np.testing.assert_allclose(both / both.sum(), (0.2, 0.8), atol=1e-12)
    s = sampler(mode="scalarization")
    np.testing.assert_array_equal(s.probabilities(0), temperature_probabilities(D, 1))
    np.testing.assert_array_equal(s.domain_weights(0), scalarization_weights(D, 5))
    np.testing.assert_array_equal(sampler().domain_weights(0), np.ones(3))
    with pytest.raises(MixtureError, match="mode"):
        sampler(mode="sampling+scalarization")


@light
@given(sizes_lists, st.floats(1.0, 200.0), st.integers(1, 1000))
def test_probabilities_sum_monotone_and_scale_free(sizes, tau, factor):
    p = temperature_probabilities(sizes, tau)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(p, reference.temperature_probabilities(sizes, tau), rtol=1e-10)
    np.testing.assert_allclose(temperature_probabilities([s * factor for s in sizes], tau), p, rtol=1e-9)
    assert (np.diff(p[np.argsort(sizes, kind="stable")]) >= -1e-15).all()
    assert variance_factor(sizes, tau) >= 1 - 1e-12


def test_probability_limits_are_exact():
    np.testing.assert_array_equal(temperature_probabilities(D, 1), np.array(D) / 111)
    np.testing.assert_array_equal(temperature_probabilities(D, math.inf), np.full(3, 1 / 3))
    np.testing.assert_array_equal(temperature_probabilities([7], 5), [1.0])
    assert np.isfinite(temperature_probabilities([1, 10**12], 3)).all()
    with pytest.warns(UserWarning, match="below 1"):
        np.testing.assert_array_equal(temperature_probabilities([1, 10**12], 1e-300), [0, 1])
    with pytest.warns(UserWarning, match=r"\[1\]"):
        np.testing.assert_array_equal(temperature_probabilities([3, 0], math.inf), [1, 0])


@pytest.mark.parametrize("tau", [0, -1, math.nan])
def test_bad_tau_is_refused(tau):
    with pytest.raises(MixtureError, match="tau"):
        temperature_probabilities(D, tau)
    with pytest.raises(MixtureError, match="tau"):
        ConstantSchedule(tau)


@pytest.mark.parametrize("sizes", [[], [0, 0], [-1, 2], [math.nan, 1]])
def test_bad_sizes_are_refused(sizes):
    with pytest.raises(MixtureError, match=r"sizes|size 0"):
        temperature_probabilities(sizes, 2)


@pytest.mark.parametrize(("total", "switch"), [(60, 0.5), (7, 0.5), (10, 0.7), (3, 0.0), (3, 1.0)])
def test_cooldown_switches_after_ceil_steps(total, switch):
    taus = schedule_taus(CooldownSchedule(switch=switch), total)
    first = math.ceil(round(total * switch, 9))
    assert taus.tolist() == [5.0] * first + [1.0] * (total - first)


def test_other_schedules():
    assert CooldownSchedule()(0.49) == 5 and CooldownSchedule()(0.5) == 1
    assert LinearSchedule(5, 1)(0.25) == 4
    steps = StepSchedule(((0.0, math.inf), (0.5, 2.0)))
    assert (steps(0.49), steps(0.5), steps(0.99)) == (math.inf, 2, 2)
    for bad in [((0.1, 2.0),), (), ((0.0, 2.0), (0.0, 1.0))]:
        with pytest.raises(MixtureError, match="points"):
            StepSchedule(bad)
    with pytest.raises(MixtureError, match="total_steps"):
        schedule_taus(CooldownSchedule(), 0)


@light
@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.0, 50)), min_size=1, max_size=7), st.floats(0.0, 1.0))
def test_water_fill_against_bisection(pairs, share):
    q, a = map(list, zip(*pairs, strict=True))
    draws = share * sum(a)
    x = water_fill(q, a, draws)
    assert x.sum() == pytest.approx(draws, abs=1e-8)
    assert (x <= np.array(a)).all() and (x >= 0).all()
    # Near saturation the level is poorly determined by bisection, the shares are not: absolute tolerance.
    np.testing.assert_allclose(x, reference.water_fill(q, a, draws), atol=1e-6)


def test_water_fill_edges():
    with pytest.raises(WaterFillError, match="infeasible"):
        water_fill([1, 1], [1, 1], 3)
    with pytest.raises(WaterFillError, match="weights"):
        water_fill([1, math.nan], [1, 1], 1)
    np.testing.assert_array_equal(water_fill([0, 0, 5], [math.inf, math.inf, 2], 4), [1, 1, 2])


def test_unimax_is_the_published_procedure():
    for draws in (12.0, 150.0, 300.0, 444.0, 1000.0):
        np.testing.assert_allclose(unimax_probabilities(D, 4, draws), reference.unimax(list(D), 4, draws), atol=1e-12)


def test_epoch_cap_example():
    taus = [5.0, 1.0]
    first, second = segment_probabilities(D, taus, 111, max_epochs=4)
    np.testing.assert_allclose(first.probabilities * 111, (78, 30, 3), atol=1e-9)
    np.testing.assert_allclose(first.probabilities, (0.702703, 0.270270, 0.027027), atol=1e-6)
    np.testing.assert_allclose(second.probabilities * 111, D, atol=1e-9)
    np.testing.assert_allclose(expected_epochs(D, taus, 111, 4), (1.78, 4, 4), atol=1e-9)
    np.testing.assert_allclose(expected_epochs(D, taus, 111), (1.547050, 4.451653, 22.778458), atol=1e-6)


def test_infinite_temperature_is_one_stretch_so_the_cap_takes_no_domain_away():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segments = segment_probabilities(D, [math.inf] * 6 + [1.0] * 6, 10, max_epochs=4)
    assert [(s.start, s.stop) for s in segments] == [(0, 6), (6, 12)]
    flat = segment_probabilities(D, [1e12] * 6 + [1.0] * 6, 10, max_epochs=4)
    np.testing.assert_allclose(segments[0].probabilities, flat[0].probabilities, atol=1e-9)
    assert segments[0].probabilities[2] > 0.05  # (4 - 60 / 111) / 60


def test_infeasible_cap_names_the_smallest_that_works():
    with pytest.raises(MixtureError, match="at least 2;"):
        segment_probabilities(D, [5.0, 1.0], 111, max_epochs=1.5)
    np.testing.assert_allclose(expected_epochs(D, [5.0, 1.0], 111, 2), (2, 2, 2), atol=1e-9)


@light
@given(sizes_lists, st.floats(1.0, 6.0))
def test_cap_holds_for_many_segments(sizes, slack):
    taus = schedule_taus(LinearSchedule(5, 1), 6)
    pool = 16
    cap = slack * pool * 6 / sum(sizes)
    epochs = expected_epochs(sizes, taus, pool, cap)
    assert (epochs <= cap * (1 + 1e-9)).all()
    assert epochs @ np.array(sizes) == pytest.approx(pool * 6, rel=1e-9)


@pytest.mark.parametrize(("u", "counts"), [(0.5, [7, 2, 1]), (0.05, [8, 2, 0])])
def test_systematic_rounding_example(u, counts):
    assert systematic_counts(temperature_probabilities(D, 2), 10, u).tolist() == counts


@light
@given(sizes_lists, st.floats(1.0, 20.0), st.integers(1, 64), st.floats(0, 1, exclude_max=True))
def test_systematic_rounding_properties(sizes, tau, pool, u):
    p = temperature_probabilities(sizes, tau)
    n = systematic_counts(p, pool, u)
    assert n.sum() == pool and (n >= 0).all()
    assert (np.abs(n - pool * p) < 1 + 1e-9).all()


def test_counts_match_marks_on_a_line_and_are_unbiased():
    p = temperature_probabilities(D, 2)
    us = np.random.default_rng(0).random(10_000)
    counts = np.array([systematic_counts(p, 10, u) for u in us])
    for u, row in zip(us[:200], counts, strict=False):
        assert row.tolist() == reference.systematic_counts(p.tolist(), 10, u)
    error = np.abs(counts.mean(axis=0) - 10 * p)
    assert (error <= 4 * counts.std(axis=0) / 100 + 1e-12).all()


def test_rounding_neither_loses_a_draw_nor_feeds_a_domain_of_probability_zero():
    p = np.array([0.1, 0.2, 0.7, 0.0])
    assert systematic_counts(p, 10, 0.0).tolist()[3] == 0
    assert systematic_counts([1.0], 3, 1 - 2**-53).tolist() == [3]
    assert systematic_counts([0.1] * 10 + [0.0], 7, 5e-17)[-1] == 0


def draw(s, first, stop):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [s.plan(t) for t in range(first, stop)]


def test_every_row_once_before_any_twice():
    s = sampler()
    seen = Counter()
    for pool in draw(s, 0, 40):
        assert pool.shape == (10,) and pool.dtype == np.int64
        for row in pool.tolist():
            seen[row] += 1
    for k, rows in enumerate(s.rows):
        times = [seen[r] for r in rows.tolist()]
        assert max(times) - min(times) <= 1
        assert sum(times) == s.drawn[k]
        assert s.epoch[k] == s.wraps[k] == max(times) - 1
    assert s.duplicates_in_pool > 0  # domain c has one row and 1.96 draws per early pool
    assert s.drawn.sum() == 400


def test_order_inside_a_domain_has_no_repeat_inside_an_epoch():
    s = sampler(total_steps=60)
    pools = draw(s, 0, 60)
    taken = 0
    for pool in pools:
        inside = [r for r in pool.tolist() if 100 <= r < 110]
        start_epoch, taken = taken // 10, taken + len(inside)
        if inside and start_epoch == (taken - 1) // 10:
            assert len(set(inside)) == len(inside)
    assert taken == s.drawn[1] > 20


def test_warns_once_about_duplicates():
    s = sampler()
    with pytest.warns(UserWarning, match="twice in one pool") as caught:
        for t in range(20):
            s.plan(t)
    assert len(caught) == 1


def test_realised_epochs_stay_near_expected():
    s = sampler(total_steps=400, seed=11)
    draw(s, 0, 400)
    gap = np.abs(s.drawn / s.sizes - s.expected_epochs())
    assert (gap <= 3 * math.sqrt(400) / s.sizes).all()


def test_cap_in_the_sampler():
    s = sampler(total_steps=22, max_epochs=4)
    assert (s.expected_epochs() <= 4 + 1e-9).all()
    np.testing.assert_allclose(s.probabilities(21), temperature_probabilities(D, 1), atol=1e-12)
    assert s.tau(0) == 5 and s.tau(21) == 1


def test_domain_order_is_by_name_and_seed_matters():
    s = sampler(domains=["z", "a", "m", "a"], pool_size=2)
    assert s.names == ("a", "m", "z") and s.sizes.tolist() == [2, 1, 1] and s.codes.tolist() == [2, 0, 1, 0]
    a, b = draw(sampler(seed=1), 0, 5), draw(sampler(seed=2), 0, 5)
    assert not all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    with pytest.raises(MixtureError, match="row 1"):
        sampler(domains=["a", None])
    with pytest.raises(MixtureError, match="empty"):
        sampler(domains=[])


@pytest.mark.parametrize("stop", [0, 1, 7, 20, 39, 40])
def test_resume_equals_uninterrupted(stop):
    whole = sampler()
    pools = draw(whole, 0, 40)
    before = sampler()
    draw(before, 0, stop)
    state = json.loads(json.dumps(before.state_dict()))
    after = sampler()
    after.load_state_dict(state)
    np.testing.assert_array_equal(after.drawn, before.drawn)
    for expected, got in zip(pools[stop:], draw(after, stop, 40), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert after.state_dict() == whole.state_dict()


def test_state_of_consumed_steps_ignores_prefetched_pools():
    ahead, exact = sampler(), sampler()
    draw(ahead, 0, 12)
    draw(exact, 0, 9)
    assert ahead.state_dict(consumed=9) == exact.state_dict()
    with pytest.raises(MixtureError, match="consumed"):
        exact.state_dict(consumed=10)


def test_steps_must_come_in_order_and_inside_the_run():
    s = sampler(total_steps=2)
    draw(s, 0, 1)
    for wrong in (0, 2):
        with pytest.raises(MixtureError, match="at step 1"):
            s.plan(wrong)
    draw(s, 1, 2)
    with pytest.raises(MixtureError, match="outside"):
        s.plan(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "seed"),
        ({"pool_size": 8}, "pool_size"),
        ({"total_steps": 41}, "total_steps"),
        ({"schedule": CooldownSchedule(switch=0.4)}, "switch=0.4"),
        ({"max_epochs": 50}, "max_epochs"),
        ({"mode": "none"}, "mode"),
        ({"domains": [*DOMAINS, "d"]}, r"data changed.*'d'"),
        ({"domains": [*DOMAINS[:-2], "c"]}, r"data changed.*'b'"),
        ({"domains": DOMAINS[::-1]}, "other rows"),
    ],
)
def test_state_is_refused_when_something_changed(change, message):
    s = sampler()
    draw(s, 0, 5)
    with pytest.raises(MixtureError, match=message):
        sampler(**change).load_state_dict(s.state_dict())


def test_damaged_state_is_refused():
    s = sampler()
    draw(s, 0, 5)
    for field in ("cursor", "drawn", "wraps"):
        state = s.state_dict()
        state["domains"][0][field] += 1
        with pytest.raises(MixtureError, match="damaged"):
            sampler().load_state_dict(state)
    with pytest.raises(MixtureError, match="format"):
        sampler().load_state_dict({**s.state_dict(), "format": 99})


def test_changed_data_may_be_allowed_and_keeps_unchanged_cursors():
    s = sampler()
    draw(s, 0, 5)
    grown = [*DOMAINS, "d", "d"]
    after = sampler(domains=grown, total_steps=50)
    after.load_state_dict(s.state_dict(), allow_changed_data=True)
    assert after.drawn.tolist() == [*s.drawn.tolist(), 0] and after.next_step == 5
    unseen = set(range(100)) - {r for pool in draw(sampler(), 0, 5) for r in pool.tolist()}
    draw(after, 5, 6)
    pools = draw(after, 6, 8)
    assert {r for pool in pools for r in pool.tolist() if r < 100} <= unseen
    # The state written after such a change verifies and resumes like any other.
    again = sampler(domains=grown, total_steps=50)
    again.load_state_dict(after.state_dict())
    np.testing.assert_array_equal(draw(again, 8, 9)[0], draw(after, 8, 9)[0])


def test_mode_none_and_static_probabilities():
    plain = MixtureSampler(DOMAINS, 10, 5, None, 0, mode="none")
    np.testing.assert_array_equal(plain.probabilities(4), temperature_probabilities(D, 1))
    fixed = MixtureSampler(DOMAINS, 10, 10, None, 0, static={"a": 0.2, "b": 0.2, "c": 0.6}, max_epochs=20)
    np.testing.assert_allclose(fixed.probabilities(0) * 100, (40, 40, 20), atol=1e-9)
    with pytest.raises(MixtureError, match="static"):
        MixtureSampler(DOMAINS, 10, 5, None, 0, static={"a": 1.0})
    with pytest.raises(MixtureError, match="either"):
        MixtureSampler(DOMAINS, 10, 5, None, 0)


def test_global_generator_is_untouched():
    before = np.random.get_state()[1].copy()
    draw(sampler(), 0, 10)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
