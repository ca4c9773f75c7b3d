"""Removes pool rows that repeat an earlier pool row, or that ask what a target or an evaluation item asks.

Text is compared after one normalisation: Unicode NFC, casefold, NFC again, every run of whitespace one space, ends
stripped. Copies that differ in case, line breaks or composed accents are the same example to a model, and a hash set
finds them in one pass, O(characters). Its limit: two programs that differ in indentation only count as one text; a
changed word is no longer the same text (see `leakage` for long runs).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import ClassVar

from curate.cleaning.contract import Reference, Removed
from curate.records import Example


def normalise(text: str) -> str:
    """The form in which texts are compared; idempotent."""
    folded = unicodedata.normalize("NFC", text).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())


class ExactDuplicates:
    """Keeps the first of the rows whose turns (roles and normalised contents) are all the same."""

    name: ClassVar[str] = "exact_duplicates"

    def __call__(self, examples: Sequence[Example]) -> tuple[list[Example], list[Removed]]:
        first: dict[tuple[tuple[str, str], ...], str] = {}
        kept, removed = [], []
        for example in examples:
            key = tuple((message.role, normalise(message.content)) for message in example.messages)
            if key in first:
                removed.append(Removed(example.id, example.source, self.name, "same text as a pool row", first[key]))
            else:
                first[key] = example.id
                kept.append(example)
        return kept, removed


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
