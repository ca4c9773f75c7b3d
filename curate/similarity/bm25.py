"""BM25: how many of a target's rare words a pool row has, for its length. A control that needs no model.

Lucene's variant (Kamphuis et al., ECIR 2020) through `bm25s`: the pool rows are the documents, a target's text is the
query, and a word that the target repeats counts each time. Scores grow with the number of words in the target, so
columns of long targets lie above those of short ones; compare rows within a column, or columns after normalisation.
O(words of the pool) for the index, then O(rows that share a word) per target word.
"""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np

from curate.similarity.words import words


def bm25_scores(
    pool_texts: Sequence[str], target_texts: Sequence[str], *, k1: float = 1.5, b: float = 0.75
) -> np.ndarray:
    """(N, M) float32 BM25 of every pool text for every target text.

    k1: how fast repetitions saturate; b: share of the correction for a row's length. NaN marks a row without any word
    and a column whose target has no word of the pool's.
    """
    vocabulary: dict[str, int] = {}
    # word by word into integers: a list of strings would take ten times the memory
    documents = [[vocabulary.setdefault(word, len(vocabulary)) for word in words(text)] for text in pool_texts]
    scores = np.full((len(pool_texts), len(target_texts)), np.nan, dtype=np.float32)
    if not vocabulary:
        return scores
    index = bm25s.BM25(k1=k1, b=b, method="lucene")
    index.index((documents, vocabulary), create_empty_token=False, show_progress=False)
    worded = np.array([bool(document) for document in documents])
    for column, text in enumerate(target_texts):
        query = [vocabulary[word] for word in words(text) if word in vocabulary]
        if query:
            scores[worded, column] = index.get_scores_from_ids(query)[worded]
    return scores
