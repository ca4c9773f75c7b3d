"""train.coreset: the worked examples of the spec, the selector's promises, and its behaviour on unusable features."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import coreset as reference
from train.coreset import (
    CoresetError,
    CoresetSelector,
    adam_normalised,
    facility_location,
    kept_examples,
    masked,
    quotas,
    small_sources,
    updated_history,
)
from train.coreset.composition import floor_share, kept_count
from train.mixture import temperature_probabilities
from train.mixture.generators import keyed_generator

light = settings(max_examples=50, deadline=None)
POINTS = np.array([(0, 0), (1, 0), (0, 1), (5, 5), (6, 5), (10, 0)], dtype=float)
SHARES = np.array([0.40, 0.28, 0.20, 0.07, 0.05])  # sources 0, 1, 2 are big (1/c = .2), 3 and 4 small


def pool_of(step, size=40, shares=SHARES):
    """Sources and dataset rows of a pool, and a feature per dataset row that any test can recompute."""
    rng = np.random.default_rng(1000 + step)
    return rng.choice(shares.size, size=size, p=shares), rng.permutation(1000)[:size]


def features_of(rows, width=1):
    table = np.random.default_rng(5).normal(size=(1000, width))
    return table[rows]


def run(selector, first, stop, width=1):
    cores = []
    for step in range(first, stop):
        sources, rows = pool_of(step)
        plan = selector.plan(step, sources, SHARES, rows)
        cores.append(selector.select(plan, features_of(rows[plan.candidates], width) if plan.needs_features else None))
    return cores


def same(a, b):
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in a.__dataclass_fields__)


# Composition


def test_quota_example():
    assert quotas([13, 5, 2], 9).tolist() == [5, 3, 1]
    assert quotas([13, 5, 2], 9, method="largest_remainder").tolist() == [6, 2, 1]
    assert quotas([13, 5, 2], 20).tolist() == quotas([13, 5, 2], 99).tolist() == [13, 5, 2]
    assert quotas([3, 0], 0).tolist() == [0, 0] and quotas([0, 0], 4).tolist() == [0, 0]


@light
@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.integers(0, 200))
def test_quotas_against_reference(sizes, budget):
    got = quotas(sizes, budget)
    assert got.tolist() == reference.quotas(sizes, budget)
    for n in (got, quotas(sizes, budget, "largest_remainder")):
        assert n.sum() == min(budget, sum(sizes)) and (n <= sizes).all() and (n >= 0).all()
        if budget < sum(sizes):
            assert (np.abs(n - np.array(sizes) * budget / sum(sizes)) <= 1).all()


def test_quota_errors():
    with pytest.raises(CoresetError, match="negative"):
        quotas([1, -1], 1)
    with pytest.raises(CoresetError, match="negative"):
        quotas([1, 1], -1)
    with pytest.raises(CoresetError, match="method"):
        quotas([1], 1, "balanced?")


def test_keep_rule():
    sizes = np.array([300, 100, 80, 20])  # average 125
    assert small_sources(temperature_probabilities(sizes, 1)).tolist() == [False, True, True, True]
    assert not small_sources(temperature_probabilities(sizes, np.inf)).any()
    assert not small_sources(np.full(49, 1 / 49)).any()  # exactly average, whatever the rounding


@light
@given(st.integers(1, 80), st.integers(0, 80), st.integers(1, 10), st.integers(0, 20))
def test_kept_count_against_rule_in_words(pool, small, tenths, twentieths):
    small = min(small, pool)
    core = max(1, pool * tenths // 10)
    got = kept_count(small, pool, core, twentieths / 20)
    assert got == reference.kept_count(small, pool, core, twentieths, 20)
    assert small == 0 or got <= max(core, small)


def test_kept_examples_round_robin_and_cap():
    sources = np.array([0, 1, 1, 1, 1, 2, 2, 0, 0, 0])
    small = np.array([False, True, True])
    generator = keyed_generator(0, "test")
    all_kept = kept_examples(sources, small, core_size=10, kappa=0.75, generator=generator)
    assert all_kept.tolist() == [1, 2, 3, 4, 5, 6]
    capped = kept_examples(sources, small, core_size=6, kappa=0.75, generator=generator)  # floor(4.5) = 4
    assert np.bincount(sources[capped]).tolist() == [0, 2, 2]
    # Only 4 big examples exist for the 5 places that kappa leaves: one dropped example returns.
    refilled = kept_examples(sources, small, core_size=8, kappa=0.4, generator=generator)
    assert refilled.size == 4 and kept_examples(sources, small, 8, 0.25, generator).size == 4


def test_kept_examples_do_not_depend_on_pool_order():
    sources, rows = pool_of(0, size=30, shares=np.array([0.2, 0.4, 0.4]))
    small, order = np.array([False, True, True]), np.random.default_rng(2).permutation(30)
    one = kept_examples(sources, small, 15, 0.5, keyed_generator(0, "k"), rows)
    two = kept_examples(sources[order], small, 15, 0.5, keyed_generator(0, "k"), rows[order])
    assert sorted(rows[one]) == sorted(rows[order][two])


def test_floor_share_of_decimal_shares():
    assert floor_share(0.29, 100) == 29 and floor_share(0.75, 64) == 48 and floor_share(0.5, 7) == 3


# Facility location


def test_facility_example():
    picks, gains, sizes = facility_location(POINTS, 3)
    assert picks.tolist() == [1, 3, 5]
    assert gains.tolist() == [35, 18, 9] and sizes.tolist() == [3, 2, 1]
    assert gains.sum() == 62 and reference.best_objective(POINTS.tolist(), 3) == 63
    similarity = np.array(reference.similarities(POINTS.tolist()))
    assert similarity.max() == 11 and similarity.sum(axis=0).tolist() == [33, 35, 33, 27, 25, 17]


def test_line_example_breaks_the_tie_by_row():
    line = np.array([0.0, 1.0, 3.0, 7.0])
    assert np.array(reference.similarities(line[:, None].tolist())).sum(axis=0).tolist() == [17, 19, 19, 11]
    assert facility_location(line, 1)[0].tolist() == [1]
    # The same tie with noise of the last bits must not change hands.
    noisy = line * 0.1 + np.array([1e-17, 3e-16, -3e-16, 0])
    assert facility_location(noisy, 1)[0].tolist() == [1]


@light
@given(
    st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=9),
    st.integers(0, 10),
    st.sampled_from([1.0, 0.1, 1 / 3]),
)
def test_facility_against_reference(rows, budget, scale):
    # Small integer grids are full of ties; non-binary scales add float noise on top of them.
    picks, gains, sizes = facility_location(np.array(rows, dtype=float) * scale, budget)
    want = reference.facility_location([[float(a), float(b)] for a, b in rows], budget)
    assert picks.tolist() == want[0]
    np.testing.assert_allclose(gains, np.array(want[1]) * scale, atol=1e-9)
    assert sizes.tolist() == want[2]


@light
@given(
    st.integers(1, 40), st.integers(0, 50), st.integers(1, 4), st.integers(0, 10**6), st.sampled_from(["l1", "cosine"])
)
def test_facility_properties(n, budget, width, seed, metric):
    x = np.random.default_rng(seed).normal(size=(n, width))
    picks, gains, sizes = facility_location(x, budget, metric)
    assert len(set(picks.tolist())) == picks.size == min(budget, n)
    assert (np.diff(gains) <= 1e-8).all() and (gains >= 0).all()
    assert sizes.sum() == (n if picks.size else 0) and (sizes >= 1).all()


def test_facility_edges():
    assert [a.tolist() for a in facility_location(POINTS, 0)] == [[], [], []]
    assert sorted(facility_location(POINTS, 99)[0].tolist()) == list(range(6))
    assert [a.tolist() for a in facility_location([[3.0]], 1)] == [[0], [0], [1]]
    same_rows = facility_location(np.ones((4, 2)), 3)
    assert [a.tolist() for a in same_rows] == [[0, 1, 2], [0, 0, 0], [2, 1, 1]]
    with pytest.raises(CoresetError, match=r"rows \[1\] are not finite"):
        facility_location([[1.0], [np.nan]], 1)
    with pytest.raises(CoresetError, match="metric"):
        facility_location(POINTS, 1, "l2")
    with pytest.raises(CoresetError, match="zero"):
        facility_location(POINTS, 1, "cosine")
    with pytest.raises(CoresetError, match="budget"):
        facility_location(POINTS, -1)


def test_cosine_groups_by_direction():
    x = np.array([(1, 0), (5, 0.1), (0, 1), (0.1, 9), (0.2, 7)])
    picks, _, sizes = facility_location(x, 2, "cosine")
    assert {int(p) // 2 for p in np.minimum(picks, 3)} == {0, 1} and sorted(sizes.tolist()) == [2, 3]


# Features, moments and mask


def test_adam_example():
    z = np.array([0.5, 2.0])
    f = np.array([-4.5, -1.5, -2.5, -2.0])[:, None] * z
    np.testing.assert_allclose(f, [(-2.25, -9), (-0.75, -3), (-1.25, -5), (-1, -4)])
    np.testing.assert_allclose(adam_normalised(f, np.zeros(2), np.zeros(2), 1), -np.ones((4, 2)), atol=1e-6)
    m, v = updated_history(f[[0, 3]], np.zeros(2), np.zeros(2))
    np.testing.assert_allclose(m, (-0.1625, -0.65), atol=1e-12)
    np.testing.assert_allclose(v, (0.00303125, 0.0485), atol=1e-12)
    u = adam_normalised(np.array([-1, 0.5, 2, 4])[:, None] * z, m, v, 2)
    for column in u.T:
        np.testing.assert_allclose(column, (-0.806573, -0.513221, -0.171478, 0.150872), atol=1e-6)


def test_raw_moments_are_corrected_on_use_only():
    m, v = updated_history([[2.0]], [0.0], [0.0])
    m, _ = updated_history([[1.0]], m, v)
    assert m[0] == pytest.approx(0.28, abs=1e-12)  # the paper's printed recursion would give 10.0


def test_one_z_table_and_limits():
    g = np.array([-4, -1, -0.5, 0, 0.5, 1, 4])
    want = (-0.031233, 0.041451, 0.053682, 0.065900, 0.078084, 0.090216, 0.160971)
    u = adam_normalised(g[:, None], [0.3], [0.5], 5)[:, 0]
    np.testing.assert_allclose(u, want, atol=1e-6)
    np.testing.assert_allclose(u, [reference.one_z(x, 0.3, 0.5, 5) for x in g], atol=1e-7)
    for t, limit in [(1, 1), (2, 0.744137), (10, 0.484426), (100, 0.975771), (1000, 2.514567)]:
        assert adam_normalised([[1e9]], [0.3], [0.5], t)[0, 0] == pytest.approx(limit, abs=1e-6)


def test_h_is_not_monotone_beyond_its_peak():
    a, c = 0.3, 0.5
    peak = 0.1 * 0.999 * c / (0.9 * 0.001 * a)
    u = adam_normalised(np.array([peak / 2, peak, peak * 2])[:, None], [a], [c], 5)[:, 0]
    assert u[1] > u[0] and u[1] > u[2]


def test_mask_keeps_largest_absolute_mean():
    u = np.array([[3, -1, 0.5, 1, 0], [-3, -1, 0.5, 1, 0]], dtype=float)  # means 0, -1, .5, 1, 0
    assert masked(u, 2).tolist() == [[-1, 1], [-1, 1]]
    assert masked(u, 1).tolist() == [[-1], [-1]]  # tie of |-1| and |1|: the lowest coordinate
    assert masked(u, 4).tolist() == u[:, :4].tolist()  # tie of coordinates 0 and 4
    assert masked(u, 9).tolist() == masked(u, None).tolist() == u.tolist()


def test_one_z_scalar_path_equals_full_vector_path():
    z = np.random.default_rng(3).normal(size=7)
    scalar, vector = CoresetSelector(eps=0), CoresetSelector(feature="last_layer", mask_size=3, eps=0)
    for step in range(6):
        sources, rows = pool_of(step)
        g = features_of(rows)
        plan = scalar.plan(step, sources, SHARES, rows)
        one = scalar.select(plan, g[plan.candidates])
        full = vector.select(vector.plan(step, sources, SHARES, rows), g[plan.candidates] * z)
        assert same(one, full)
    np.testing.assert_allclose(vector.m_hist, scalar.m_hist * z, rtol=1e-12)
    np.testing.assert_allclose(vector.v_hist, scalar.v_hist * z * z, rtol=1e-12)


# The selector


@light
@given(
    st.integers(0, 10**6), st.integers(2, 60), st.sampled_from([0.25, 0.5, 0.7, 1.0]), st.floats(0, 1), st.floats(1, 9)
)
def test_core_size_and_quotas_for_random_pools(seed, size, ratio, kappa, tau):
    rng = np.random.default_rng(seed)
    p = temperature_probabilities([500, 200, 90, 30, 4], tau)
    sources = rng.choice(5, size=size, p=p)
    selector = CoresetSelector(ratio=ratio, kappa=kappa, seed=seed)
    b = floor_share(ratio, size)
    if b < 1:
        with pytest.raises(CoresetError, match="no example"):
            selector.plan(0, sources, p)
        return
    plan = selector.plan(0, sources, p)
    core = selector.select(plan, rng.normal(size=(plan.candidates.size, 3)))
    assert core.positions.size == b == np.unique(core.positions).size
    assert (np.diff(core.positions) > 0).all()
    assert core.kept.sum() + core.quotas.sum() == b
    np.testing.assert_array_equal(np.bincount(sources[core.positions[~core.kept]], minlength=5), core.quotas)
    small = small_sources(p)
    assert small[sources[core.positions[core.kept]]].all() and not small[sources[plan.candidates]].any()
    assert (core.quotas[sources[plan.candidates]] > 0).all()
    assert core.cluster_sizes[~core.kept].sum() == plan.candidates.size


def test_cap_saves_the_core_at_a_high_temperature():
    # Section 3: at tau 5 the ten small MathInstruct sources fill about 61 % of the pool, 78 of 128, more than b = 64.
    shares = np.array([0.39 / 4] * 4 + [0.061] * 10)
    sources = np.concatenate([np.arange(50) % 4, 4 + np.arange(78) % 10])
    plan = CoresetSelector().plan(0, sources, shares)
    assert plan.core_size == 64 and plan.kept.size == 48 and plan.quotas.sum() == 16
    assert set(np.bincount(sources[plan.kept])[4:].tolist()) == {4, 5}  # round robin: equal to within one


def test_step_by_step_matches_the_parts():
    # A large eps, because the correction by t scales every distance alike and would not show in the picks without it.
    selector = CoresetSelector(eps=0.5)
    m, v = np.zeros(3), np.zeros(3)
    for step in range(12):
        sources, rows = pool_of(step)
        plan = selector.plan(step, sources, SHARES, rows)
        f = features_of(rows[plan.candidates], 3)
        core = selector.select(plan, f)
        u = adam_normalised(f, m, v, step + 1, eps=0.5)
        chosen = []
        for s in range(3):
            inside = np.flatnonzero(sources[plan.candidates] == s)
            picks, _, _ = facility_location(u[inside], int(plan.quotas[s]))
            chosen += inside[picks].tolist()
        np.testing.assert_array_equal(core.positions, np.sort([*plan.kept, *plan.candidates[chosen]]))
        m, v = 0.9 * m + 0.1 * f[chosen].mean(axis=0), 0.999 * v + 0.001 * (f[chosen] ** 2).mean(axis=0)
        np.testing.assert_allclose(selector.m_hist, m, rtol=1e-12)
        np.testing.assert_allclose(selector.v_hist, v, rtol=1e-12)
        assert selector.updates == step + 1


@pytest.mark.parametrize("feature", ["spsa", "random"])
def test_pool_order_does_not_matter(feature):
    order = np.random.default_rng(9).permutation(40)
    one, two = CoresetSelector(feature=feature), CoresetSelector(feature=feature)
    for step in range(4):
        sources, rows = pool_of(step)
        cores = []
        for selector, o in ((one, np.arange(40)), (two, order)):
            plan = selector.plan(step, sources[o], SHARES, rows[o])
            core = selector.select(plan, features_of(rows[o][plan.candidates], 2) if plan.needs_features else None)
            cores.append(set(rows[o][core.positions].tolist()))
        assert cores[0] == cores[1]


def test_random_keeps_the_same_shares():
    for step, (ranked, control) in enumerate(
        zip(run(CoresetSelector(), 0, 5), run(CoresetSelector(feature="random"), 0, 5), strict=True)
    ):
        sources, _ = pool_of(step)
        np.testing.assert_array_equal(ranked.quotas, control.quotas)
        np.testing.assert_array_equal(ranked.positions[ranked.kept], control.positions[control.kept])
        np.testing.assert_array_equal(np.bincount(sources[ranked.positions]), np.bincount(sources[control.positions]))
        assert (control.cluster_sizes == 1).all()
    again = run(CoresetSelector(feature="random"), 0, 2)
    other = run(CoresetSelector(feature="random", seed=1), 0, 2)
    assert all(map(same, again, run(CoresetSelector(feature="random"), 0, 2))) and not all(map(same, again, other))


@pytest.mark.parametrize("feature", ["spsa", "last_layer", "random"])
@pytest.mark.parametrize("stop", [0, 1, 3, 7])
def test_resume_equals_uninterrupted(feature, stop):
    def fresh():
        return CoresetSelector(feature=feature, mask_size=2)

    whole = fresh()
    cores = run(whole, 0, 8, width=4)
    before, after = fresh(), fresh()
    run(before, 0, stop, width=4)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert all(map(same, cores[stop:], run(after, stop, 8, width=4)))
    assert after.state_dict() == whole.state_dict()


def test_plan_alone_leaves_the_history():
    selector = CoresetSelector()
    run(selector, 0, 2)
    history = selector.m_hist.copy(), selector.updates
    sources, rows = pool_of(2)
    selector.plan(2, sources, SHARES, rows)
    assert np.array_equal(selector.m_hist, history[0]) and selector.updates == history[1]


@pytest.mark.parametrize(
    "change",
    [{"ratio": 0.4}, {"kappa": 0.5}, {"feature": "random"}, {"seed": 9}, {"metric": "cosine"}, {"mask_size": 3}],
)
def test_state_of_other_settings_is_refused(change):
    selector = CoresetSelector()
    run(selector, 0, 1)
    with pytest.raises(CoresetError, match=next(iter(change))):
        CoresetSelector(**change).load_state_dict(selector.state_dict())
    with pytest.raises(CoresetError, match="format"):
        CoresetSelector().load_state_dict({**selector.state_dict(), "format": 0})


def test_changed_pool_or_feature_width_is_refused():
    selector, after = CoresetSelector(), CoresetSelector()
    run(selector, 0, 1)
    after.load_state_dict(selector.state_dict())
    sources, rows = pool_of(1)
    with pytest.raises(CoresetError, match="pool size"):
        after.plan(1, sources[:-1], SHARES, rows[:-1])
    plan = after.plan(1, sources, SHARES, rows)
    with pytest.raises(CoresetError, match="coordinates"):
        after.select(plan, features_of(rows[plan.candidates], 2))
    with pytest.raises(CoresetError, match="one row for each"):
        after.select(plan, None)


def test_unusable_features_are_excluded_and_quotas_recomputed():
    sources, rows = pool_of(0)
    selector = CoresetSelector()
    plan = selector.plan(0, sources, SHARES, rows)
    g = features_of(rows[plan.candidates]).astype(np.float32)
    inside = np.flatnonzero(sources[plan.candidates] == 0)
    bad = inside[: inside.size - 2]  # two usable examples are left in the largest source
    g[bad[0]], g[bad[1]], g[bad[2:]] = np.inf, 0.0, np.nan
    core = selector.select(plan, g)
    np.testing.assert_array_equal(core.excluded, np.sort(plan.candidates[bad]))
    assert not set(core.positions.tolist()) & set(core.excluded.tolist())
    left = np.bincount(np.delete(sources[plan.candidates], bad), minlength=5)
    np.testing.assert_array_equal(core.quotas, quotas(left, plan.core_size - plan.kept.size))
    assert core.positions.size == plan.core_size and core.quotas[0] <= 2 < plan.quotas[0]
    assert np.isfinite(selector.m_hist).all()


def test_dropped_small_examples_return_when_big_ones_fail():
    sources = np.repeat([0, 1], [12, 8])
    selector = CoresetSelector(kappa=0.2)  # b = 10: 2 small examples kept, 6 dropped
    plan = selector.plan(0, sources, np.array([0.6, 0.4]))
    assert plan.kept.size == 2 and plan.candidates.size == 12
    g = np.arange(1.0, 13.0)
    g[:9] = np.nan
    core = selector.select(plan, g)
    assert core.kept.sum() == 7 and core.quotas.tolist() == [3, 0] and core.positions.size == 10
    g[:] = np.nan
    updates = selector.updates
    assert selector.select(plan, g).positions.tolist() == list(range(12, 20))  # everything that is left: 8 of 10
    assert selector.updates == updates


def test_no_update_when_small_sources_fill_the_core():
    selector = CoresetSelector(kappa=1.0)
    plan = selector.plan(0, np.repeat([0, 1], [4, 6]), np.array([0.6, 0.4]))
    assert plan.kept.size == 5 and not plan.needs_features and plan.candidates.size == 0
    core = selector.select(plan)
    assert core.kept.all() and core.positions.size == 5 and selector.updates == 0 and selector.m_hist is None


@pytest.mark.parametrize(
    "wrong", [{"ratio": 0}, {"ratio": 1.5}, {"kappa": -0.1}, {"feature": "loss"}, {"mask_size": 0}, {"metric": "l2"}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(CoresetError, match=next(iter(wrong))):
        CoresetSelector(**wrong)
    with pytest.raises(CoresetError, match="sources"):
        CoresetSelector().plan(0, [0, 7], SHARES)


def test_global_generator_is_untouched():
    before = np.random.get_state()[1].copy()
    run(CoresetSelector(), 0, 2)
    run(CoresetSelector(feature="random"), 0, 2)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
