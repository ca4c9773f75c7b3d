"""The linear datamodeling score on models whose loss is known, beside SciPy's Spearman and a plain bootstrap."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.datamodeling.lds import agreement, ceiling, rank_correlations

SETS, ROWS, TARGETS = 60, 40, 12


@pytest.fixture
def additive():
    """Row effects, halves, and losses that are minus the sum of the effects of a half's rows."""
    rng = np.random.default_rng(3)
    effects = rng.standard_normal((ROWS, TARGETS))
    members = np.argsort(rng.random((SETS, ROWS)), axis=1) < ROWS // 2
    return effects, members, 5.0 - members @ effects


def test_the_true_effects_score_one_their_opposite_minus_one_and_chance_about_zero(additive):
    effects, members, losses = additive
    chance = np.random.default_rng(4).standard_normal(effects.shape)
    found = agreement({"true": effects, "opposite": -effects, "chance": chance}, members, losses, resamples=50)
    np.testing.assert_allclose(found.per_target["true"], 1.0)
    np.testing.assert_allclose(found.per_target["opposite"], -1.0)
    # the mean of 12 nearly independent correlations, each of deviation 1 / sqrt(59): four of its deviations
    assert abs(found.mean("chance").value) < 4 / np.sqrt((SETS - 1) * TARGETS)


def test_scale_and_offset_of_a_column_change_nothing(additive):
    effects, members, losses = additive
    noisy = effects + np.random.default_rng(5).standard_normal(effects.shape)
    moved = 3.0 + noisy * np.linspace(0.5, 9.0, TARGETS)
    found = agreement({"noisy": noisy, "moved": moved}, members, losses, resamples=20)
    np.testing.assert_allclose(found.per_target["moved"], found.per_target["noisy"])
    np.testing.assert_allclose(found.draws["moved"], found.draws["noisy"])


def test_rank_correlations_are_spearmans_ties_included():
    rng = np.random.default_rng(6)
    a, b = rng.integers(0, 6, (30, 5)).astype(float), rng.standard_normal((30, 5))
    np.testing.assert_allclose(rank_correlations(a, b), [spearmanr(a[:, j], b[:, j])[0] for j in range(5)])
    assert rank_correlations(np.ones((30, 1)), b[:, :1]) == 0.0


def test_the_interval_is_the_plain_bootstraps_and_differences_are_paired(additive):
    effects, members, losses = additive
    rng = np.random.default_rng(7)
    scores = {name: effects + spread * rng.standard_normal(effects.shape) for name, spread in (("a", 1), ("b", 2))}
    found = agreement(scores, members, losses, resamples=40, seed=11)
    draws = np.random.default_rng([11, 1])
    plain = {name: [] for name in scores}
    for _ in range(40):
        drawn = draws.integers(SETS, size=SETS)
        for name, matrix in scores.items():
            sums = members[drawn] @ matrix
            plain[name].append(np.mean([spearmanr(sums[:, j], -losses[drawn, j])[0] for j in range(TARGETS)]))
    for name in scores:
        np.testing.assert_allclose(found.draws[name], plain[name])
    gap = found.difference("a", "b")
    low, high = np.quantile(np.subtract(plain["a"], plain["b"]), [0.025, 0.975])
    np.testing.assert_allclose([gap.low, gap.high], [low, high])
    assert gap.low < gap.value < gap.high
    assert found.difference("a", "a") == type(gap)(0.0, 0.0, 0.0)


def test_the_ceiling_is_what_the_true_effects_reach_on_noisy_losses():
    rng = np.random.default_rng(8)
    sets, targets = 400, 60  # many, so that both sides are known to a few hundredths
    effects = rng.standard_normal((ROWS, targets))
    members = np.argsort(rng.random((sets, ROWS)), axis=1) < ROWS // 2
    true = -(members @ effects)
    first, second = (true + 3.0 * rng.standard_normal(true.shape) for _ in range(2))
    reached = agreement({"true": effects}, members, first, resamples=2).mean("true").value
    assert 0.4 < reached < 0.9  # the noise is of the size of the signal
    # Spearman's is a few hundredths below Pearson's, which the formula is about
    assert ceiling(first, first[:50], second[:50]) == pytest.approx(reached, abs=0.05)
    assert ceiling(first, first[:50], first[:50]) == 1.0
    assert ceiling(first, first[:0], second[:0]) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e, m, x: ({"s": e[1:]}, m, x), "shape"),
        (lambda e, m, x: ({"s": np.where(e > 2, np.nan, e)}, m, x), "not finite"),
        (lambda e, m, x: ({"s": e}, m, np.where(x > 8, np.nan, x)), "not finite"),
        (lambda e, m, x: ({"s": e}, m[:3], x[:3]), "train more halves"),
    ],
)
def test_what_cannot_be_scored_is_an_error(additive, change, message):
    with pytest.raises(ValueError, match=message):
        agreement(*change(*additive), resamples=2)
