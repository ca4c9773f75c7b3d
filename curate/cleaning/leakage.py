"""Removes pool rows that share a long run of words with a target's or an evaluation item's prompt.

A run of 13 words is the usual contamination test (GPT-3, arXiv 2005.14165, appendix C): long enough that unrelated
texts rarely share one, short enough to survive an edited question. Words are `\\w+` after casefold; runs do not cross
turns. Runs of the references go into one dictionary, pool rows are looked up in it: O(words). Limits: prompts under
13 words are covered by `TargetOverlap` only; a script without spaces counts a phrase as one word; an instruction of
13 words that both the pool and the items open with matches too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from curate.cleaning.contract import Reference, Removed
from curate.records import Example

RUN_WORDS = 13
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
