"""What became of rows, from the files that the stages of a night leave."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.cleaning import REMOVED_SCHEMA, Removed, write_removed
from curate.records import Example, Message, Rejected, write_examples, write_rejected
from curate.scores import VALUES, write_labels
from curate.selection import METHODS
from curate.selection.explain import selection_table, why_not
from flows.nightly.fates import Chosen, Fate, chosen, fates, gaps, pool_ids, rewritten
from flows.stages.data import POOL, REJECTED, REMOVED
from flows.stages.encoding import EXCLUDED
from flows.stages.selection import SELECTION

ROWS = [f"row-{k}" for k in range(12)]
TARGETS, TASKS = ["t0", "t1", "t2"], ["math", "code", "knowledge"]


def example(name, text="an answer"):
    messages = (Message("user", "a question"), Message("assistant", text))
    return Example(name, "forum", messages, "MIT", "chat", f"pool.jsonl:{name}")


@pytest.fixture
def night(tmp_path):
    """Stage -> its folder. Rows 0 to 11 are scored; one row each ended at every place before."""
    stages = {name: tmp_path / name for name in ("ingest", "clean", "encode", "scores", "select")}
    for folder in stages.values():
        folder.mkdir()
    write_examples(stages["ingest"] / POOL, [example(name) for name in [*ROWS, "copy", "long", "flat"]])
    write_rejected(stages["ingest"] / REJECTED, [Rejected("pool.jsonl:9", "mute", "no answer", "")])
    write_examples(stages["clean"] / POOL, [example(name) for name in [*ROWS, "long", "flat"]])
    write_removed(stages["clean"] / REMOVED, [Removed("copy", "forum", "exact_duplicates", "the same text", "row-1")])
    (stages["encode"] / EXCLUDED).write_text(json.dumps({"pool": {"long": "cut"}, "targets": {}}))
    values = np.random.default_rng(0).normal(size=(len(ROWS), len(TARGETS))).astype(np.float32)
    np.save(stages["scores"] / VALUES, values)
    write_labels(stages["scores"], ROWS, TARGETS, TASKS, summary={})
    selection = METHODS["bids"](values, 4, tasks=TASKS, seed=0, constraints=None)
    table = selection_table(selection, values, ids=ROWS, sources=["forum"] * len(ROWS), targets=TARGETS, tasks=TASKS)
    pq.write_table(table, stages["select"] / SELECTION)
    return stages, values, selection


def test_every_row_has_the_fate_that_the_files_tell(night):
    stages, _, _ = night
    asked = ["row-3", "copy", "long", "flat", "mute", "never"]
    assert fates(stages, asked) == {
        "row-3": Fate("scored"),
        "copy": Fate("removed", "exact_duplicates, matching row-1: the same text"),
        "long": Fate("not encoded", "cut"),
        "flat": Fate("not scored", "it has no finite gradient or no text to compare"),
        "mute": Fate("rejected", "no answer"),
        "never": Fate("absent"),
    }
    assert fates(stages, []) == {}


def test_the_pool_and_the_places_of_the_selected(night):
    stages, _, selection = night
    assert pool_ids(stages["ingest"]) == {*ROWS, "copy", "long", "flat"}
    places = chosen(stages["select"])
    assert list(places) == [ROWS[row] for row in selection.order]
    assert places[ROWS[selection.order[2]]] == Chosen(2, pytest.approx(selection.utility[2]), "forum")


def test_gaps_are_what_bids_says_of_each_row_and_other_methods_say_nothing(night):
    stages, values, selection = night
    left = [row for row in range(len(ROWS)) if row not in selection.order]
    found = gaps("bids", stages["scores"], stages["select"], [ROWS[row] for row in left])
    assert len(found) == len(left)
    for row in left:
        told = why_not(values, selection, row)
        assert found[ROWS[row]] == pytest.approx((told.gap, told.last_utility))
    assert gaps("less", stages["scores"], stages["select"], ROWS) == {}
    assert gaps("bids", stages["scores"], stages["select"], ["never"]) == {}


def test_a_row_without_a_score_has_no_gap(night):
    stages, values, selection = night
    left = [row for row in range(len(ROWS)) if row not in selection.order]
    values[left[0]] = np.nan
    np.save(stages["scores"] / VALUES, values)
    found = gaps("bids", stages["scores"], stages["select"], [ROWS[row] for row in left])
    assert set(found) == {ROWS[row] for row in left[1:]}


def test_a_kept_row_with_another_text_is_named(night, tmp_path):
    stages, _, _ = night
    other = tmp_path / "tonight"
    other.mkdir()
    write_examples(other / POOL, [example("row-0", "another"), example("row-1"), example("new")])
    assert rewritten(stages["clean"], other, {"row-0", "row-1", "row-2"}) == ["row-0"]


def test_no_removed_row_is_a_file_without_rows(night):
    stages, _, _ = night
    pq.write_table(pa.Table.from_pylist([], schema=REMOVED_SCHEMA), stages["clean"] / REMOVED)
    assert fates(stages, ["row-3"]) == {"row-3": Fate("scored")}
