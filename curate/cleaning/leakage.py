"""Removes pool rows that share a long run of words with a target's or an evaluation item's prompt, or that nearly
are one.

`WordRunOverlap` finds 13 words in a row, by turns: runs do not cross them. Limits: prompts under 13 words are covered
by `TargetOverlap` only; an instruction of 13 words that both the pool and the items open with matches too. `NearMatch`
finds the prompt of which a word was changed here and there, so that no long run is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from curate.cleaning.contract import Reference, Removed
from curate.cleaning.likeness import LikeIndex
from curate.cleaning.word_runs import RUN_WORDS, WordRuns, word_runs
from curate.cleaning.words import words_of
from curate.records import Example

__all__ = ["RUN_WORDS", "NearMatch", "WordRunOverlap", "word_runs"]
NEAR_WORDS = 8  # a shorter turn, "Go on, please", is like another by chance
SHOWN_CHARACTERS = 200


class WordRunOverlap:
    """Removes rows of which a user turn shares `RUN_WORDS` consecutive words with a reference's turn."""

    name: ClassVar[str] = "word_run_overlap"

    def __init__(self, references: Iterable[Reference]):
        turns = [(turn, reference.id) for reference in references for turn in reference.turns]
        self._known, self._ids = WordRuns([turn for turn, _ in turns]), [name for _, name in turns]

    def __call__(self, examples: Sequence[Example]) -> tuple[list[Example], list[Removed]]:
        turns = [(turn, row) for row, example in enumerate(examples) for turn in example.user_turns()]
        found: dict[int, tuple[int, str]] = {}
        for (_, row), match in zip(turns, self._known.matches([turn for turn, _ in turns]), strict=True):
            if match is not None:
                found.setdefault(row, match)
        removed = [
            Removed(
                examples[row].id,
                examples[row].source,
                self.name,
                f"shares {RUN_WORDS} words with a prompt: {words}",
                self._ids[known],
            )
            for row, (known, words) in found.items()
        ]
        return [example for row, example in enumerate(examples) if row not in found], removed


class NearMatch:
    """Removes rows of which a user turn is a near-duplicate of a reference's turn; both of `NEAR_WORDS` at least.

    threshold: Jaccard similarity of the sets of word triples, above 0 and up to 1.
    """

    name: ClassVar[str] = "near_match"

    def __init__(self, references: Iterable[Reference], threshold: float = 0.8):
        turns = [(turn, reference.id) for reference in references for turn in reference.turns if _is_long(turn)]
        self._texts, self._ids = [turn for turn, _ in turns], [name for _, name in turns]
        self._known = LikeIndex(self._texts, threshold)

    def __call__(self, examples: Sequence[Example]) -> tuple[list[Example], list[Removed]]:
        turns = [(turn, example.id) for example in examples for turn in example.user_turns() if _is_long(turn)]
        found: dict[str, tuple[int, float]] = {}
        for (_, row), match in zip(turns, self._known.matches([turn for turn, _ in turns]), strict=True):
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
