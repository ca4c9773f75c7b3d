"""curate.similarity.dsir: log importance weights bucket by bucket, per task and pooled."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from curate.selection.inputs import POOLED
from curate.similarity.dsir import hashed_counts, log_importance_weights, task_columns
from tests.reference import similarity as reference

DEMO = Path(__file__).parents[3] / "demo" / "data"
POOL = [
    "What is two and two? Four.",
    "Name the capital of France. The capital of France is Paris.",
    "def add(a, b):\n    return a + b",
    "Add 12 and 30. The sum is 42.",
    "Où est la gare ? Là-bas.",
]
TARGETS = ["What is three and five? Eight.", "def sub(a, b): return a - b", "Add 2 and 3. The sum is 5."]
TASKS = ["math", "code", "math"]


@pytest.mark.parametrize("smoothing", ["add_one", "published"])
@pytest.mark.parametrize("buckets", [10_000, 37], ids=["as published", "many collisions"])
def test_equals_the_formula(smoothing, buckets):
    weights = log_importance_weights(POOL, TARGETS, TASKS, smoothing=smoothing, buckets=buckets)
    assert weights.dtype == np.float32 and task_columns(TASKS) == ["math", "code", POOLED]
    members = [[TARGETS[0], TARGETS[2]], [TARGETS[1]], TARGETS]
    expected = [
        [reference.log_importance_weight(text, POOL, targets, buckets, smoothing) for targets in members]
        for text in POOL
    ]
    np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-5)  # stored as float32


@pytest.mark.parametrize("task", ["code", "math"])
def test_the_largest_weights_of_a_demo_task_are_rows_of_its_domain(task):
    pool, targets = (pq.read_table(DEMO / name).to_pylist() for name in ("pool.parquet", "targets.parquet"))
    texts = [["\n".join(turn["content"] for turn in row["messages"]) for row in rows] for rows in (pool, targets)]
    tasks = [row["capability"] for row in targets]
    column = log_importance_weights(*texts, tasks)[:, task_columns(tasks).index(task)]
    best = [pool[row]["domain"] for row in np.argsort(-column)[:50]]
    assert best.count(task) >= 40
    assert sum(row["domain"] == task for row in pool) < len(pool) / 5


def test_counts_are_of_words_signs_and_pairs():
    counts = hashed_counts(["a b, a", ""])
    assert counts.sum(axis=1).tolist() == [[4 + 3], [0]]


def test_neither_order_nor_the_other_rows_place_matters():
    weights = log_importance_weights(POOL, TARGETS, TASKS)
    order = [3, 0, 4, 2, 1]
    assert np.array_equal(log_importance_weights([POOL[i] for i in order], TARGETS, TASKS), weights[order])


def test_no_words_no_weight():
    weights = log_importance_weights(["a cat", " \n"], ["a cat", " "], ["one", "two"])
    assert np.isnan(weights).tolist() == [[False, True, False], [True, True, True]]


def test_a_task_named_like_the_pooled_column_is_refused():
    with pytest.raises(ValueError, match="rename the capability"):
        log_importance_weights(POOL, TARGETS, ["math", POOLED, "math"])
