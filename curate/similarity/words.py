"""The words of a text, in one place so that every text score counts the same ones.

A word is a run of letters, marks, digits and underscores after casefold. Marks belong to it: Indic vowels are marks,
and Python's own `\\w` splits words at them. In scripts that put no spaces between words (Chinese, Japanese, Thai, Lao,
Khmer, Burmese) every character is a word; bigrams put some of the rest back. O(characters).
"""

from __future__ import annotations

import regex

from curate.records import Example

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = rf"[{_UNSPACED}]|[[\p{{L}}\p{{M}}\p{{N}}_]--[{_UNSPACED}]]+"
_WORDS = regex.compile(rf"(?V1){_WORD}")
_WORDS_AND_SIGNS = regex.compile(rf"(?V1){_WORD}|[^\p{{L}}\p{{M}}\p{{N}}_\s]+")


def words(text: str) -> list[str]:
    """The words of `text` in order, casefolded."""
    return _WORDS.findall(text.casefold())


def words_and_signs(text: str) -> list[str]:
    """The words and the runs of other signs between them; on ASCII text NLTK's `WordPunctTokenizer` after `lower`."""
    return _WORDS_AND_SIGNS.findall(text.casefold())


def conversation_text(example: Example) -> str:
    """What is compared of a conversation: the user's and the assistant's turns; a system prompt says nothing of it."""
    return "\n".join(message.content for message in example.messages if message.role != "system")
