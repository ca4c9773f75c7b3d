"""Texts as sets of numbers, and MinHash signatures of those sets: the arithmetic of "nearly the same" (Broder 1997).

A text is the set of its word triples (shingles), each one 32-bit number. Its signature holds, for every one of some
hundred random permutations of these numbers, the smallest; two sets agree in a place with the probability of their
Jaccard similarity. Places are joined into bands, and two texts that agree in one whole band are worth comparing
(locality-sensitive hashing). A permutation is `a * x + b` modulo 2**64 with odd `a` (multiply-shift, Dietzfelbinger
1997), which numpy computes for all texts of a batch at once: about 20 us a text of 100 words, a third of what a loop
over texts costs. Bands and seeds are fixed, so the same text has the same bands in every process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np

from curate.cleaning.words import NUMBERS, words_of

SHINGLE_WORDS = 3
PERMUTATIONS = 128
RECALL_OVER_PRECISION = (0.02, 0.98)  # a wrong proposal costs one comparison, a missed one is lost
BLOCK = 16_384  # shingles at a time, so that a permutation stays in the processor's cache
_MIX = tuple(np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
_HALF = np.uint64(32)


@dataclass(frozen=True)
class Shingled:
    """Sets of shingles, one behind the other. values: uint32, each set sorted and without repetitions, none empty;
    starts: (N + 1,) int64, set `i` is `values[starts[i]:starts[i + 1]]`."""

    values: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1


def check_threshold(threshold: float) -> None:
    """Raises `ValueError` for a similarity that is not above 0 and at most 1."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold} is not above 0 and at most 1")


def shingled(texts: Iterable[str]) -> Shingled:
    """The texts' sets of word triples; a text of fewer words is one shingle."""
    words: list[int] = []
    counts: list[int] = []
    for text in texts:
        own = [NUMBERS[word] for word in words_of(text)]
        own += [0] * (SHINGLE_WORDS - len(own))
        words += own
        counts.append(len(own) - SHINGLE_WORDS + 1)
    sizes = np.array(counts, dtype=np.int64)
    numbers = np.array(words, dtype=np.uint64)
    if not sizes.size:
        return Shingled(np.empty(0, np.uint32), np.zeros(1, np.int64))
    row = np.repeat(np.arange(sizes.size, dtype=np.uint64), sizes)
    # the place of every triple's first word: two words at the end of a text open none
    first = np.arange(row.size) + (SHINGLE_WORDS - 1) * row.astype(np.int64)
    mixed = sum(numbers[first + k] * odd for k, odd in enumerate(_MIX))
    mixed ^= mixed >> _HALF
    keys = (row << _HALF) | ((mixed * _MIX[0]) >> _HALF)
    keys.sort()
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    starts = np.searchsorted(keys, np.arange(sizes.size + 1, dtype=np.uint64) << _HALF)
    return Shingled(keys.astype(np.uint32), starts.astype(np.int64))


@cache
def bands_of(threshold: float) -> tuple[int, int]:
    """(bands, permutations per band) with the least weighted error at this similarity, of at most `PERMUTATIONS`.

    A pair of similarity s shares a band with probability 1 - (1 - s**r)**b; errors are the areas of that curve below
    the threshold (a needless comparison) and above it (a pair that is overlooked), as in datasketch.
    """
    below, above = (np.linspace(low, high, 513) for low, high in ((0.0, threshold), (threshold, 1.0)))
    false, missed = RECALL_OVER_PRECISION
    best = (np.inf, 1, 1)
    for bands in range(1, PERMUTATIONS + 1):
        for each in range(1, PERMUTATIONS // bands + 1):
            needless = (1 - (1 - below**each) ** bands).mean() * threshold
            overlooked = ((1 - above**each) ** bands).mean() * (1 - threshold)
            best = min(best, (float(false * needless + missed * overlooked), bands, each))
    return best[1], best[2]


def signatures(sets: Shingled, threshold: float, seed: int = 1) -> np.ndarray:
    """(N, bands) uint32: equal in a column for sets that agree in that whole band."""
    bands, each = bands_of(threshold)
    rng = np.random.default_rng(seed)
    odd = rng.integers(0, 2**64, bands * each, dtype=np.uint64) | np.uint64(1)
    plus = rng.integers(0, 2**64, bands * each, dtype=np.uint64)
    found = np.empty((len(sets), bands), dtype=np.uint32)
    for start, stop in _blocks(sets.starts):
        values = sets.values[sets.starts[start] : sets.starts[stop]].astype(np.uint64)
        places = sets.starts[start:stop] - sets.starts[start]
        permuted = np.empty_like(values)
        for band in range(bands):
            joined = np.zeros(stop - start, dtype=np.uint64)
            for k in range(band * each, (band + 1) * each):
                np.multiply(values, odd[k], out=permuted)
                np.add(permuted, plus[k], out=permuted)
                joined = (joined ^ np.minimum.reduceat(permuted, places)) * _MIX[1]
                joined ^= joined >> _HALF
            found[start:stop, band] = joined
    return found


def _blocks(starts: np.ndarray) -> Iterable[tuple[int, int]]:
    """Ranges of sets with about `BLOCK` shingles together, at least one set each."""
    start = 0
    while start < len(starts) - 1:
        stop = int(np.searchsorted(starts, starts[start] + BLOCK, side="right")) - 1
        stop = max(stop, start + 1)
        yield start, stop
        start = stop
