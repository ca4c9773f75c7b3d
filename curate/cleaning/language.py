"""Removes rows that are not in a wanted language, as py3langid (140 codes, its model inside the package) tells it.

py3langid is small (1 MB), gives the same answer every time and a probability with it; langdetect draws at random and
lingua is a hundred times larger. Judged are the answers, without fenced code, and all turns where the answers are too
short. A text that is still too short or too unclear counts as `unknown` and stays: short questions and formulas are no
language. Its limits: close relatives (Norwegian and Danish, Serbian and Croatian) are confused, and a short answer in
one language to a question in another counts as the question's. About 0.5 ms a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

from curate.cleaning.contract import Removed
from curate.records import UNKNOWN, Example

JUDGED_CHARACTERS = 4000
NO_LANGUAGE = "zxx"  # numbers, mark-up
_CODE = re.compile(r"(?:```|~~~).*?(?:```|~~~|\Z)", re.DOTALL)


class Language:
    """languages: of every row by id, as `detect_languages` gives it."""

    name: ClassVar[str] = "language"

    def __init__(self, wanted: Iterable[str], languages: Mapping[str, str]):
        self._wanted, self._languages = {*wanted, UNKNOWN}, languages

    def __call__(self, examples: Sequence[Example]) -> tuple[list[Example], list[Removed]]:
        kept, removed = [], []
        for example in examples:
            found = self._languages[example.id]
            if found in self._wanted:
                kept.append(example)
            else:
                removed.append(Removed(example.id, example.source, self.name, f"language {found} is not wanted", ""))
        return kept, removed


def detect_languages(examples: Iterable[Example], *, min_letters: int, min_probability: float) -> dict[str, str]:
    """Row id -> ISO 639 code, or `unknown` under so many letters or so little probability."""
    found = {}
    for example in examples:
        texts = map(_prose, ("\n".join(example.answers()), example.text()))
        judged = next((text for text in texts if sum(map(str.isalpha, text)) >= min_letters), None)
        found[example.id] = UNKNOWN if judged is None else detect(judged, min_probability)
    return found


def detect(text: str, min_probability: float) -> str:
    """The language's code, or `unknown`."""
    code, probability = _identifier().classify(text)
    return code if probability >= min_probability and code != NO_LANGUAGE else UNKNOWN


def known_languages() -> list[str]:
    return sorted(set(_identifier().labels) - {NO_LANGUAGE})


def _prose(text: str) -> str:
    return _CODE.sub(" ", text)[:JUDGED_CHARACTERS]


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
