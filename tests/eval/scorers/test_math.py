"""LaTeX answers: forms that are equal, and expressions that would never end."""

from __future__ import annotations

import time

import pytest

from eval.errors import EvaluationError
from eval.scorers import SCORERS
from eval.scorers import math as module

MATH = SCORERS["math"]


@pytest.mark.slow
def test_equal_forms_are_equal_and_others_are_not():
    pytest.importorskip("math_verify")
    cases = [
        (r"\frac{3}{2}", r"Half of 3: \boxed{1.5}", 1.0),
        (r"90^\circ", r"\boxed{90}", 1.0),
        (r"\text{Evelyn}", r"\boxed{\text{Evelyn}}", 1.0),
        ("x=5", "The answer is $5$.", 1.0),
        ("1,-2", r"\boxed{-2, 1}", 1.0),
        ("x^3+3x-6", "$3x+x^3-6$", 1.0),
        (r"\frac{3}{2}", r"\boxed{\frac{2}{3}}", 0.0),
        ("9", "I do not know.", 0.0),
    ]
    scores = MATH.score_all([{"target": target} for target, _, _ in cases], [answer for _, answer, _ in cases])
    assert [score["exact_match"] for score in scores] == [expected for _, _, expected in cases]


@pytest.mark.slow
def test_an_expression_that_never_ends_counts_as_wrong_and_the_next_is_scored(monkeypatch):
    pytest.importorskip("math_verify")
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 3)
    started = time.perf_counter()
    scores = MATH.score_all([{"target": "9"}] * 3, ["9", r"\boxed{9^{9^{9^{9^{9}}}}}", "9"])
    assert [score["exact_match"] for score in scores] == [1.0, 0.0, 1.0]
    assert time.perf_counter() - started < 90


def test_without_the_package_the_message_names_it(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EvaluationError, match="pip install math-verify"):
        MATH.score({"target": "1"}, "1")
