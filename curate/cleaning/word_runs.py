"""Long runs of words that two texts share: the usual test of contamination.

A run of 13 words (GPT-3, arXiv 2005.14165, appendix C) is long enough that unrelated texts rarely share one, and short
enough to survive an edited question. Words are `\\w+` after casefold; a script without spaces counts a phrase as one
word. The runs of the known texts become 64-bit numbers in one sorted array, other texts' runs are looked up in it, and
the words themselves decide. O(words); 16 bytes per known run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from curate.cleaning.words import NUMBERS

RUN_WORDS = 13
_WORD = re.compile(r"\w+")
_BASE = np.uint64(0x9E3779B97F4A7C15)


def word_runs(text: str, length: int = RUN_WORDS) -> Iterator[tuple[str, ...]]:
    """Every run of `length` consecutive words of `text`, in order; none when it has fewer."""
    words = words_in(text)
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))


def words_in(text: str) -> list[str]:
    """The words as runs count them."""
    return _WORD.findall(text.casefold())


class WordRuns:
    """The runs of known texts, to look others up in.

    only: texts whose runs alone need to be known, where the known ones are many more.
    """

    def __init__(self, texts: Sequence[str], only: Sequence[str] | None = None):
        self._texts = texts
        runs, owner, place = _numbered(texts)
        if only is not None:
            wanted = np.isin(runs, _numbered(only)[0])
            runs, owner, place = runs[wanted], owner[wanted], place[wanted]
        self._runs, first = np.unique(runs, return_index=True)  # of equal runs the first text's
        self._owner, self._place = owner[first], place[first]

    def matches(self, texts: Sequence[str]) -> list[tuple[int, str] | None]:
        """Per text its first run that a known text has, as (position of the known text, the words); or None."""
        found: list[tuple[int, str] | None] = [None] * len(texts)
        if not self._runs.size:
            return found
        runs, owner, place = _numbered(texts)
        there = np.minimum(np.searchsorted(self._runs, runs), self._runs.size - 1)
        for hit in np.flatnonzero(self._runs[there] == runs).tolist():
            text, known = int(owner[hit]), int(there[hit])
            if found[text] is None:
                words = _run(texts[text], int(place[hit]))
                if words == _run(self._texts[self._owner[known]], int(self._place[known])):
                    found[text] = int(self._owner[known]), " ".join(words)
        return found


def _run(text: str, place: int) -> list[str]:
    return words_in(text)[place : place + RUN_WORDS]


def _numbered(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All runs in order: (their numbers, uint64; the text of each and its place there, int32)."""
    words: list[int] = []
    counts: list[int] = []
    for text in texts:
        own = words_in(text)
        if len(own) >= RUN_WORDS:
            words += [NUMBERS[word] for word in own]
        counts.append(max(0, len(own) - RUN_WORDS + 1))
    sizes = np.array(counts, dtype=np.int64)
    owner = np.repeat(np.arange(sizes.size), sizes)
    total = int(sizes.sum())
    place = np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # every text with a run has 12 more words than runs
    behind = np.cumsum(sizes > 0)[owner] - 1 if total else owner
    first = np.arange(total) + (RUN_WORDS - 1) * behind
    numbers = np.array(words, dtype=np.uint64)
    runs = np.zeros(total, dtype=np.uint64)
    for k in range(RUN_WORDS):
        runs = runs * _BASE + numbers[first + k]
        runs ^= runs >> np.uint64(29)
    return runs, owner.astype(np.int32), place.astype(np.int32)
