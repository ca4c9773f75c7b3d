"""Which sets of shingles are alike: pairs proposed by equal bands, decided by their Jaccard similarity itself.

No pair is joined by chance, since the similarity decides; one just above the threshold is overlooked with a probability
of about 2 %. Sets may lie in several parts, on disk: only those of proposed pairs are read. In a band that many texts
share, each is first compared with the first of them, and only what that leaves apart is compared pair by pair: copies
of one text cost their number, texts that share a template without being alike its square. 5 us a pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from curate.cleaning.signatures import Shingled, check_threshold, shingled, signatures

PAIRS = 20_000  # compared at a time
_HALF = np.uint64(32)


class ShingleParts:
    """Sets in several parts, numbered through."""

    def __init__(self, parts: Sequence[Shingled]):
        self._parts = parts
        self._first = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(values of the sets behind each other, their sizes); rows: (n,) int64."""
        sizes = np.empty(rows.size, dtype=np.int64)
        own = np.searchsorted(self._first, rows, side="right") - 1
        inside = rows - self._first[own]
        groups = [(part, np.flatnonzero(own == part)) for part in np.unique(own).tolist()]
        for part, which in groups:
            starts = self._parts[part].starts
            sizes[which] = starts[inside[which] + 1] - starts[inside[which]]
        ends = np.cumsum(sizes)
        values = np.empty(int(ends[-1]) if ends.size else 0, dtype=np.uint32)
        for part, which in groups:
            count = sizes[which]
            offset = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
            there = np.repeat(ends[which] - count, count) + offset
            values[there] = self._parts[part].values[np.repeat(self._parts[part].starts[inside[which]], count) + offset]
        return values, sizes


def jaccard(sets: ShingleParts, one: np.ndarray, others: ShingleParts, two: np.ndarray) -> np.ndarray:
    """(n,) float64 similarity of the sets `one[k]` and `others[two[k]]`."""
    found = np.empty(one.size)
    for start in range(0, one.size, PAIRS):
        part = slice(start, start + PAIRS)
        (left, left_sizes), (right, right_sizes) = sets.take(one[part]), others.take(two[part])
        pairs = np.arange(left_sizes.size, dtype=np.uint64) << _HALF
        keys = np.concatenate([np.repeat(pairs, left_sizes) | left, np.repeat(pairs, right_sizes) | right])
        keys.sort()
        twice = keys[1:][keys[1:] == keys[:-1]] >> _HALF  # a set holds a value once, so twice is in both
        shared = np.bincount(twice.astype(np.int64), minlength=left_sizes.size)
        found[part] = shared / (left_sizes + right_sizes - shared)
    return found


def clusters(sets: ShingleParts, bands: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) int64: of every set the first set of its cluster, the connected components of pairs that are alike.

    bands: (N, b) uint32 `signatures` of the sets at this threshold.
    """
    joined = _Components(len(sets))
    known = np.empty(0, dtype=np.int64)
    for pairs in _first_pairs(bands):
        known = _compare(sets, pairs, known, joined, threshold)
    for column in bands.T:
        for pairs in _pairs_apart(column, joined.labels()):
            known = _compare(sets, pairs, known, joined, threshold)
    return joined.labels()


def _compare(
    sets: ShingleParts, pairs: np.ndarray, known: np.ndarray, joined: _Components, threshold: float
) -> np.ndarray:
    """Join those of the (n, 2) pairs that are alike; returns the keys of all pairs that need no second look."""
    keys = np.unique(pairs[:, 0] * len(sets) + pairs[:, 1])
    keys = np.setdiff1d(keys, known, assume_unique=True)
    one, two = np.divmod(keys, len(sets))
    joined.add(np.stack([one, two], axis=1)[jaccard(sets, one, sets, two) >= threshold])
    return np.union1d(known, keys)


def _groups(column: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows in order of their value then place, starts of the groups of two and more, their ends)."""
    order = np.argsort(column, kind="stable")
    edges = np.flatnonzero(np.diff(column[order])) + 1
    starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [column.size]])
    several = ends - starts > 1
    return order, starts[several], ends[several]


