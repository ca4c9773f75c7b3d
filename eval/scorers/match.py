"""Score a written answer by equality with any of an item's gold answers, after both are made alike.

Open questions have several right spellings; equality after SQuAD's normalisation (case, punctuation, the articles a,
an, the, blanks) is the field's measure for them. It holds for every script by Unicode categories rather than by a list
of ASCII signs. An item may ask in `checks` for another comparison: `code` compares Python by its syntax tree, so that
blanks and quotes do not count; and where the gold answer is a letter such as "(B)", the letter is compared.
Limit: the answer is what stands after "the answer is", or else the first line; a paraphrase counts as wrong.
"""

from __future__ import annotations

import ast
import re
import unicodedata
import warnings
from collections.abc import Callable

from eval.scorers.base import Document, Metrics, Scorer, each, read_checks, read_target, wrong_item
from eval.scorers.code import fenced

_ANSWER_IS = re.compile(r"(?:answer\s*(?:is|:)|####)[\s:*]*", re.IGNORECASE)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_LETTER = re.compile(r"\(([A-Z])\)")
_FIRST_LETTER = re.compile(r"\s*\(?([A-Z])(?:\)|[.:,]|\s*$)", re.MULTILINE)


def normalise(text: str) -> str:
    """Case, compatibility forms, punctuation, symbols, English articles and repeated blanks taken away."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = "".join(c for c in text if not unicodedata.category(c).startswith(("P", "S")))
    text = unicodedata.normalize("NFKC", text)  # what stood on both sides of a sign may now be one character
    return " ".join(_ARTICLES.sub(" ", text).split())


def _blanks(text: str) -> str:
    return " ".join(text.split())


def _text(text: str) -> str:
    # what is signs alone, such as brackets that an item asks to close, is compared as it stands
    return normalise(text) or _blanks(text)


def _program(text: str) -> str:
    """A program as its syntax tree writes it; what is no Python, with blanks made alike."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.unparse(ast.parse(text.strip()))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _blanks(text)


def _stated(answer: str) -> str:
    """What follows the last "the answer is", or else the first line that is not blank."""
    markers = list(_ANSWER_IS.finditer(answer))
    rest = answer[markers[-1].end() :] if markers else answer
    return next((line for line in rest.splitlines() if line.strip()), "").strip()


def _letter(answer: str) -> str:
    stated = _stated(answer)
    found = _LETTER.search(stated) or _FIRST_LETTER.match(stated)
    return f"({found[1]})" if found else ""


_COMPARISONS: dict[str, tuple[Callable[[str], str], Callable[[str], str]]] = {  # part of the answer, form of both
    "text": (_stated, _text),
    "code": (fenced, _program),
}


def _score(doc: Document, answer: str) -> Metrics:
    gold, compare = [read_target(doc, "match")], "text"
    if doc.get("checks"):
        checks = read_checks(doc, "match")
        gold, compare = checks.get("answers", gold), checks.get("compare", compare)
    if compare not in _COMPARISONS or not gold:
        raise wrong_item(doc, "match", f"answers {gold!r}, compare {compare!r}; known: {', '.join(_COMPARISONS)}")
    if all(_LETTER.fullmatch(text) for text in gold):
        return {"exact_match": float(_letter(answer) in gold)}
    part, form = _COMPARISONS[compare]
    return {"exact_match": float(form(part(answer)) in {form(text) for text in gold})}


MATCH = Scorer("match", ("exact_match",), each(_score))
