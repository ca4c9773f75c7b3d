"""Removes pool rows that repeat an earlier pool row, or that ask what a target or an evaluation item asks.

Text is compared after `words.normalise`. Copies that differ in case, line breaks or composed accents are the same
example to a model, and 128-bit digests of all turns, sorted, find them: O(characters), 16 bytes a row. Its limit: two
programs that differ in indentation only count as one text; a changed word is no longer the same text (see `leakage` for
long runs).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa

from curate.cleaning.contract import Gone, Reference, Removed, pool_wide
from curate.cleaning.words import normalise
from curate.records import Example


class ExactDuplicates:
    """Keeps the first of the rows whose turns (roles and normalised contents) are all the same."""

    name: ClassVar[str] = "exact_duplicates"

    def __call__(self, examples: Sequence[Example]) -> tuple[list[Example], list[Removed]]:
        return pool_wide(self, examples)

    def sketch(self, examples: Sequence[Example]) -> pa.Table:
        digests = np.frombuffer(b"".join(map(_digest, examples)), dtype=np.uint64)
        return pa.table({"high": digests[::2], "low": digests[1::2]})

    def decide(self, sketches: Sequence[pa.Table]) -> list[Gone]:
        high, low = (np.concatenate([sketch[name].to_numpy() for sketch in sketches]) for name in ("high", "low"))
        order = np.lexsort((low, high))  # stable, so the first of equal rows comes first
        opens = np.ones(order.size, dtype=bool)
        opens[1:] = (high[order[1:]] != high[order[:-1]]) | (low[order[1:]] != low[order[:-1]])
        first = order[opens][np.cumsum(opens) - 1]
        gone = order[~opens]
        by_row = np.argsort(gone)
        pairs = zip(gone[by_row].tolist(), first[~opens][by_row].tolist(), strict=True)
        return [Gone(row, kept, "same text as a pool row") for row, kept in pairs]


def _digest(example: Example) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for message in example.messages:
        content = normalise(message.content).encode()
        digest.update(f"{message.role} {len(content)} ".encode())  # so that no two lists of turns read the same
        digest.update(content)
    return digest.digest()


class TargetOverlap:
    """Removes rows whose user turns, normalised, are those of a target or evaluation item.

    Answers are not compared: a row that asks an evaluated question leaks it whatever it answers, and many evaluation
    items have no single answer text.
    """

    name: ClassVar[str] = "target_overlap"

    def __init__(self, references: Iterable[Reference]):
        self._known: dict[tuple[str, ...], str] = {}
        for reference in references:
            self._known.setdefault(tuple(map(normalise, reference.turns)), reference.id)

    def __call__(self, examples: Sequence[Example]) -> tuple[list[Example], list[Removed]]:
        kept, removed = [], []
        for example in examples:
            matched = self._known.get(tuple(map(normalise, example.user_turns())))
            if matched is None:
                kept.append(example)
            else:
                reason = "same user text as a target or evaluation item"
                removed.append(Removed(example.id, example.source, self.name, reason, matched))
        return kept, removed
