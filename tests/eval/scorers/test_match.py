"""Answers against gold answers: normalisation in several scripts, option letters, programs, what the answer is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.errors import EvaluationError
from eval.scorers import SCORERS
from eval.scorers.match import normalise

MATCH = SCORERS["match"]


def score(answer, *gold, **checks):
    checks = {"answers": list(gold), **checks}
    return MATCH.score({"id": "a", "target": gold[0], "checks": json.dumps(checks)}, answer)["exact_match"]


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("The Beatles.", ["Beatles"]),
        ("december 1972", ["14 December 1972 UTC", "December 1972"]),
        ("I think so.\nThe answer is: Paris!", ["Paris"]),
        ("\n\n  Paris\nIt lies on the Seine.", ["Paris"]),
        ("“Ca\u0301fe”", ["Cáfe"]),
        ("公式。", ["公式"]),
        ("البرونكوس،", ["البرونكوس"]),
        ("ＡＢＣ", ["abc"]),
        ("} ]", ["}   ]"]),
    ],
)
def test_answers_that_match(answer, gold):
    assert score(answer, *gold) == 1.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("Paris and Rome", ["Paris"]), ("", ["Paris"]), ("...", ["Paris"]), ("} )", ["} ]"]), ("22", ["2"])],
)
def test_answers_that_do_not(answer, gold):
    assert score(answer, *gold) == 0.0


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("(B)", 1),
        ("B", 1),
        ("B. because", 1),
        ("(B) The second", 1),
        ("(A) is wrong.\nSo the answer is (B).", 1),
        ("(A)", 0),
        ("Being first, it is A", 0),
        ("", 0),
    ],
)
def test_option_letters(answer, found):
    assert MATCH.score({"target": "(B)"}, answer) == {"exact_match": float(found)}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('x = {"a": [1,2]}', 1),
        ("```python\nx = {'a': [1, 2]}\n```", 1),
        ("x = {'a': [1, 3]}", 0),
        ("X = {'a': [1, 2]}", 0),
        ("x = (", 0),
    ],
)
def test_programs_are_compared_by_their_syntax_tree(answer, found):
    assert score(answer, "x = {'a': [1, 2]}", compare="code") == found


def test_a_reference_that_is_no_python_is_compared_by_its_words():
    assert score("print  'a'", "print 'a'", compare="code") == 1.0


@given(st.text())
def test_normalising_twice_is_normalising_once(text):
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(min_size=1).filter(lambda text: text.strip() and len(text.splitlines()) == 1))
def test_a_gold_answer_matches_itself(text):
    if "answer" not in text.lower() and "####" not in text:
        assert score(text, text) == 1.0


def test_items_that_cannot_be_scored_are_named():
    with pytest.raises(EvaluationError, match=r"item 'a' cannot be scored by match: .*compare 'sound'"):
        score("x", "y", compare="sound")
    with pytest.raises(EvaluationError, match=r"item 'b' .*`checks` is no JSON"):
        MATCH.score({"id": "b", "target": "x", "checks": "{"}, "x")
