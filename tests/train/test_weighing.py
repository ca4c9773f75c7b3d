"""train.weighing and train.sharing: the worked examples of the specs, and that nothing is scaled twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.reweighting import effective_sample_size
from train.settings import AnnealSettings, CoresetSettings, ReweightingSettings
from train.sharing import share_by_tokens
from train.weighing import GatherSet, Weigher, loss_coefficients, reweighting_schedule

LOSSES = np.array([1.0, 2.0, 3.0, 5.0])
TOKENS = np.array([10, 20, 30, 40])
ONES = np.ones(2)
REWEIGHTING = ReweightingSettings(burn_in=0.0, cap=None)


def four(**changes) -> GatherSet:
    parts = {"tokens": TOKENS, "domains": np.array([0, 0, 1, 1]), "cluster_sizes": np.array([1, 1, 3, 3])}
    return GatherSet(**(parts | changes))


def test_product_of_losses_and_clusters_is_the_worked_example():
    weigher = Weigher(REWEIGHTING, CoresetSettings(cluster_exponent=1.0), 10)
    weights = weigher.weights(0, four(), ONES, LOSSES)
    np.testing.assert_allclose(weights, [0.210988, 0.347861, 1.720576, 1.720576], atol=1e-6)
    assert effective_sample_size(weights) == pytest.approx(2.628862, abs=1e-5)
    for reduction, loss in (("sample", 3.667829), ("token", 5.149912), ("token_normalized", 3.976539)):
        assert loss_coefficients(weights, TOKENS, reduction) @ LOSSES == pytest.approx(loss, abs=1e-6)
    assert loss_coefficients(np.ones(4), TOKENS, "sample") @ LOSSES == pytest.approx(2.75)
    assert loss_coefficients(np.ones(4), TOKENS, "token") @ LOSSES == pytest.approx(3.4)


def test_clusters_alone():
    weights = Weigher(None, CoresetSettings(cluster_exponent=1.0), 10).weights(0, four(), ONES, None)
    np.testing.assert_allclose(weights, [0.5, 0.5, 1.5, 1.5])


def test_scalarization_alone_is_not_renormalised():
    weights = Weigher(None, None, 10).weights(0, four(), np.array([0.8, 2.5]), None)
    assert weights.tolist() == [0.8, 0.8, 2.5, 2.5]
    with_losses = Weigher(REWEIGHTING, None, 10).weights(0, four(), np.array([0.8, 2.5]), LOSSES)
    assert with_losses.mean() == pytest.approx(1.0)


def test_exponents_of_the_product():
    twice = Weigher(REWEIGHTING.model_copy(update={"exponent": 2.0}), None, 10).weights(0, four(), ONES, LOSSES)
    once = Weigher(REWEIGHTING, None, 10).weights(0, four(), ONES, LOSSES)
    np.testing.assert_allclose(twice, once**2 / (once**2).mean())


def test_rows_without_a_loss_count_nowhere():
    losses = np.array([1.0, np.nan, 3.0, 5.0])
    weights = Weigher(REWEIGHTING, None, 10).weights(0, four(), ONES, losses)
    assert weights[1] == 0
    assert weights[[0, 2, 3]].mean() == pytest.approx(1.0)
    assert loss_coefficients(weights, TOKENS, "sample")[[0, 2, 3]].sum() == pytest.approx(1.0)
    no_labels = Weigher(None, None, 10).weights(0, four(tokens=np.array([0, 20, 30, 40])), ONES, None)
    assert no_labels.tolist() == [0, 1, 1, 1]
    assert not Weigher(REWEIGHTING, None, 10).weights(0, four(), ONES, np.full(4, np.nan)).any()


def test_min_max_by_source():
    by_source = Weigher(REWEIGHTING.model_copy(update={"min_max": "source"}), None, 10)
    weights = by_source.weights(0, four(), ONES, LOSSES)
    assert weights[0] == pytest.approx(weights[2])  # each the lower of its source
    assert weights[1] == pytest.approx(weights[3])


def test_burn_in_and_anneal():
    anneal = AnnealSettings(start=10.0, end=2.0, first=0.2, last=0.6)
    schedule = reweighting_schedule(ReweightingSettings(burn_in=0.1, anneal=anneal), 100)
    assert [schedule(t) for t in (0, 9, 10, 20, 40, 60, 99)] == [np.inf, np.inf, 10.0, 10.0, 6.0, 2.0, 2.0]
    weigher = Weigher(ReweightingSettings(burn_in=0.1), None, 100)
    assert [weigher.needs_losses(t) for t in (0, 9, 10)] == [False, False, True]


@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=60),
    st.integers(1, 5),
    st.booleans(),
)
def test_shares_hold_every_row_once_and_are_even(tokens, processes, equal_counts):
    shares = share_by_tokens(tokens, processes, equal_counts=equal_counts)
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(tokens)))
    assert all((np.diff(share) > 0).all() for share in shares)
    if len(tokens) >= processes:
        assert min(map(len, shares)) >= 1
    if equal_counts:
        assert max(map(len, shares)) <= -(-len(tokens) // processes)
    else:
        loads = [sum(tokens[i] for i in share) for share in shares]
        assert max(loads) <= sum(tokens) / processes + max(tokens)


def test_shares_worked_by_hand():
    assert [s.tolist() for s in share_by_tokens([5, 9, 2, 9, 4], 2)] == [[0, 1], [2, 3, 4]]
    assert share_by_tokens([3, 1, 2], 1)[0].tolist() == [0, 1, 2]
