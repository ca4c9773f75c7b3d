"""Nearest pool rows by influence: which rows of the pool have the gradient of this one, at all checkpoints at once.

The weighted sum of K cosines is one inner product: of the K unit features, each times the root of its checkpoint's
weight, one after the other. So a FAISS inner product index over those vectors ranks rows exactly as the attribution
matrix does, for queries that were not among the targets. The search is exhaustive and exact up to the stored number
type. It is for neighbours, near-duplicates and a look at single rows: a whole matrix is cheaper by blocked products
(`attribution.SketchCosines`). Cost: K d 2 bytes of memory per row (18.9 GB for 288,579 rows, K = 4, d = 8192).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.influence.features import BlockSource, FeatureIdentity

INDEX, IDS, NOTE = "index.faiss", "ids.parquet", "index.json"
ROWS_PER_BLOCK = 1024


class FeatureIndexError(ValueError):
    """Features that no index can be made from, queries that do not fit it, or an index of something else."""


class FeatureIndex:
    """A searchable copy of the features of N rows at K checkpoints; made by `build` or `load`.

    ids: (n,) rows in the index; excluded: rows left out because a feature of theirs is not finite; weights: (K,);
    identities: of the K feature stores.
    """

    def __init__(
        self,
        index: Any,
        ids: Sequence[str],
        excluded: Sequence[str],
        weights: np.ndarray,
        identities: Sequence[FeatureIdentity],
    ) -> None:
        self._index = index
        self.ids = np.array(ids, dtype=object)
        self.excluded = list(excluded)
        self.weights = weights
        self.identities = list(identities)

    @classmethod
    def build(
        cls,
        sources: Sequence[BlockSource],
        weights: np.ndarray,
        ids: Sequence[str],
        identities: Sequence[FeatureIdentity],
        *,
        dtype: Literal["float32", "float16"] = "float16",
    ) -> FeatureIndex:
        """sources: K sources (N, d_k) of unit features, of the stores with these identities; weights: (K,) with sum 1;
        ids: (N,). Raises `FeatureIndexError` when they do not fit together or are not features."""
        import faiss

        weights = np.asarray(weights, dtype=np.float64)
        if not (len(sources) == len(weights) == len(identities)) or not np.isclose(weights.sum(), 1.0):
            raise FeatureIndexError(
                f"{len(sources)} sources need as many identities and weights with sum 1, got {len(identities)} and "
                f"{weights.tolist()}"
            )
        for k, (source, identity) in enumerate(zip(sources, identities, strict=True)):
            if identity.kind == "cosines":
                raise FeatureIndexError(
                    f"checkpoint {k} holds cosines with fixed targets, which have no neighbours; run influence in mode "
                    "sketch to store features"
                )
            if tuple(source.shape) != (len(ids), identity.width):
                raise FeatureIndexError(
                    f"checkpoint {k} has features of shape {source.shape}, the ids and its identity say "
                    f"{(len(ids), identity.width)}"
                )
        width = sum(identity.width for identity in identities)
        index = (
            faiss.IndexFlatIP(width)
            if dtype == "float32"
            else faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        )
        good = np.ones(len(ids), dtype=bool)
        for start in range(0, len(ids), ROWS_PER_BLOCK):
            vectors = _joined([source[start : start + ROWS_PER_BLOCK] for source in sources], weights)
            finite = np.isfinite(vectors).all(axis=1)
            good[start : start + len(vectors)] = finite
            index.add(vectors[finite])
        if not index.ntotal:
            raise FeatureIndexError(f"none of the {len(ids)} rows has a finite feature at every checkpoint")
        kept = [row for row, keep in zip(ids, good, strict=True) if keep]
        return cls(index, kept, [row for row, keep in zip(ids, good, strict=True) if not keep], weights, identities)

    def search(self, queries: Sequence[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k rows with the largest sum_k w_k cos_k for each query, best first.

        queries: K arrays (n, d_k) of unit vectors, one per checkpoint; returns ids (n, k) of str and scores (n, k)
        float32, k being at most the rows of the index. Equal scores are in the order of the rows; where they straddle
        the k-th place, which of them are returned is FAISS's choice.
        """
        if k < 1:
            raise FeatureIndexError(f"k is {k}; ask for at least one neighbour")
        shapes = [query.shape for query in queries]
        widths = [identity.width for identity in self.identities]
        if [shape[1:] for shape in shapes] != [(width,) for width in widths] or len({s[0] for s in shapes}) != 1:
            raise FeatureIndexError(f"queries have shapes {shapes}; the index needs (n, d) with d = {widths}")
        vectors = _joined(queries, self.weights)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise FeatureIndexError(f"{len(bad)} queries are not finite, the first is number {bad[0]}; leave them out")
        scores, found = self._index.search(vectors, min(k, len(self.ids)))
        order = np.lexsort((found, -scores), axis=1)
        return self.ids[np.take_along_axis(found, order, 1)], np.take_along_axis(scores, order, 1)

    def save(self, folder: Path) -> None:
        """Write the index, its ids and its identities; the note comes last, so that a folder with one is complete."""
        import faiss

        folder.mkdir(parents=True, exist_ok=True)
        (folder / NOTE).unlink(missing_ok=True)
        faiss.write_index(self._index, str(folder / INDEX))
        pq.write_table(pa.table({"id": self.ids}), folder / IDS)
        note = {
            "rows": len(self.ids),
            "excluded": self.excluded,
            "weights": self.weights.tolist(),
            "identities": [identity.model_dump(mode="json") for identity in self.identities],
        }
        temporary = folder / f".{NOTE}.partial"
        temporary.write_text(json.dumps(note, indent=1))
        temporary.replace(folder / NOTE)

    @classmethod
    def load(cls, folder: Path, identities: Sequence[FeatureIdentity]) -> FeatureIndex:
        """The index that `save` wrote, if it is of these stores; raises `FeatureIndexError` naming what differs."""
        import faiss

        if not (folder / NOTE).exists():
            raise FeatureIndexError(f"{folder} has no {NOTE}: the index was not finished; build it again")
        note = json.loads((folder / NOTE).read_text())
        stored = [FeatureIdentity.model_validate(identity) for identity in note["identities"]]
        if len(stored) != len(identities):
            raise FeatureIndexError(
                f"{folder} indexes {len(stored)} checkpoints, asked for are {len(identities)}; build it again"
            )
        for k, (mine, asked) in enumerate(zip(stored, identities, strict=True)):
            if mine != asked:
                raise FeatureIndexError(
                    f"{folder} indexes other features at checkpoint {k} (stored != asked for): "
                    f"{mine.difference(asked)}; build it again"
                )
        index = faiss.read_index(str(folder / INDEX))
        ids = pq.read_table(folder / IDS)["id"].to_pylist()
        if not index.ntotal == len(ids) == note["rows"]:
            raise FeatureIndexError(
                f"{folder}: {index.ntotal} vectors, {len(ids)} ids and {note['rows']} rows noted; build it again"
            )
        return cls(index, ids, note["excluded"], np.array(note["weights"]), stored)


def _joined(parts: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """K arrays (n, d_k) -> (n, sum d_k) float32, each times the root of its weight, for one inner product."""
    scaled = [np.float32(root) * np.asarray(part, np.float32) for root, part in zip(weights**0.5, parts, strict=True)]
    return np.ascontiguousarray(np.concatenate(scaled, axis=1))
