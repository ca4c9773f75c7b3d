"""train.mixture.rounding: carried remainders, against the spec unit by unit, in the sampler and over a resume."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import mixture as reference
from train.mixture import ConstantSchedule, CooldownSchedule, MixtureError, MixtureSampler, carry_counts

DOMAINS = ["a"] * 100 + ["b"] * 10 + ["c"]


def sampler(**changes) -> MixtureSampler:
    settings = {"pool_size": 10, "total_steps": 40, "schedule": CooldownSchedule(5.0, 1.0), "seed": 3}
    return MixtureSampler(DOMAINS, **(settings | {"rounding": "carry"} | changes))


@given(
    st.lists(st.lists(st.floats(0.001, 1), min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(1, 12),
    st.integers(1, 9),
)
def test_equals_the_rule_unit_by_unit(shares, pool_size, steps):
    stretches = [(np.array(p) / sum(p), steps) for p in shares]
    wanted = reference.carry_counts([list(p) for p, n in stretches for _ in range(n)], pool_size)
    assert carry_counts(stretches, pool_size).tolist() == wanted


def test_surplus_comes_back_when_a_domain_is_owed_less_than_nothing():
    # the first pool gives b the unit it was owed half of; then its share vanishes and a's floor is too much
    stretches = [(np.array([0.5, 0.5]), 1), (np.array([1.0, 0.0]), 2)]
    counts = carry_counts(stretches, 1)
    assert counts.tolist() == reference.carry_counts([[0.5, 0.5], [1, 0], [1, 0]], 1)
    assert (counts >= 0).all() and (counts.sum(axis=1) == 1).all()


def test_whole_run_is_within_about_one_example_of_the_plan():
    s = sampler()
    counts = np.array([s.counts(t) for t in range(40)])
    wanted = np.cumsum([10 * s.probabilities(t) for t in range(40)], axis=0)
    assert (counts.sum(axis=1) == 10).all()
    assert np.abs(np.cumsum(counts, axis=0) - wanted).max() < 1 + 1e-9


def test_resume_equals_the_undisturbed_plan_and_other_rounding_is_refused():
    whole, first = sampler(), sampler()
    plans = [whole.plan(t) for t in range(40)]
    for t in range(17):
        first.plan(t)
    second = sampler()
    second.load_state_dict(first.state_dict())
    assert all(np.array_equal(second.plan(t), plans[t]) for t in range(17, 40))
    with pytest.raises(MixtureError, match="rounding: state 'carry', now 'systematic'"):
        sampler(rounding="systematic").load_state_dict(first.state_dict())


def test_sizes_in_tokens_move_the_temperature_but_not_the_epochs():
    row_sizes = [1] * 100 + [50] * 10 + [500]
    s = sampler(schedule=ConstantSchedule(1.0), row_sizes=row_sizes, rounding="systematic")
    np.testing.assert_allclose(s.probabilities(0), np.array([100, 500, 500]) / 1100)
    np.testing.assert_allclose(s.expected_epochs(), 400 * np.array([100, 500, 500]) / 1100 / [100, 10, 1])
    weighted = sampler(mode="scalarization", row_sizes=row_sizes)
    assert (weighted.domain_weights(0) * [100, 500, 500]).sum() / 1100 == pytest.approx(1.0)
    with pytest.raises(MixtureError, match="one size for each of 111 rows"):
        sampler(row_sizes=[1, 2])


def test_unknown_rounding():
    with pytest.raises(MixtureError, match="rounding 'cary' is unknown; choose one of systematic, carry"):
        sampler(rounding="cary")
