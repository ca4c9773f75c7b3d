"""Texts that are nearly the same: clusters of them, so that a selection or a pool need not hold one example twenty
times, and matches between two sets, so that what scores is not what steers or trains.

Two texts are near-duplicates when the Jaccard similarity of their sets of word triples is at least the threshold;
clusters are the connected components. MinHash with locality-sensitive hashing (datasketch) proposes the pairs and the
similarity itself decides, so no pair is joined by chance; a pair just above the threshold is overlooked with a
probability of a few per cent. Every run gives the same labels. O(words) hashes, plus the pairs that are alike; about
1 ms a text. Texts that differ in numbers or names only are near-duplicates too. Words are `\\w+`, and single
characters in scripts without spaces.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import tee
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from curate.cleaning.contract import Removed
from curate.cleaning.exact_duplicates import normalise
from curate.records import Example

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

SHINGLE_WORDS = 3
PERMUTATIONS = 128
RECALL_OVER_PRECISION = (0.1, 0.9)  # a wrong proposal costs one comparison, a missed one is lost
# Thai to Lao, Burmese, kana and ideographs: no spaces between words
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff]+"
)


class NearDuplicates:
    """Keeps the first row of every cluster of near-duplicate conversations.

    The row kept is named with its own similarity, which is below the threshold where rows between the two join them.
    """

    name: ClassVar[str] = "near_duplicates"

    def __init__(self, threshold: float = 0.8):
        self._threshold = threshold

    def __call__(self, examples: Sequence[Example]) -> tuple[list[Example], list[Removed]]:
        texts = [example.text() for example in examples]
        first: dict[int, int] = {}
        kept, removed = [], []
        for position, label in enumerate(near_duplicate_clusters(texts, self._threshold).tolist()):
            example, start = examples[position], first.setdefault(label, position)
            if start == position:
                kept.append(example)
            else:
                alike = similarity(texts[position], texts[start])
                reason = f"Jaccard similarity {alike:.2f} with the first row of its cluster"
                removed.append(Removed(example.id, example.source, self.name, reason, examples[start].id))
        return kept, removed


def similarity(one: str, two: str) -> float:
    """Jaccard similarity of the two texts' sets of word triples."""
    return _jaccard(_shingles(one), _shingles(two))


def near_duplicate_clusters(texts: Iterable[str], threshold: float = 0.8, *, seed: int = 1) -> np.ndarray:
    """(N,) int64 labels, equal for texts of one cluster, 0, 1, ... in order of first appearance.

    threshold: Jaccard similarity above 0 and up to 1 from which two texts are alike. seed: of the hash permutations;
    a pair is never joined below the threshold whatever it is. Raises `ValueError` for another threshold.
    """
    _check_threshold(threshold)
    first: dict[bytes, int] = {}
    sets: dict[int, np.ndarray] = {}
    parent: list[int] = []
    for position, text in enumerate(texts):
        shingles = _shingles(text)
        # the same set needs no proposal: copies would otherwise all propose each other
        same = first.setdefault(shingles.tobytes(), position)
        parent.append(same)
        if same == position:
            sets[position] = shingles
    index = _index(threshold)
    for position, (_, sketch) in zip(sets, _sketched(sets.values(), seed), strict=True):
        for other in sorted(index.query(sketch)):
            one, two = _root(parent, position), _root(parent, other)
            if one != two and _jaccard(sets[position], sets[other]) >= threshold:
                parent[max(one, two)] = min(one, two)
        index.insert(position, sketch)
    return _in_order([_root(parent, position) for position in range(len(parent))])


def near_matches(
    texts: Sequence[str], references: Sequence[str], threshold: float = 0.8, *, seed: int = 1
) -> list[tuple[int, float] | None]:
    """Per text the position of the reference most like it and their Jaccard similarity; None below `threshold`.

    Of references that are equally like it the first is named. Raises `ValueError` for a threshold that is not above 0
    and at most 1.
    """
    _check_threshold(threshold)
    index, known = _index(threshold), {}
    for position, (shingles, sketch) in enumerate(_sketched(map(_shingles, references), seed)):
        known[position] = shingles
        index.insert(position, sketch)
    found: list[tuple[int, float] | None] = []
    for shingles, sketch in _sketched(map(_shingles, texts), seed):
        alike = [(_jaccard(shingles, known[other]), -other) for other in index.query(sketch)]
        similarity, other = max(alike, default=(0.0, 0))
        found.append((-other, similarity) if similarity >= threshold else None)
    return found


def words_of(text: str) -> list[str]:
    """The normalised text's words, as the similarity counts them."""
    return _WORD.findall(normalise(text))


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold} is not above 0 and at most 1")


def _index(threshold: float) -> MinHashLSH:
    from datasketch import MinHashLSH

    return MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=RECALL_OVER_PRECISION)


def _sketched(sets: Iterable[np.ndarray], seed: int) -> Iterator[tuple[np.ndarray, MinHash]]:
    """Every set of shingles with its MinHash, in order."""
    from datasketch import MinHash

    one, two = tee(sets)
    hashes = MinHash.generator((s.tolist() for s in two), num_perm=PERMUTATIONS, seed=seed, hashfunc=int)
    return zip(one, hashes, strict=True)


def _shingles(text: str) -> np.ndarray:
    """Sorted distinct hashes of the text's word triples; a text of fewer words is one shingle."""
    words = words_of(text)
    runs = [" ".join(words[i : i + SHINGLE_WORDS]) for i in range(max(1, len(words) - SHINGLE_WORDS + 1))]
    return np.unique(np.array([zlib.crc32(run.encode()) for run in runs], dtype=np.uint32))


def _jaccard(one: np.ndarray, two: np.ndarray) -> float:
    shared = np.intersect1d(one, two, assume_unique=True).size
    return shared / (one.size + two.size - shared)


def _root(parent: list[int], position: int) -> int:
    while parent[position] != position:
        parent[position] = parent[parent[position]]
        position = parent[position]
    return position


def _in_order(labels: Sequence[int]) -> np.ndarray:
    """The same grouping with labels 0, 1, ... by first appearance."""
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)
