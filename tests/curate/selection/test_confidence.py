"""Confidence against its definition: run the method again on the drawn columns, count, compare."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from curate.selection import METHODS, SelectionError, SelectionWarning
from curate.selection.constraints import Constraints
from curate.selection.explain import resampled_columns, selection_confidence
from curate.selection.explain.confidence import BY_COLUMN

pytestmark = pytest.mark.filterwarnings("ignore:unequal columns per task")
TASKS = ["maths"] * 4 + ["code"] * 3 + ["chat"] * 5


def random_scores(rows=120, seed=0):
    scores = np.random.default_rng(seed).normal(size=(rows, 12)).astype(np.float32)
    return np.round(scores, 1)  # ties decide some picks


def confidence_of(method, scores, budget=20, tasks=TASKS, **options):
    def select(part, labels):
        return METHODS[method](part, budget, tasks=labels, seed=5)

    options = {"resamples": 12, "seed": 3, "by_column": method in BY_COLUMN} | options
    return selection_confidence(select, scores, select(scores, tasks), tasks, **options)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"random"}))
def test_a_share_is_how_often_the_method_chooses_the_row_from_the_drawn_columns(method):
    scores = random_scores()
    found = confidence_of(method, scores)
    original = set(METHODS[method](scores, 20, tasks=TASKS, seed=5).order.tolist())
    counts = np.zeros(120)
    for number, drawn in enumerate(resampled_columns(TASKS, 12, 3)):
        # with the columns that were drawn twice, whether or not the method needs them
        again = METHODS[method](scores[:, drawn], 20, tasks=[TASKS[j] for j in drawn], seed=5).order.tolist()
        counts[again] += 1
        both = len(original & set(again))
        assert found.overlap[number] == both / 20
        assert found.jaccard[number] == both / (40 - both)
    assert found.share.tolist() == (counts / 12).tolist()
    assert found.share.sum() == pytest.approx(20)


def test_draws_stay_within_their_task():
    drawn = resampled_columns(TASKS, 200, 0)
    assert drawn.shape == (200, 12)
    assert (np.diff(drawn, axis=1) >= 0).all()
    labels = np.array(TASKS)[drawn]
    for task in set(TASKS):
        assert ((labels == task).sum(axis=1) == TASKS.count(task)).all()
    assert set(drawn.ravel()) == set(range(12))
    # a column is missing from (1 - 1/4)^4 of the draws of a task of four
    missing = np.mean([0 not in row for row in drawn])
    assert missing == pytest.approx(0.316, abs=0.1)


def test_interleaved_tasks_are_drawn_alike():
    tasks = ["a", "b"] * 4
    for row in resampled_columns(tasks, 20, 1):
        assert [tasks[j] for j in row].count("a") == 4


def test_the_seed_decides():
    scores = random_scores()
    first, same, other = (confidence_of("bids", scores, seed=seed) for seed in (1, 1, 2))
    assert first.share.tolist() == same.share.tolist()
    assert first.share.tolist() != other.share.tolist()


def test_a_row_that_every_target_wants_is_always_chosen():
    scores = random_scores()
    scores[7] = 50
    found = confidence_of("bids", scores)
    assert found.share[7] == 1
    assert found.share.max() == 1 and 0 < found.spread()["overlap"].mean < 1
    spread = found.spread()["overlap"]
    assert min(found.overlap) <= spread.low <= spread.mean <= spread.high <= max(found.overlap)


def test_where_targets_do_not_matter_nothing_is_claimed():
    scores = random_scores()
    drawn = confidence_of("random", scores)
    assert drawn.share is None and drawn.overlap.size == 0
    assert "does not look at the targets" in drawn.reason
    single = confidence_of("less", scores[:, [0, 5, 9]], tasks=["maths", "code", "chat"])
    assert single.share is None and "single column" in single.reason


def test_constraints_hold_in_every_resample():
    scores = random_scores()

    def select(part, labels):
        demands = Constraints(include=[11], exclude=[0, 1, 2])
        return METHODS["bids"](part, 20, tasks=labels, constraints=demands)

    found = selection_confidence(select, scores, select(scores, TASKS), TASKS, resamples=8, by_column=True)
    assert found.share[11] == 1 and found.share[:3].tolist() == [0, 0, 0]


def test_the_methods_warnings_are_not_repeated():
    scores = random_scores()
    scores[3, 0] = np.nan
    with pytest.warns(SelectionWarning):
        selection = METHODS["bids"](scores, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SelectionWarning)
        found = selection_confidence(
            lambda part, labels: METHODS["bids"](part, 20, tasks=labels),
            scores,
            selection,
            TASKS,
            resamples=4,
            by_column=True,
        )
    assert found.share.sum() == pytest.approx(20)


def test_labels_must_fit():
    scores = random_scores()
    with pytest.raises(SelectionError, match="3 labels for 12 columns"):
        selection_confidence(lambda part, labels: None, scores, METHODS["bids"](scores, 5), ["a"] * 3)
