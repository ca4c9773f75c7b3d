"""curate.influence.reliability: signal of known strength gives the figures that theory says, noise gives none."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from curate.influence.reliability import projection_noise, reliability

N = 20_000
# a correlation over N rows has a deviation of about 1 / sqrt(N) = 0.007; Spearman-Brown at most doubles it near 0
NEAR = 4 * 2 / np.sqrt(N)


def task_of(random, targets: int, signal: float) -> np.ndarray:
    """(N, targets): one common score per row of variance `signal`, and noise of variance 1 in every target."""
    common = random.standard_normal((N, 1)) * np.sqrt(signal)
    return common + random.standard_normal((N, targets))


@pytest.mark.parametrize("targets", [2, 3, 7, 20])
@pytest.mark.parametrize("signal", [0.0, 0.1, 1.0])
def test_split_half_is_the_share_of_signal_in_the_task_mean(targets, signal):
    scores = task_of(np.random.default_rng(targets), targets, signal)
    found = reliability(scores, ["math"] * targets, rows=N).split_half["math"]
    # variance of the mean over m targets: signal + 1 / m
    assert found == pytest.approx(signal / (signal + 1 / targets), abs=NEAR)


def test_tasks_are_told_apart_and_one_target_says_nothing():
    random = np.random.default_rng(0)
    strong, none, single = task_of(random, 6, 2.0), task_of(random, 6, 0.0), task_of(random, 1, 1.0)
    scores, tasks = np.hstack([strong, none, single]), ["math"] * 6 + ["code"] * 6 + ["law"]
    shuffled = random.permutation(13)
    found = reliability(scores[:, shuffled], [tasks[i] for i in shuffled], rows=N).split_half
    assert found["math"] > 0.9 and abs(found["code"]) < NEAR and found["law"] is None
    constant = reliability(np.ones((50, 2)), ["math"] * 2).split_half
    assert constant == {"math": None}


def test_opposed_halves_end_at_minus_one():
    one = np.random.default_rng(0).standard_normal((N, 1))
    assert reliability(np.hstack([one, -one]), ["math"] * 2).split_half["math"] == -1


def test_same_seed_same_figures_and_rows_are_sampled():
    random = np.random.default_rng(3)
    scores = task_of(random, 8, 0.2)
    parts = [scores, scores + random.standard_normal(scores.shape)]
    first, again, other = (reliability(scores, ["a"] * 8, parts, seed=seed, rows=1000) for seed in (1, 1, 2))
    assert first == again and first != other and first.rows == 1000
    assert reliability(scores, ["a"] * 8).rows == 4096 and reliability(scores, ["a"] * 8, rows=2 * N).rows == N
    assert json.loads(json.dumps(asdict(first)))["checkpoints"] == first.checkpoints


def test_checkpoints_agree_as_scipy_says():
    random = np.random.default_rng(4)
    parts = [task_of(random, 5, 1.0) for _ in range(3)]
    parts[1] += 2 * parts[0]
    found = reliability(parts[0], ["a"] * 5, parts, rows=N).checkpoints
    for i in range(3):
        for j in range(3):
            expected = np.median([spearmanr(parts[i][:, c], parts[j][:, c]).statistic for c in range(5)])
            assert found[i][j] == pytest.approx(expected, abs=1e-12)
    assert found[0][1] > 0.8 > 0.2 > abs(found[0][2])
    assert reliability(parts[0], ["a"] * 5).checkpoints == []


def test_rows_and_targets_without_a_score_do_not_count():
    random = np.random.default_rng(5)
    parts = [task_of(random, 4, 1.0) for _ in range(2)]
    clean = reliability(parts[0], ["a"] * 4, [part[1:] for part in parts], rows=N)
    hurt = [np.hstack([part, part[:, :1]]) for part in parts]
    hurt[0][0], hurt[1][:, 4] = np.nan, np.inf
    found = reliability(hurt[0], ["a"] * 4 + ["b"], hurt, rows=N)
    np.testing.assert_allclose(found.checkpoints, clean.checkpoints, atol=1e-12)
    assert found.rows == N - 1 and found.split_half["b"] is None


def test_scores_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="2 rows are too few"):
        reliability(np.ones((2, 2)), ["a", "a"])
    with pytest.raises(ValueError, match="1 labels for 2 columns"):
        reliability(np.ones((9, 2)), ["a"])


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("checkpoints", [1, 4])
def test_projection_noise_is_what_the_theory_says(checkpoints):
    """Cosines of real vectors before and after a dense Rademacher sketch, another one for each checkpoint."""
    random = np.random.default_rng(6)
    size, width, targets = 2000, 256, 30
    weights = np.array([0.4, 0.3, 0.2, 0.1])[:checkpoints] / sum([0.4, 0.3, 0.2, 0.1][:checkpoints])
    sketched, exact = np.zeros((500, targets)), np.zeros((500, targets))
    for w in weights:
        pool = unit(random.standard_normal((500, size)) + 0.2 * random.standard_normal(size))
        target = unit(random.standard_normal((targets, size)))
        sketch = random.choice([-1.0, 1.0], size=(size, width))
        exact += w * pool @ target.T
        sketched += w * unit(pool @ sketch) @ unit(target @ sketch).T
    found = projection_noise(sketched, exact, width, weights=weights)
    assert found.expected_std == pytest.approx(np.sqrt((weights**2).sum()) / 16)
    # 500 rows: 1 / sqrt(2 * 500) = 3 % for a column, less over 30 of them, whose noise is one sketch's though
    assert found.difference_std == pytest.approx(found.expected_std, rel=0.05)
    expected = [pearsonr(sketched[:, j], exact[:, j]).statistic for j in range(targets)]
    assert found.pearson == pytest.approx(np.mean(expected), abs=1e-12)
    expected = [spearmanr(sketched[:, j], exact[:, j]).statistic for j in range(targets)]
    assert found.spearman == pytest.approx(np.mean(expected), abs=1e-12)
    assert found.exact_std == pytest.approx(exact.std(axis=0, ddof=1).mean())
    assert found.sketched_std == pytest.approx(sketched.std(axis=0, ddof=1).mean())
    assert found.columns == targets


def test_projection_noise_leaves_out_what_has_no_score():
    random = np.random.default_rng(7)
    exact = random.standard_normal((50, 4))
    sketched = exact + 0.1 * random.standard_normal((50, 4))
    clean = projection_noise(sketched[1:, :3], exact[1:, :3], 100)
    sketched[0], exact[:, 3] = np.nan, np.nan
    assert projection_noise(sketched, exact, 100) == clean and clean.columns == 3
    with pytest.raises(ValueError, match="2 rows and 0 targets"):
        projection_noise(np.ones((2, 3)), np.ones((2, 3)), 100)
    with pytest.raises(ValueError, match="not of the same rows"):
        projection_noise(sketched[:5], exact, 100)
