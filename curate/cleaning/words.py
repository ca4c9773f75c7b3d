"""Texts as words, and words as numbers: what every filter that compares texts starts from.

Two forms. `normalise` is for "the same text": Unicode NFC, casefold, NFC again, every run of whitespace one space, ends
stripped. `words_of` is for "nearly the same": the words of that form, `\\w+`, and single characters in scripts without
spaces. A word's number is its CRC-32, which is the same in every process and on every machine; Python's own `hash` is
not. A table keeps the numbers of the words seen, since a text has far fewer new words than words.
"""

from __future__ import annotations

import re
import unicodedata
import zlib

WORDS_KEPT = 500_000  # some 60 MB; a pool of random strings must not fill the memory
# Thai to Lao, Burmese, kana and ideographs: no spaces between words
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff]+"
)
_ASCII_WORD = re.compile(r"\w+", re.ASCII)


def normalise(text: str) -> str:
    """The form in which texts are compared; idempotent."""
    if text.isascii():  # the same result without the tables of Unicode
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFC", text).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())


def words_of(text: str) -> list[str]:
    """The normalised text's words, as the similarity counts them."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _WORD.findall(normalise(text))


class WordNumbers(dict[str, int]):
    """Word -> its CRC-32, computed once."""

    def __missing__(self, word: str) -> int:
        if len(self) >= WORDS_KEPT:
            self.clear()
        number = self[word] = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        return number


NUMBERS = WordNumbers()
