"""Removes rows whose answers are broken by simple, readable measures: too short or long, repeating, symbols, cut off,
refused.

The measures are those of Gopher (arXiv 2112.11446, appendix A.1.1) turned to answers, each with a limit of its own,
and the reason tells measure, value and limit. A row's score is its worst measure as a multiple of the limit, above 1 is
removed. They are surface measures: a fluent wrong answer passes, a table or a list of formulas can fail. O(characters),
about 0.1 ms a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import regex

from curate.cleaning.scored import Equal, ScoredFilter, Verdict
from curate.cleaning.settings import QualitySettings
from curate.cleaning.words import words_of
from curate.records import Example

LEAST_WORDS = 50  # n-grams of a shorter answer are not judged: a list repeats by its nature
LEAST_LINES = 4
LEAST_CHARACTERS = 100  # a shorter answer may be a formula or a command
LAST_LINE_WORDS = 8
# as an answer's first words, after lower case and with plain apostrophes
REFUSALS = (
    "i'm sorry, but i can't",
    "i'm sorry, but i cannot",
    "i'm sorry, but i am unable",
    "i'm sorry, but i'm unable",
    "i'm sorry, but i'm not able",
    "i'm sorry, but as an ai",
    "i'm sorry, i can't",
    "i'm sorry, i cannot",
    "i am sorry, but i can't",
    "i am sorry, but i cannot",
    "sorry, but i can't",
    "sorry, i can't",
    "sorry, i cannot",
    "i apologize, but i can't",
    "i apologize, but i cannot",
    "i cannot fulfill",
    "i can't fulfill",
    "i cannot assist",
    "i can't assist",
    "i can't help with",
    "i cannot help with",
    "i cannot provide",
    "i can't provide",
    "i'm unable to assist",
    "i'm unable to help",
    "i'm unable to provide",
    "i am unable to assist",
    "i am unable to help",
    "i am unable to provide",
    "i'm not able to assist",
    "i'm not able to help",
    "i'm not able to provide",
    "i am not able to assist",
    "i am not able to help",
    "i am not able to provide",
    "as an ai language model",
    "as a language model",
    "as an ai, i",
    "es tut mir leid, aber ich kann",
    "als ki-sprachmodell",
    "je suis désolé, mais je ne peux pas",
    "en tant que modèle de langage",
    "lo siento, pero no puedo",
    "como modelo de lenguaje",
    "mi dispiace, ma non posso",
    "desculpe, mas não posso",
    "对不起，我无法",
    "抱歉，我无法",
    "作为一个人工智能",
    "作为一个ai",
)
_SYMBOL = regex.compile(r"[\p{P}\p{S}]")
_LIST_ITEM = regex.compile(r"\s*(?:[-*+•·>|#]|\(?\w{1,3}[.):])\s")
_FENCE = regex.compile(r"^\s*(?:```|~~~)", regex.MULTILINE)
# Thai, Lao, Burmese and Khmer end their sentences without a mark
_OPEN_END = regex.compile(r"[\p{L}\p{M},;\-–(&&[^\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]]\Z", regex.VERSION1)


class Quality(ScoredFilter):
    """Judges the assistant's turns of a row: together, and the last one for its end."""

    name: ClassVar[str] = "quality"

    def __init__(self, settings: QualitySettings, equal: Equal | None = None):
        self._settings, self._equal = settings, equal

    def _verdicts(self, examples: Sequence[Example]) -> list[Verdict]:
        return [verdict(example.answers(), self._settings) for example in examples]


def verdict(answers: Sequence[str], settings: QualitySettings) -> Verdict:
    """The worst of the measures that are on."""
    score, reason = max(measures(answers, settings), key=lambda measure: measure[0], default=(0.0, "no measure is on"))
    return Verdict(score, score > 1, reason)


def measures(answers: Sequence[str], settings: QualitySettings) -> Iterator[tuple[float, str]]:
    """(multiple of the limit, why) of every measure that is on."""
    text = "\n".join(answers)
    words = words_of(text)
    for what, value, least, most in (
        ("characters", len(text), settings.min_characters, settings.max_characters),
        ("words", len(words), settings.min_words, settings.max_words),
    ):
        if least is not None:
            yield least / value if value else math.inf, f"answer of {value} {what}, at least {least} wanted"
        if most is not None:
            yield value / most, f"answer of {value} {what}, at most {most} wanted"
    for what, share, limit in (
        ("characters in repeated lines", repeated_lines, settings.max_repeated_lines),
        (f"repeated runs of {settings.ngram} words", lambda _: repeated_runs(words, settings.ngram),
         settings.max_repeated_ngrams),
        ("punctuation and symbols", symbols, settings.max_symbols),
    ):  # fmt: skip
        if limit is not None:
            found = share(text)
            yield found / limit, f"{found:.0%} of the answer are {what}, at most {limit:.0%} wanted"
    if settings.truncated_from is not None and (why := cut_off(answers[-1], settings.truncated_from)):
        yield math.inf, why
    if settings.refusals and (opening := next(filter(None, map(refusal, answers)), None)):
        yield math.inf, f"refusal: {opening}"


def repeated_lines(text: str) -> float:
    """Share of the characters that stand in lines which repeat an earlier line; 0 under `LEAST_LINES` lines."""
    lines = [line for given in text.splitlines() if (line := given.strip())]
    if len(lines) < LEAST_LINES:
        return 0.0
    return 1 - sum(map(len, set(lines))) / sum(map(len, lines))


def repeated_runs(words: Sequence[str], length: int) -> float:
    """Share of the runs of `length` words that repeat an earlier run; 0 under `LEAST_WORDS` words."""
    runs = [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if len(words) >= LEAST_WORDS and runs else 0.0


def symbols(text: str) -> float:
    """Share of punctuation and symbols among the characters that are no white space; 0 under `LEAST_CHARACTERS`."""
    characters = sum(not character.isspace() for character in text)
    return len(_SYMBOL.findall(text)) / characters if characters >= LEAST_CHARACTERS else 0.0


def cut_off(answer: str, from_characters: int) -> str | None:
    """Why the answer looks cut off: an open code block, or, when it is long, prose that ends within a sentence."""
    if len(_FENCE.findall(answer)) % 2:
        return "cut off: a code block is not closed"
    answer = answer.rstrip()
    if len(answer) < from_characters:
        return None
    last = answer.splitlines()[-1]
    if _LIST_ITEM.match(last) is None and len(words_of(last)) >= LAST_LINE_WORDS and _OPEN_END.search(last):
        return f"cut off: long, and ends within a sentence: …{last[-60:]}"
    return None


def refusal(answer: str) -> str | None:
    """The opening of `REFUSALS` with which the answer begins."""
    start = " ".join(answer[:200].lower().replace("’", "'").split())
    return next((opening for opening in REFUSALS if start.startswith(opening)), None)
