"""Numbers in written answers: worked examples, and a slow scanner over texts that are made at random."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.errors import EvaluationError
from eval.scorers import SCORERS
from eval.scorers.numeric import extract_number, read_number
from tests.reference.numeric import last_number

ROOT = Path(__file__).parents[3]
NUMERIC = SCORERS["numeric"]


@pytest.mark.parametrize(
    ("text", "written", "value"),
    [
        ("She makes 9*2 = $18.00.", "$18.00", 18),
        ("#### 1,450,000", "1,450,000", 1450000),
        ("First 3, then #### 5\n\nThat took 7 steps.", "5", 5),
        ("The answer is 5 + 3 = 8 apples, not 9.", "8", 8),
        ("**Answer:** 18 eggs, since 16-3 = 13", "18", 18),
        ("The answer is **-7**.", "-7", -7),
        (r"so \boxed{\frac{3}{4}} of 12", r"\frac{3}{4}", Fraction(3, 4)),
        (r"\boxed{-\dfrac{1}{2}}", r"-\dfrac{1}{2}", Fraction(-1, 2)),
        (r"\boxed{18\text{ dollars}}", "18", 18),
        ("It costs -$5", "-$5", -5),
        ("It costs $-5.", "$-5", -5),
        ("10 - 5", "5", 5),
        ("x=-5", "-5", -5),
        ("a−5 or −5", "-5", -5),
        ("3 1/2 cups", "3 1/2", Fraction(7, 2)),
        ("2½ cups", "2 1/2", Fraction(5, 2)),
        ("12,34,567 rupees", "12,34,567", 1234567),
        ("1.234.567 Euro", "1.234.567", 1234567),
        ("1.234,50 Euro", "1.234,50", Fraction(2469, 2)),
        ("1\u202f234,5 €", "1\u202f234,5", Fraction(2469, 2)),
        ("2,5 Liter", "2,5", Fraction(5, 2)),
        ("about .5", ".5", Fraction(1, 2)),
        ("1e3 grains", "1e3", 1000),
        ("50%", "50", 50),
        ("5 m²", "5", 5),
        ("vitamin B12, 7 of them", "7", 7),
        ("vitamin B12", None, None),
        ("答案是18美元", "18", 18),
        ("উত্তর হল ১,২৩৪", "1,234", 1234),
        ("కాబట్టి సమాధానం ౧౮", "18", 18),
        ("คำตอบคือ ๑๘ ใน 3 วัน", "18", 18),
        ("١٢٫٥", "12.5", Fraction(25, 2)),
        ("１８", "18", 18),
        ("1/0", "1/0", None),
        ("none at all", None, None),
        ("", None, None),
    ],
)
def test_worked_examples(text, written, value):
    assert extract_number(text) == written
    assert (read_number(written) if written is not None else None) == value


WORDS = st.sampled_from(["apples", "so", "B12", "x2", "then", "=", "+", ".", ",", "(", ")", "\n", "for $", "-"])
NUMBERS = st.builds(
    lambda sign, value, form: f"{sign}{value:{form}}",
    st.sampled_from(["", "-", "+", "$", "-$"]),
    st.one_of(st.integers(0, 10**9), st.decimals(0, 10**6, places=2)),
    st.sampled_from(["", ","]),
)


@given(st.lists(st.one_of(WORDS, NUMBERS), max_size=12))
def test_the_last_number_is_that_of_a_slow_scanner(parts):
    text = " ".join(parts)
    found = extract_number(text)
    assert (read_number(found) if found is not None else None) == last_number(text)


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{:,}", "{}", "**{}**", "${:,}.00", "{} apples.", "= {:,}."]))
def test_a_stated_number_is_found_after_any_text(value, form):
    text = f"In 3 steps of 4.5 each, as in 1/2.\n#### {form.format(value)}\nThat took 12 minutes."
    assert read_number(extract_number(text) or "") == value


@given(st.text())
def test_any_text_is_borne(text):
    found = extract_number(text)
    if found is not None:
        read_number(found)  # a value or None


@given(st.integers(0, 10**9), st.sampled_from(["০", "౦", "๐", "०", "٠", "０"]))
def test_digits_of_every_script_are_the_same_number(value, zero):
    text = "".join(chr(ord(zero) + int(digit)) for digit in str(value))
    assert read_number(extract_number(f"= {text}") or "") == value


def test_the_comparison_is_exact():
    doc = {"id": "a", "target": "0.1"}
    assert NUMERIC.score(doc, "1/10") == {"exact_match": 1.0}
    assert NUMERIC.score(doc, "0.1000000000000000000001") == {"exact_match": 0.0}
    assert NUMERIC.score({"target": "2,125"}, "2125.00") == {"exact_match": 1.0}
    assert NUMERIC.score(doc, "I do not know.") == {"exact_match": 0.0}
    assert NUMERIC.score(doc, "9" * 10_000) == {"exact_match": 0.0}


def test_a_target_without_a_number_names_the_item():
    with pytest.raises(
        EvaluationError, match=r"item 'q7' cannot be scored by numeric: its target 'many' holds no number"
    ):
        NUMERIC.score({"id": "q7", "target": "many"}, "7")
    with pytest.raises(EvaluationError, match=r"item 'q7' .* `target` holds no text"):
        NUMERIC.score({"id": "q7"}, "7")
    with pytest.raises(EvaluationError, match="1 items but 2 answers"):
        NUMERIC.score_all([{"target": "1"}], ["1", "2"])


def test_every_committed_item_is_solved_by_its_own_target():
    rows = pq.read_table(ROOT / "demo" / "data" / "tasks" / "gsm8k.parquet").to_pylist()
    answers = [f"After 3 steps it is ${row['target']}." for row in rows]
    assert {score["exact_match"] for score in NUMERIC.score_all(rows, answers)} == {1.0}
