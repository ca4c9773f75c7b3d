"""Who left the selection and who entered, and why, on selections that are constructed."""

from __future__ import annotations

from flows.nightly.changes import compare_selections
from flows.nightly.fates import Chosen, Fate, Gap

BEFORE = {
    "stays": Chosen(0, 0.5, "a"),
    "gone": Chosen(1, 0.4, "b"),
    "copied": Chosen(2, 0.3, "a"),
    "long": Chosen(3, 0.2, "a"),
    "broken": Chosen(4, 0.2, "a"),
    "flat": Chosen(5, 0.1, "b"),
    "beaten": Chosen(6, 0.05, "b"),
}
NOW = {
    "fresh": Chosen(0, 0.9, "a"),
    "stays": Chosen(1, 0.5, "a"),
    "up": Chosen(2, 0.4, "b"),
    "back": Chosen(3, 0.3, "a"),
}
FATES_NOW = {
    "gone": Fate("absent"),
    "copied": Fate("removed", "exact_duplicates, matching fresh: the same text"),
    "long": Fate("not encoded", "truncation removed the whole answer"),
    "broken": Fate("rejected", "no answer"),
    "flat": Fate("not scored", "the gradient is zero"),
    "beaten": Fate("scored"),
}
FATES_BEFORE = {"fresh": Fate("absent"), "up": Fate("scored"), "back": Fate("removed", "language: not English")}


def test_every_row_that_left_has_its_reason_best_first():
    found = compare_selections(
        BEFORE, NOW, fates_now=FATES_NOW, fates_before=FATES_BEFORE, gaps={"beaten": Gap(0.01, 0.3)}
    )
    assert (found.rows, found.kept) == (4, 1)
    assert [(row.id, row.why, row.told) for row in found.dropped] == [
        ("gone", "vanished", "no longer in the pool (source b)"),
        ("copied", "removed", "removed: exact_duplicates, matching fresh: the same text"),
        ("long", "not encoded", "not encoded: truncation removed the whole answer"),
        ("broken", "rejected", "rejected: no answer"),
        ("flat", "not scored", "not scored: the gradient is zero"),
        (
            "beaten",
            "outranked",
            "outranked: was rank 7 (utility +0.0500); now it would add +0.0100, the last row adds +0.3000",
        ),
    ]
    assert (found.dropped[-1].gap, found.dropped[-1].last) == (0.01, 0.3)


def test_every_row_that_entered_has_its_reason_best_first():
    found = compare_selections(BEFORE, NOW, fates_now=FATES_NOW, fates_before=FATES_BEFORE)
    assert [(row.id, row.why, row.told) for row in found.added] == [
        ("fresh", "new", "new in the pool; rank 1, utility +0.9000"),
        ("up", "risen", "was scored and not selected; now rank 3, utility +0.4000"),
        ("back", "returned", "was removed (language: not English); now rank 4, utility +0.3000"),
    ]


def test_without_gaps_the_least_utility_is_told_and_without_utilities_nothing():
    told = {
        row.id: row.told
        for row in compare_selections(BEFORE, NOW, fates_now=FATES_NOW, fates_before=FATES_BEFORE).dropped
    }
    assert told["beaten"] == (
        "not among the selected: was rank 7 (utility +0.0500); the least utility selected now is +0.3000"
    )
    found = compare_selections(
        {"x": Chosen(3, None, "a")},
        {"y": Chosen(0, None, "a")},
        fates_now={"x": Fate("scored")},
        fates_before={"y": Fate("scored")},
    )
    assert found.dropped[0].told == "not among the selected: was rank 4"
    assert found.added[0].told == "was scored and not selected; now rank 1"


def test_the_same_selection_has_no_changes_and_the_first_is_all_new():
    same = compare_selections(BEFORE, BEFORE, fates_now={}, fates_before={})
    assert (same.rows, same.kept, same.added, same.dropped) == (7, 7, (), ())
    first = compare_selections({}, NOW, fates_now={}, fates_before={})
    assert [row.why for row in first.added] == ["new"] * 4