def _first_pairs(bands: np.ndarray) -> Iterator[np.ndarray]:
    """Per band the (n, 2) pairs of the first row of a value and each later one."""
    for column in bands.T:
        order, starts, ends = _groups(column)
        sizes = ends - starts - 1
        offset = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield np.stack([np.repeat(order[starts], sizes), order[np.repeat(starts + 1, sizes) + offset]], axis=1)


def _pairs_apart(column: np.ndarray, labels: np.ndarray) -> Iterator[np.ndarray]:
    """The (n, 2) pairs of equal value whose rows are in different clusters, some `PAIRS` at a time."""
    order, starts, ends = _groups(column)
    batch, size = list[np.ndarray](), 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        rows = order[start:end]
        own = labels[rows]
        if end - start == 2 or (own == own[0]).all():
            continue
        for place in range(1, rows.size):
            before = rows[:place][own[:place] != own[place]]
            batch.append(np.stack([before, np.full(before.size, rows[place])], axis=1))
            size += before.size
            if size >= PAIRS:
                yield np.concatenate(batch)
                batch, size = [], 0
    if size:
        yield np.concatenate(batch)


class _Components:
    """Rows joined pair by pair; labels are the smallest row of each component."""

    def __init__(self, rows: int):
        self._labels, self._new = np.arange(rows, dtype=np.int64), list[np.ndarray]()

    def add(self, pairs: np.ndarray) -> None:
        if pairs.size:
            self._new.append(pairs)

    def labels(self) -> np.ndarray:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if self._new:
            rows = self._labels.size
            edges = np.concatenate([*self._new, np.stack([np.arange(rows), self._labels], axis=1)])
            graph = coo_array((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), shape=(rows, rows))
            numbers = connected_components(graph, directed=False)[1]
            _, first = np.unique(numbers, return_index=True)
            self._labels, self._new = first[numbers].astype(np.int64), []
        return self._labels


class LikeIndex:
    """Texts that others are looked up in. Raises `ValueError` for a threshold that is not above 0 and at most 1."""

    def __init__(self, texts: Sequence[str], threshold: float = 0.8):
        check_threshold(threshold)
        self._threshold, sets = threshold, shingled(texts)
        self._sets = ShingleParts([sets])
        bands = signatures(sets, threshold)
        self._order = np.argsort(bands, axis=0, kind="stable")
        self._bands = np.take_along_axis(bands, self._order, axis=0)

    def matches(self, texts: Sequence[str]) -> list[tuple[int, float] | None]:
        """Per text the position of the indexed one most like it and their similarity; None below the threshold. Of
        those that are equally like it the first is named."""
        sets = shingled(texts)
        found: list[tuple[int, float] | None] = [None] * len(texts)
        pairs = list[np.ndarray]()
        for column, known, order in zip(signatures(sets, self._threshold).T, self._bands.T, self._order.T, strict=True):
            low, high = np.searchsorted(known, column), np.searchsorted(known, column, side="right")
            count = high - low
            offset = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
            pairs.append(
                np.stack([np.repeat(np.arange(len(sets)), count), order[np.repeat(low, count) + offset]], axis=1)
            )
        own, other = np.unique(np.concatenate(pairs), axis=0).T if pairs else np.empty((2, 0), np.int64)
        alike = jaccard(ShingleParts([sets]), own, self._sets, other)
        enough = np.flatnonzero(alike >= self._threshold)
        best = enough[np.lexsort((other[enough], -alike[enough], own[enough]))]
        rows, first = np.unique(own[best], return_index=True)
        for row, place in zip(rows.tolist(), best[first].tolist(), strict=True):
            found[row] = (int(other[place]), float(alike[place]))
        return found
