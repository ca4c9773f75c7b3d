"""Score a written answer by the number it ends with, compared exactly.

The usual filter (lm-eval's `flexible-extract`) keeps digits, commas and dots as they stand, so that "18.", "$18.00" and
"18" differ, and sees no digits of other scripts. Here the number that the answer names as its result is read as a
fraction: after `####`, `\\boxed{` or "the answer is" (in MGSM's languages too), else the last number of the text.
Signs, currency, percent signs, fractions and thousands separators are understood; units do not count, so 50 % is 50.
Limit: "1.234" is read as a decimal and "1,234" as thousands, whatever the language; LaTeX beyond \\frac is for `math`.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import Any

from eval.scorers.base import Document, Metrics, Scorer, each, read_target, wrong_item

_SPACES = "\u00a0\u202f\u2009'’"  # between thousands: the blanks that do not break a line, and the Swiss apostrophe
# each way to write a number, and what makes a plain decimal of it
_STYLES = {
    "english": r"(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3})(?!\d)(?:\.\d+)?",  # 1,234.5 and Indian 12,34,567
    "german": r"(?:\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,})(?![.\d])",  # 1.234,5 and 1.234.567
    "french": rf"\d{{1,3}}(?:[{_SPACES}]\d{{3}})+(?!\d)(?:[.,]\d+)?",
    "plain": r"(?:\d+(?:[.,]\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\w))?",
}
_MADE_PLAIN: dict[str, dict[int, Any]] = {
    "english": str.maketrans("", "", ","),
    "german": str.maketrans(",", ".", "."),
    "french": str.maketrans(",", ".", _SPACES),
    "plain": str.maketrans(",", "."),
}
# a currency sign may stand between sign and digits; letters before a digit make it a name, as in B12
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_)])(?P<sign>[-+]?)(?:\\?[$€£¥₹₩₽฿]\s?(?P<inner>-?))?(?:"
    r"(?:(?P<ones>\d+)\s*)?\\[dt]?frac\s*\{\s*(?P<above>-?\d+)\s*\}\s*\{\s*(?P<below>\d+)\s*\}"
    r"|(?:(?P<whole>\d+)\s+)?(?P<over>\d+)\s*/\s*(?P<under>\d+)(?![\d/])|"
    + "|".join(f"(?P<{style}>{pattern})" for style, pattern in _STYLES.items())
    + ")"
)

_ANSWER_IS = (
    r"answer\s*(?:is|would be|:|=)|answer\*\*\s*:?|respuesta\s+es|réponse\s+est|Antwort\s+(?:lautet|ist)|Ответ|ответ|"
    r"答案是|答案为|答案：|答えは|答え：|คำตอบคือ|[Jj]ibu ni|సమాధానం|উত্তর"
)
_MARKER = re.compile(rf"####|\\boxed\s*\{{|(?:{_ANSWER_IS})(?:\s*(?:is|হল|—|-(?=\s)|:|：|\*))*", re.IGNORECASE)

_PUNCTUATION = str.maketrans(
    {
        "−": "-",
        "﹣": "-",
        "－": "-",
        "，": ",",
        "．": ".",
        "٫": ".",
        "٬": ",",
        "％": "%",
        "＄": "$",
        "／": "/",
        "⁄": "/",
    }
)


def _plain_digits(text: str) -> str:
    """Digits of every script as ASCII, one-character fractions written out, punctuation of numbers as ASCII."""
    if text.isascii():
        return text
    out = []
    for character in text.translate(_PUNCTUATION):
        if (digit := unicodedata.decimal(character, None)) is not None:
            out.append(str(digit))
        elif unicodedata.decomposition(character).startswith("<fraction>"):
            out.append(" " + unicodedata.normalize("NFKC", character).replace("⁄", "/"))
        else:
            out.append(character)
    return "".join(out)


def _braced(text: str, start: int) -> str:
    """From just after an opening brace to its closing one, or to the end."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return text[start:]


def _after_marker(text: str, marker: re.Match[str]) -> str | None:
    if marker.group().endswith("{"):
        stated = _braced(text, marker.end())
    else:
        stated = text[marker.end() :].lstrip(" \t\r\n*:=").partition("\n")[0]
    working, _, result = stated.rpartition("=")
    if re.search("[A-Za-z]", working):  # "5 + 3 = 8" states 8, but "8 eggs, since 16 - 8 = 8" is more than a sum
        result = stated
    found = _NUMBER.search(result) or _NUMBER.search(stated)
    return found.group() if found else None


def extract_number(text: str) -> str | None:
    """The number that a text gives as its answer, as written but for digits of other scripts; None without one."""
    text = _plain_digits(text)
    for marker in reversed(list(_MARKER.finditer(text))):
        stated = _after_marker(text, marker)
        if stated is not None:
            return stated
    last = None
    for last in _NUMBER.finditer(text):  # noqa: B007
        pass
    return last.group() if last else None


def read_number(written: str) -> Fraction | None:
    """The value of a number as `extract_number` gives it; None for what has none, such as a division by zero."""
    parts = _NUMBER.fullmatch(written)
    if parts is None:
        return None
    above, below = parts["above"] or parts["over"], parts["below"] or parts["under"]
    try:
        if above is not None:
            value = int(parts["ones"] or parts["whole"] or 0) + Fraction(int(above), int(below))
        else:
            style = next(style for style in _STYLES if parts[style] is not None)
            value = Fraction(parts[style].translate(_MADE_PLAIN[style]))
    except (ValueError, ZeroDivisionError):  # Python reads no integers of more than 4,300 digits
        return None
    return -value if "-" in (parts["sign"], parts["inner"]) else value


def _score(doc: Document, answer: str) -> Metrics:
    target = extract_number(read_target(doc, "numeric"))
    expected = read_number(target) if target is not None else None
    if expected is None:
        raise wrong_item(doc, "numeric", f"its target {doc['target']!r} holds no number")
    written = extract_number(answer)
    return {"exact_match": float(written is not None and read_number(written) == expected)}


NUMERIC = Scorer("numeric", ("exact_match",), each(_score))
