"""Removes pool rows that share a long run of words with a target's or an evaluation item's prompt, or that nearly
are one.

A run of 13 words is the usual contamination test (GPT-3, arXiv 2005.14165, appendix C): long enough that unrelated
texts rarely share one, short enough to survive an edited question. Words are `\\w+` after casefold; runs do not cross
turns. Runs of the references go into one dictionary, pool rows are looked up in it: O(words). Limits: prompts under
13 words are covered by `TargetOverlap` only; a script without spaces counts a phrase as one word; an instruction of
13 words that both the pool and the items open with matches too. `NearMatch` finds the prompt of which a word was
changed here and there, so that no long run is left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from curate.cleaning.contract import Reference, Removed
from curate.cleaning.near_duplicates import near_matches, words_of
from curate.records import Example

RUN_WORDS = 13
NEAR_WORDS = 8  # a shorter turn, "Go on, please", is like another by chance
SHOWN_CHARACTERS = 200
_WORD = re.compile(r"\w+")


def word_runs(text: str, length: int = RUN_WORDS) -> Iterator[tuple[str, ...]]:
    """Every run of `length` consecutive words of `text`, in order; none when it has fewer."""
    words = _WORD.findall(text.casefold())
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))


class WordRunOverlap:
    """Removes rows of which a user turn shares `RUN_WORDS` consecutive words with a reference's turn."""

    name: ClassVar[str] = "word_run_overlap"

    def __init__(self, references: Iterable[Reference]):
        self._known: dict[tuple[str, ...], str] = {}
        for reference in references:
            for turn in reference.turns:
                for run in word_runs(turn):
                    self._known.setdefault(run, reference.id)

    def __call__(self, examples: Sequence[Example]) -> tuple[list[Example], list[Removed]]:
        kept, removed = [], []
        for example in examples:
            shared = next((run for turn in example.user_turns() for run in word_runs(turn) if run in self._known), None)
            if shared is None:
                kept.append(example)
            else:
                reason = f"shares {RUN_WORDS} words with a prompt: {' '.join(shared)}"
                removed.append(Removed(example.id, example.source, self.name, reason, self._known[shared]))
        return kept, removed


class NearMatch:
    """Removes rows of which a user turn is a near-duplicate of a reference's turn; both of `NEAR_WORDS` at least.

    threshold: Jaccard similarity of the sets of word triples, above 0 and up to 1.
    """

    name: ClassVar[str] = "near_match"

    def __init__(self, references: Iterable[Reference], threshold: float = 0.8):
        turns = [(turn, reference.id) for reference in references for turn in reference.turns if _is_long(turn)]
        self._texts, self._ids = [turn for turn, _ in turns], [name for _, name in turns]
        self._threshold = threshold

    def __call__(self, examples: Sequence[Example]) -> tuple[list[Example], list[Removed]]:
        turns = [(turn, example.id) for example in examples for turn in example.user_turns() if _is_long(turn)]
        found: dict[str, tuple[int, float]] = {}
        for (_, row), match in zip(
            turns, near_matches([turn for turn, _ in turns], self._texts, self._threshold), strict=True
        ):
            if match is not None and match[1] > found.get(row, (0, 0.0))[1]:
                found[row] = match
        kept, removed = [], []
        for example in examples:
            if example.id not in found:
                kept.append(example)
                continue
            where, alike = found[example.id]
            shown = " ".join(self._texts[where].split())[:SHOWN_CHARACTERS]
            reason = f"Jaccard similarity {alike:.2f} with a prompt: {shown}"
            removed.append(Removed(example.id, example.source, self.name, reason, self._ids[where]))
        return kept, removed


def _is_long(turn: str) -> bool:
    return len(words_of(turn)) >= NEAR_WORDS
