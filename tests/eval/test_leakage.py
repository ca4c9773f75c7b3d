"""The leakage guard: what must be found, by which test, and what must not."""

from __future__ import annotations

import pytest

from eval.leakage import KnownText, ScoredText, find_leaks, read_leaks, write_leaks

LONG = "a farmer sells seven dozen eggs at the market on monday and keeps the other four dozen for his own kitchen"
SHORT = "What is the capital of Peru?"


def known(*texts, kind="training row"):
    return [KnownText(kind, f"k{number}", text) for number, text in enumerate(texts)]


def leak_of(item, *texts):
    found = find_leaks([ScoredText("t", "i", item)], known(*texts))
    return found[0] if found else None


def test_the_same_text_is_found_whatever_its_case_and_spaces():
    leak = leak_of(f"  {SHORT.upper()}\n", "Something else entirely.", SHORT)
    assert (leak.matched_id, leak.test, leak.matched_text) == ("k1", "same text", SHORT)


def test_thirteen_words_in_a_row_are_found_inside_another_text():
    leak = leak_of(f"Read this: {LONG}. How many eggs does he sell?", f"{LONG}, and then it rained")
    assert leak.test == "13 words in a row"
    assert leak.matched_text == " ".join(LONG.split()[:13])


def test_an_edited_text_is_found_as_a_near_match():
    text = "the quick brown fox jumps over the lazy old dog"
    leak = leak_of(text, f"{text} today")
    assert leak.test == "near match, similarity 0.89"  # 8 of 9 word triples
    assert leak_of(text, "the quick brown fox jumps over a lazy dog") is None  # 5 of 10


def test_unrelated_texts_are_left_alone():
    assert find_leaks([ScoredText("t", "i", SHORT)], known("What is the capital of Chile?", LONG)) == []


@pytest.mark.parametrize("text", ["", "  ", "?!", "→ ∑ →"])
def test_a_text_without_words_matches_itself_only(text):
    """A task may show nothing of its own (its choices are whole sentences), and a training turn may be empty."""
    assert leak_of(text, "", "...", LONG) is None
    assert leak_of(SHORT, text, "") is None


@pytest.mark.parametrize("text", ["2+2?", "你好", "สวัสดี", "Ça va ?"])
def test_a_very_short_question_that_was_trained_on_is_found(text):
    assert leak_of(text, LONG, "", f" {text} ").test == "same text"
    assert leak_of(text, LONG, "Something else.") is None


def test_every_item_is_told_once_and_the_kind_of_its_match():
    items = [ScoredText("t", "one", SHORT), ScoredText("u", "one", SHORT), ScoredText("t", "two", LONG)]
    leaks = find_leaks(items, [*known(SHORT, kind="target"), *known(SHORT)])
    assert [(leak.task, leak.item_id, leak.kind) for leak in leaks] == [("t", "one", "target"), ("u", "one", "target")]


def test_the_list_survives_its_file(tmp_path):
    leaks = find_leaks([ScoredText("t", "i", LONG * 5)], known(LONG * 5))
    assert len(leaks[0].matched_text) == 300
    write_leaks(tmp_path / "leaks.parquet", leaks)
    assert read_leaks(tmp_path / "leaks.parquet") == leaks
    write_leaks(tmp_path / "none.parquet", [])
    assert read_leaks(tmp_path / "none.parquet") == []


@pytest.mark.parametrize("similarity", [0.0, 1.5])
def test_a_similarity_that_means_nothing_is_refused(similarity):
    with pytest.raises(ValueError, match="threshold"):
        find_leaks([ScoredText("t", "i", SHORT)], known(SHORT), similarity)
