"""Quality: every measure on answers that fail it and on ones that look like it and are fine."""

from __future__ import annotations

import pytest

from curate.cleaning.quality import Quality, cut_off, measures, refusal, repeated_lines, repeated_runs, symbols, verdict
from curate.cleaning.scored import Equal
from curate.cleaning.settings import QualitySettings
from curate.records import Example, Message

SENTENCE = "The river rises in the hills and reaches the sea after a long way through the plain. "
PROSE = " ".join(f"Sentence number {k} speaks of {k * 7} other things." for k in range(60))


def example(row_id, answer, source="src"):
    return Example(row_id, source, (Message("user", "q"), Message("assistant", answer)), "MIT", "d", f"f:{row_id}")


@pytest.mark.parametrize(
    ("answer", "settings", "told"),
    [
        ("4", {"min_characters": 2}, "answer of 1 characters, at least 2 wanted"),
        ("four words are here", {"max_words": 3}, "answer of 4 words, at most 3 wanted"),
        ("one", {"min_words": 2}, "answer of 1 words, at least 2 wanted"),
        ("one two", {"max_characters": 3}, "answer of 7 characters, at most 3 wanted"),
        (f"{SENTENCE}\n" * 6, {"max_repeated_ngrams": None}, "83% of the answer are characters in repeated lines"),
        ("so and so on it goes. " * 20, {}, "repeated runs of 5 words"),
        ("?!*#" * 40 + "abcdefgh", {}, "95% of the answer are punctuation and symbols, at most 70% wanted"),
        ("Here:\n```python\nprint(1)\n", {}, "a code block is not closed"),
        (PROSE + " and then the story goes on with the next of the", {}, "ends within a sentence"),
        ("I’m sorry, but I can’t help with that.", {}, "refusal: i'm sorry, but i can't"),
    ],
)
def test_broken_answers_go_with_their_measure(answer, settings, told):
    kept, removed = Quality(QualitySettings(**settings))([example("a", answer)])
    assert kept == [] and told in removed[0].reason and removed[0].matched_id == ""


@pytest.mark.parametrize(
    "answer",
    [
        "4",
        "(C) Nancy Reagan",
        PROSE,
        PROSE.rstrip(".") + "\n\n#### 42",
        PROSE + "\n```\nx = [1, 2]\nprint(x)\n```",
        "for i in range(3):\n    print(i, end=' ')\n",
        "$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$",
        "1. milk\n2. bread\n3. eggs\n4. a very long last item of the list that ends with no full stop at all",
        "I'm sorry to hear that. Rest, drink, and see a doctor if it lasts.",
        "ประเทศไทยมีแม่น้ำสายสำคัญหลายสาย " * 1 + "และมีภูเขาสูงทางภาคเหนือ",
        PROSE + "\n- hang pink, blue, orange and green streamers from your doorway and the ceiling",
        "I'm unable to find whether the club is casual. You'll have to contact them.",
        "re.sub('(?<!\\\\w)([A-Z])\\\\.', '\\\\1', s)",
        "答案是四。因为二加二等于四。",
    ],
)
def test_good_answers_stay(answer):
    rows = [example("a", answer)]
    assert Quality(QualitySettings())(rows) == (rows, [])


def test_measures_by_hand():
    assert repeated_lines("ab\nab\ncd\nab\n") == pytest.approx(1 - 4 / 8)
    assert repeated_lines("ab\nab\nab") == 0.0
    assert repeated_runs(["x"] * 60, 5) == pytest.approx(1 - 1 / 56)
    assert repeated_runs(["x"] * 40, 5) == 0.0
    assert (
        symbols("a, b!" * 30) == pytest.approx(0.5) and symbols("a, b!") == symbols("हिन्दी" * 90) == symbols(" ") == 0.0
    )
    assert refusal("As an AI language model, I ...") and refusal("As an artist") is None
    thai = "แม่น้ำ" * 200
    assert cut_off(thai, 400) is None


def test_a_measure_that_is_off_is_not_taken():
    off = QualitySettings(
        max_repeated_lines=None, max_repeated_ngrams=None, max_symbols=None, truncated_from=None, refusals=False
    )
    assert list(measures(["I cannot assist with\n```"], off)) == []
    assert verdict(["!!!!"], off).over is False


def test_only_the_last_answer_can_be_cut_off_and_any_can_refuse():
    turns = [Message("user", "q"), Message("assistant", "```\nopen"), Message("user", "go on")]
    turns.append(Message("assistant", "ok"))
    row = Example("a", "src", tuple(turns), "MIT", "d", "f:1")
    assert Quality(QualitySettings())([row])[0] == [row]
    turns[1] = Message("assistant", "I cannot assist with that.")
    assert Quality(QualitySettings())([Example("a", "src", tuple(turns), "MIT", "d", "f:1")])[0] == []


def test_equal_removal_takes_the_worst_of_every_source():
    rows = [example(f"a{k}", "x" * (10 + k), "long") for k in range(10)]
    rows += [example(f"b{k}", "x" * (1 + k % 4), "short") for k in range(10)]
    plain = Quality(QualitySettings(min_characters=5))
    assert {row.source for row in plain(rows)[1]} == {"short"}
    equal = Quality(QualitySettings(min_characters=5), Equal("source", lambda row: row.source))
    kept, removed = equal(rows)
    assert [row.source for row in removed] == ["long"] * 5 + ["short"] * 5
    assert [row.id for row in removed[:5]] == [f"a{k}" for k in range(5)]
    assert "among the highest scores of source long, as many as 50.0% of all" in removed[0].reason
    assert len(kept) == 10
