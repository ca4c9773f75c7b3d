"""DSIR: how much likelier a row's words and word pairs are under the targets than under the pool (arXiv 2302.03169,
section 3).

Words and pairs of neighbours are hashed into buckets, and a text counts as independent draws from them, so its log
importance weight is `sum over buckets of count * (log p_target - log p_pool)`. One column per task, estimated on its
targets, and `POOLED`, estimated on all targets: the paper's. O(words), one sparse count matrix of the pool.

Smoothing decides with few targets. The authors' package adds 1e-8 to every probability, made for target sets that
fill all buckets; with a handful of targets a row then pays about 10 for each word that they happen to lack, and the
weight measures shortness (rank correlation with length -0.91 on the demo pool, 80 targets). Hence `add_one`, the
default (-0.44 there): one more count in every bucket of both distributions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer

from curate.selection.inputs import POOLED
from curate.similarity.words import words_and_signs

Smoothing = Literal["add_one", "published"]
BUCKETS = 10_000
LONGEST_NGRAM = 2
PUBLISHED_FLOOR = 1e-8
ROWS_PER_BLOCK = 8192


def task_columns(tasks: Sequence[str]) -> list[str]:
    """The columns of `log_importance_weights`: the tasks in order of first appearance, then `POOLED`."""
    names = list(dict.fromkeys(tasks))
    if POOLED in names:
        raise ValueError(f"capability {POOLED!r} is the name of the column over all targets; rename the capability")
    return [*names, POOLED]


def log_importance_weights(
    pool_texts: Sequence[str],
    target_texts: Sequence[str],
    tasks: Sequence[str],
    *,
    smoothing: Smoothing = "add_one",
    buckets: int = BUCKETS,
) -> np.ndarray:
    """(N, T + 1) float32 log importance weights, columns as `task_columns(tasks)` names them.

    tasks: (M,) labels of the target texts. NaN marks a row without any word or sign, whose empty sum would look like
    a good one, and the column of a task without any. Raises `ValueError` if a task is named like the pooled column.
    """
    names = task_columns(tasks)
    pool, targets = hashed_counts(pool_texts, buckets), hashed_counts(target_texts, buckets)
    log_pool = _log_probabilities(_column_sums(pool), smoothing)
    ratios = np.full((buckets, len(names)), np.nan)
    for column, name in enumerate(names):
        members = [row for row, task in enumerate(tasks) if name in (POOLED, task)]
        counts = _column_sums(targets[members])
        if counts.any():
            ratios[:, column] = _log_probabilities(counts, smoothing) - log_pool
    usable = np.isfinite(ratios[0])
    weights = np.full((len(pool_texts), len(names)), np.nan, dtype=np.float32)
    for start in range(0, len(pool_texts), ROWS_PER_BLOCK):
        block = slice(start, start + ROWS_PER_BLOCK)
        weights[block, usable] = pool[block] @ ratios[:, usable]
    weights[np.diff(pool.indptr) == 0] = np.nan
    return weights


def hashed_counts(texts: Sequence[str], buckets: int = BUCKETS) -> csr_matrix:
    """(N, buckets) float32 counts of the words, signs and pairs of neighbours of each text, by MurmurHash3."""
    vectorizer = HashingVectorizer(
        n_features=buckets,
        ngram_range=(1, LONGEST_NGRAM),
        tokenizer=words_and_signs,
        token_pattern=None,
        lowercase=False,
        alternate_sign=False,
        norm=None,
        dtype=np.float32,
    )
    return vectorizer.transform(texts)


def _column_sums(counts: csr_matrix) -> np.ndarray:
    return np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel()


def _log_probabilities(counts: np.ndarray, smoothing: Smoothing) -> np.ndarray:
    """(V,) log p of the buckets from their counts; uniform where `add_one` has none."""
    if smoothing == "add_one":
        return np.log(counts + 1) - np.log(counts.sum() + counts.size)
    return np.log(counts / max(1.0, counts.sum()) + PUBLISHED_FLOOR)
