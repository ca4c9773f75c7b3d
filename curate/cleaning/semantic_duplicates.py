"""Removes rows that say what an earlier row says in other words: nearest embeddings, as in SemDeDup (arXiv 2303.09540).

A row's score is its largest cosine with any earlier row, so it depends on no threshold and on no later row, and the
first of a group always stays; the row it names may itself be removed for one before. Embeddings are mean-pooled last
hidden states of a model of the user's choice, of all turns. The search is FAISS's exact one, N² / 2 products of H
numbers: 11 s for 20,000 rows of 384 on 2 busy cores, some 40 minutes for 300,000, and N × H × 4 bytes. Its limit: the
cosine of one model is not that of another, and a causal model's mean-pooled states are close to each other for all
texts, so look at pairs near the threshold before trusting it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa

from curate.cleaning.contract import Gone, Removed, pool_wide
from curate.cleaning.scored import DECIMALS, Equal, keys, rows_over, why_equal
from curate.cleaning.settings import SemanticDuplicatesSettings
from curate.records import Example

BLOCK = 1024
CANDIDATES = 8  # copies of one text have the same cosine up to rounding, and the first of them is named
NONE = -1


class SemanticDuplicates:
    """Loads the model when it is made."""

    name: ClassVar[str] = "semantic_duplicates"

    def __init__(self, settings: SemanticDuplicatesSettings, equal: Equal | None = None):
        from train.models import load_encoder, load_tokenizer

        self._settings, self._equal = settings, equal
        self._model, self._tokenizer = load_encoder(settings.model), load_tokenizer(settings.model)

    def __call__(self, examples: Sequence[Example]) -> tuple[list[Example], list[Removed]]:
        return pool_wide(self, examples)

    def sketch(self, examples: Sequence[Example]) -> pa.Table:
        from curate.cleaning.text_models import embed

        texts, settings = [example.text() for example in examples], self._settings
        vectors = embed(self._model, self._tokenizer, texts, settings.max_length, settings.tokens_per_batch)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        return pa.table({"vector": column, **keys(examples, self._equal)})

    def decide(self, sketches: Sequence[pa.Table]) -> list[Gone]:
        rows = pa.concat_tables(sketches)
        if not rows.num_rows:
            return []
        width = rows.schema.field("vector").type.list_size
        vectors = [chunk.flatten().to_numpy().reshape(-1, width) for chunk in rows["vector"].chunks]
        cosines, places = nearest_earlier(np.concatenate(vectors))
        over = (places != NONE) & (np.nan_to_num(cosines) >= self._settings.threshold)
        gone = rows_over(cosines, over, rows, self._equal)
        return [
            Gone(row, int(places[row]), f"cosine {cosines[row]:.4f} with an earlier row{also}")
            for row, also in zip(gone.tolist(), why_equal(rows, gone, over, self._equal), strict=True)
        ]


def nearest_earlier(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) float64 largest cosine of each row with an earlier one, rounded, and (N,) int64 the first row that has it.

    vectors: (N, H) float32 of length 1. NaN and `NONE` for the first row and for rows that are not finite, which no
    row is near to.
    """
    import faiss

    cosines = np.full(len(vectors), np.nan)
    places = np.full(len(vectors), NONE, dtype=np.int64)
    usable = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    index = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, len(usable), BLOCK):
        own = usable[start : start + BLOCK]
        block = np.ascontiguousarray(vectors[own], dtype=np.float32)
        within = np.where(np.tri(len(own), k=-1, dtype=bool), block @ block.T, -np.inf)
        found, where = _best(within, own)
        if index.ntotal:
            alike, positions = index.search(block, min(CANDIDATES, index.ntotal))
            before, there = _best(alike, usable[positions])
            earlier = before >= found
            found, where = np.where(earlier, before, found), np.where(earlier, there, where)
        index.add(block)
        known = np.isfinite(found)
        cosines[own[known]], places[own[known]] = found[known], where[known]
    return cosines, places


def _best(cosines: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per line of (b, k) cosines the largest, rounded, and the lowest of the (k,) or (b, k) `rows` that have it."""
    rounded = np.round(cosines.astype(np.float64), DECIMALS)
    largest = rounded.max(axis=1)
    having = np.where(rounded == largest[:, None], np.broadcast_to(rows, cosines.shape), np.iinfo(np.int64).max)
    return largest, having.min(axis=1)
