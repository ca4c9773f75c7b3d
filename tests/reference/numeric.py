"""The last number of an English text, found character by character: words are split at blanks and read one by one."""

from __future__ import annotations

from fractions import Fraction


def _value(word):
    """The number at the start of a word and what is left of the word, or None."""
    sign, rest = 1, word
    if rest[:1] in ("-", "+"):
        sign, rest = (-1 if rest[0] == "-" else 1), rest[1:]
    if rest[:1] == "$":
        rest = rest[1:]
    digits = ""
    while rest and (rest[0].isdigit() or (rest[0] in ",." and rest[1:2].isdigit())):
        digits, rest = digits + rest[0], rest[1:]
    return (sign * Fraction(digits.replace(",", "")), rest) if digits else None


def last_number(text):
    last = None
    for word in text.split():
        if word[0].isalpha():
            continue
        found = _value(word)
        if found:
            last = found[0]
    return last
