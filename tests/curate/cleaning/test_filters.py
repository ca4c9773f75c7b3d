"""Filters: what counts as the same text, and that nothing disappears without a record."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.cleaning import (
    REMOVED_SCHEMA,
    ExactDuplicates,
    Reference,
    Removed,
    TargetOverlap,
    WordRunOverlap,
    clean,
    read_removed,
    write_removed,
)
from curate.cleaning.exact_duplicates import normalise
from curate.cleaning.leakage import word_runs
from curate.records import Example, Message

WORDS = [f"w{number}" for number in range(40)]


def example(row_id, user, assistant="yes"):
    return Example(row_id, "src", (Message("user", user), Message("assistant", assistant)), "MIT", "d", f"f:{row_id}")


def test_normalisation():
    assert normalise("  Caf\u0065\u0301\n\tSTRASSE ") == normalise("CAF\u00c9 stra\u00dfe")
    assert normalise("a b") != normalise("ab")


@given(st.text())
def test_normalisation_is_idempotent(text):
    assert normalise(normalise(text)) == normalise(text)


def test_the_first_of_equal_rows_stays():
    rows = [
        example("a", "Hi  there"),
        example("b", "other"),
        example("c", "hi\nTHERE", "Yes"),
        example("d", "hi there", "no"),
    ]
    kept, removed = ExactDuplicates()(rows)
    assert [row.id for row in kept] == ["a", "b", "d"]
    assert removed == [Removed("c", "src", "exact_duplicates", "same text as a pool row", "a")]
    swapped = Example("e", "src", (Message("assistant", "hi there"), Message("user", "yes")), "MIT", "d", "f:e")
    assert ExactDuplicates()([rows[0], swapped])[0] == [rows[0], swapped]  # the roles count


def test_rows_that_ask_what_a_target_or_item_asks():
    references = [Reference.of(example("t", "What is 2 + 2?", "4")), Reference("item", ("Name the capital.",))]
    rows = [example("a", "what is  2 + 2?", "5"), example("b", "Name the capital. "), example("c", "What is 2 + 3?")]
    kept, removed = TargetOverlap(references)(rows)
    assert [row.id for row in kept] == ["c"]
    assert [(row.id, row.filter, row.matched_id) for row in removed] == [
        ("a", "target_overlap", "t"),
        ("b", "target_overlap", "item"),
    ]


@pytest.mark.parametrize(("shared", "removed"), [(12, False), (13, True), (14, True)])
def test_thirteen_shared_words_are_a_leak(shared, removed):
    reference = Reference("item", ("Before, " + " ".join(WORDS[:shared]) + " after",))
    row = example("a", "quite other: " + ", ".join(WORDS[:shared]).upper() + "! end")
    kept, gone = WordRunOverlap([reference])([row])
    assert bool(gone) is removed and bool(kept) is not removed
    if gone:
        assert gone[0].matched_id == "item" and " ".join(WORDS[:13]) in gone[0].reason


def test_runs_do_not_cross_turns_and_answers_do_not_count():
    reference = Reference("item", (" ".join(WORDS[:20]),))
    split = (Message("user", " ".join(WORDS[:10])), Message("assistant", "x"), Message("user", " ".join(WORDS[10:20])))
    rows = [
        Example("a", "src", (*split, Message("assistant", "y")), "MIT", "d", "f:1"),
        example("b", "Tell me.", " ".join(WORDS[:20])),
    ]
    assert WordRunOverlap([reference])(rows) == (rows, [])


def test_word_runs():
    assert list(word_runs("A b, c-d", length=3)) == [("a", "b", "c"), ("b", "c", "d")]
    assert list(word_runs("a b", length=3)) == []


def test_clean_runs_filters_in_order_and_writes_what_they_removed(tmp_path):
    rows = [example("a", "one"), example("b", "ONE"), example("c", "two"), example("d", "three")]
    cleaned = clean(rows, [ExactDuplicates(), TargetOverlap([Reference("t", ("two",))])])
    kept, removed = cleaned.kept, cleaned.removed
    assert [step.seen for step in cleaned.steps] == [4, 3]
    assert [row.id for row in kept] == ["a", "d"]
    assert [(row.id, row.filter) for row in removed] == [("b", "exact_duplicates"), ("c", "target_overlap")]
    write_removed(tmp_path / "removed.parquet", removed)
    assert read_removed(tmp_path / "removed.parquet") == removed
    write_removed(tmp_path / "none.parquet", [])
    assert read_removed(tmp_path / "none.parquet") == []
    assert REMOVED_SCHEMA.names == ["id", "source", "filter", "reason", "matched_id"]


class Lossy:
    name = "lossy"

    def __call__(self, examples):
        return list(examples[1:]), []


def test_a_filter_that_loses_a_row_is_caught():
    with pytest.raises(RuntimeError, match="filter lossy: 2 rows in, 1 kept"):
        clean([example("a", "one"), example("b", "two")], [Lossy()])
