"""train.coreset: equal quotas, medoids over all big sources at once, and sources that are small by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.coreset import CoresetError, CoresetSelector, quotas

SOURCES = np.array([0] * 8 + [1] * 5 + [2] * 3)
SHARES = np.array([0.5, 0.3, 0.2])


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(0, 80), st.integers(0, 5))
def test_equal_shares_differ_by_one_unless_a_source_runs_out(sizes, budget, seed):
    given_out = quotas(sizes, budget, "balanced", np.random.default_rng(seed))
    assert given_out.sum() == min(budget, sum(sizes))
    assert (given_out <= sizes).all()
    open_sources = [got for got, size in zip(given_out.tolist(), sizes, strict=True) if got < size]
    if open_sources:
        assert max(given_out) - min(open_sources) <= 1


def test_equal_shares_by_hand():
    assert quotas([10, 1, 10], 9, "balanced").tolist() == [4, 1, 4]
    assert sorted(quotas([10, 10], 5, "balanced", np.random.default_rng(0)).tolist()) == [2, 3]


def test_no_quotas_are_medoids_of_all_big_sources_together():
    selector = CoresetSelector(ratio=0.25, quota_method="none", feature="spsa", small=[])
    plan = selector.plan(0, SOURCES, SHARES)
    assert plan.candidates.tolist() == list(range(16))
    assert plan.quotas.tolist() == [4, 0, 0]
    # all values of sources 1 and 2 are one point: a medoid there, the rest where the spread is
    core = selector.select(plan, np.concatenate([[-4.0, -3, -2, -1, 1, 2, 3, 4], np.full(8, -3.0)]))
    assert len(core.positions) == 4


def test_small_sources_by_name_replace_the_rule():
    by_rule = CoresetSelector(ratio=0.5, feature="random").plan(0, SOURCES, SHARES)
    assert set(SOURCES[by_rule.kept].tolist()) == {1, 2}
    by_name = CoresetSelector(ratio=0.5, feature="random", small=[1], kappa=1.0).plan(0, SOURCES, SHARES)
    assert SOURCES[by_name.kept].tolist() == [1] * 5
    assert not CoresetSelector(ratio=0.5, feature="random", small=[]).plan(0, SOURCES, SHARES).kept.size


def test_state_of_other_small_sources_is_refused():
    state = CoresetSelector(small=[1]).state_dict()
    with pytest.raises(CoresetError, match=r"small: state \[1\], now \[2\]"):
        CoresetSelector(small=[2]).load_state_dict(state)


def test_unknown_quota_method():
    with pytest.raises(CoresetError, match="choose proportional, largest_remainder, balanced or none"):
        CoresetSelector(quota_method="equal")
