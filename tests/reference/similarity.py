"""Text and representation similarity by their formulas, one row, word and target at a time."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import torch
from sklearn.utils import murmurhash3_32

from curate.similarity.words import words, words_and_signs


def bm25(pool, targets, k1=1.5, b=0.75):
    """Lucene's BM25: sum over the target's words of idf * tf / (tf + k1 * (1 - b + b * length / mean length))."""
    documents = [words(text) for text in pool]
    mean_length = sum(map(len, documents)) / len(documents)
    scores = np.full((len(pool), len(targets)), np.nan)
    for j, target in enumerate(targets):
        query = [word for word in words(target) if any(word in document for document in documents)]
        for i, document in enumerate(documents):
            if document and query:
                scores[i, j] = sum(_bm25_word(word, document, documents, mean_length, k1, b) for word in query)
    return scores


def _bm25_word(word, document, documents, mean_length, k1, b):
    containing = sum(word in other for other in documents)
    idf = math.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
    tf = document.count(word)
    return idf * tf / (tf + k1 * (1 - b + b * len(document) / mean_length))


def buckets_of(text, buckets):
    """The bucket of every word, sign and pair of neighbours."""
    found = words_and_signs(text)
    grams = found + [f"{a} {b}" for a, b in itertools.pairwise(found)]
    return [abs(murmurhash3_32(gram, seed=0)) % buckets for gram in grams]


def log_importance_weight(text, pool, targets, buckets, smoothing):
    """Sum over the row's words and pairs of log p_target - log p_pool."""
    log_target, log_pool = (_log_probability(texts, buckets, smoothing) for texts in (targets, pool))
    return sum(log_target(bucket) - log_pool(bucket) for bucket in buckets_of(text, buckets))


def _log_probability(texts, buckets, smoothing):
    counts = Counter(bucket for text in texts for bucket in buckets_of(text, buckets))
    total = sum(counts.values())
    if smoothing == "add_one":
        return lambda bucket: math.log((counts[bucket] + 1) / (total + buckets))
    return lambda bucket: math.log(counts[bucket] / total + 1e-8)


def hidden_state(model, row, pooling):
    """The row alone, without padding, through the whole model: its last layer's state, float64."""
    with torch.no_grad():
        out = model(input_ids=torch.tensor([row.input_ids]), output_hidden_states=True)
    states = out.hidden_states[-1][0].double().numpy()
    return states[-1] if pooling == "last" else states.mean(axis=0)


def cosine(a, b):
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))
