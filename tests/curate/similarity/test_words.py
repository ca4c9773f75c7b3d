"""curate.similarity.words: what counts as a word."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.records import Example, Message
from curate.similarity import conversation_text, words, words_and_signs

WORD_PUNCT = re.compile(r"\w+|[^\w\s]+")  # NLTK's WordPunctTokenizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat's foo_bar v2.", ["the", "cat", "s", "foo_bar", "v2"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("我是人 ok", ["我", "是", "人", "ok"]),
        ("… !? \n", []),
    ],
    ids=["english", "casefold", "marks stay in the word", "no spaces between words", "no word"],
)
def test_words(text, expected):
    assert words(text) == expected


def test_signs_are_kept_in_their_place():
    assert words_and_signs("x+=1; y") == ["x", "+=", "1", ";", "y"]


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.just("\n")))
def test_on_ascii_like_the_published_tokenizer(text):
    assert words_and_signs(text) == WORD_PUNCT.findall(text.lower())


def test_a_system_prompt_is_not_part_of_the_text():
    messages = (Message("system", "Be brief."), Message("user", "Two and two?"), Message("assistant", "Four."))
    example = Example("a", "s", messages, license="l", domain="d", origin="o")
    assert conversation_text(example) == "Two and two?\nFour."
