"""The flow of rows adds up with the stages' accounting, and refuses to draw what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.report.row_flow import figure_of, read_flow
from flows.store import StageOutput, StoreError


def stages(**changes):
    """A run of two methods on different scores, one of which could not score two rows."""
    rows = {
        "ingest": {"rows_in": 120, "rows_out": 100, "targets": 15, "rejected": 5},
        "clean": {"rows_in": 100, "rows_out": 90, "exact_duplicates": 7, "word_run_overlap": 3},
        "encode": {"rows_in": 90, "rows_out": 86, "excluded": 4},
        "attribution": {"rows_in": 86, "rows_out": 84, "excluded": 2},
        "similarity-bm25": {"rows_in": 86, "rows_out": 86, "excluded": 0},
        "select-bids": {"rows_in": 84, "rows_out": 9, "not_selected": 75},
        "select-bm25": {"rows_in": 86, "rows_out": 9, "not_selected": 77},
        "export-bids": {"rows_in": 9, "rows_out": 9},
        "export-bm25": {"rows_in": 9, "rows_out": 9},
    } | changes
    return {
        name: StageOutput(name.split("-")[0], "key", Path(name), False, 1.0, counts) for name, counts in rows.items()
    }


def test_every_row_that_was_read_is_somewhere():
    flow = read_flow(stages(), ["bids", "bm25"])
    assert [step.rows for step in flow.steps] == [120, 100, 90, 86]
    for step, after in zip(flow.steps, flow.steps[1:], strict=False):
        assert step.rows == after.rows + sum(count for _, count in step.left)
    for branch in flow.branches:
        assert branch.rows == branch.exported + sum(count for _, count in branch.left)
    assert [sum(count for why, count in b.left if "scored" in why) for b in flow.branches] == [2, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"clean": {"rows_in": 100, "rows_out": 90, "exact_duplicates": 7}},
        {"encode": {"rows_in": 89, "rows_out": 86, "excluded": 3}},
        {"select-bids": {"rows_in": 83, "rows_out": 9, "not_selected": 74}},
        {"export-bm25": {"rows_in": 8, "rows_out": 8}},
    ],
    ids=["a filter lost rows", "encode was given fewer", "select was given fewer", "export was given fewer"],
)
def test_a_flow_that_does_not_add_up_is_an_error(changes):
    with pytest.raises(StoreError, match="report this as a bug"):
        read_flow(stages(**changes), ["bids", "bm25"])


def test_the_figure_tells_every_number_and_reason():
    drawn = figure_of(read_flow(stages(), ["bids", "bm25"]))
    for told in (">120<", ">86<", "−7 exact duplicates", "−15 targets", "−5 rejected", "9 exported (10.5%)", ">bm25<"):
        assert told in drawn, told


def test_a_run_without_losses_or_selections_is_drawn_too():
    assert "<svg" in figure_of(read_flow(stages(clean={"rows_in": 100, "rows_out": 90, "other": 10}), []))
    assert read_flow({}, ["bids"]).steps == []
