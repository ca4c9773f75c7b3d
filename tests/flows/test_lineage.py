"""The story of kept, removed, rejected and unselected rows and of targets; every source line has exactly one end."""

from __future__ import annotations

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from curate.cleaning import read_removed
from curate.records import read_examples, write_examples
from flows.cli import app
from flows.config import ConfigError
from flows.lineage import ends, stories
from flows.stages.data import POOL, REMOVED
from flows.store import StoreError
from tests.flows.comparison.small_runs import ROWS, conversation, finish, write_data

ODD = [
    {**conversation(3), "id": "copy"},
    {**conversation(1001), "id": "target-again"},
    {"id": "broken", "messages": "none"},
    {**conversation(77), "id": "mail", "source": "forum"},
]
MAIL = "Write to jane@host.org, please."


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lineage")
    data = write_data(folder / "data")
    ODD[3]["messages"][1]["content"] = MAIL
    with (folder / "data" / "pool.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in ODD)
        file.write("not json\n")
    data["data"] |= {"max_rejected": 0.1, "cleaning": {"personal_data": {}, "near_match": None}}
    return finish(folder / "store", data)


def story(run, asked):
    (found,) = stories(run, asked)
    return found


def told(found):
    return "\n".join(f"{event.stage}: {event.told}" for event in found.events)


def test_every_source_line_has_exactly_one_end_and_its_story_tells_the_same(run):
    found = ends(run)
    lines = [(end.origin, end.kind) for end in found]
    assert len(set(lines)) == len(lines) == ROWS + len(ODD) + 1 + 4
    assert Counter(end.end for end in found) == {
        "not selected": ROWS + 1 - len({e.id for e in found if e.end == "selected"}),
        "selected": len({e.id for e in found if e.end == "selected"}),
        "removed": 2,
        "rejected": 2,
        "steers": 4,
    }
    for end in [*found[:8], *found[8::6], *found[-len(ODD) :]]:
        (own,) = [each for each in stories(run, end.id or end.origin) if each.origin == end.origin]
        assert (own.kind, own.end) == (end.kind, end.end), own


def test_a_selected_row_from_its_line_to_training(run):
    chosen = pq.read_table(run.stage("select-bids") / "selection.parquet").to_pylist()[2]
    found = story(run, chosen["id"])
    assert found.end == "selected" and found.origin.endswith(f"pool.jsonl:{int(chosen['id'].removeprefix('row-')) + 1}")
    text = told(found)
    assert f"select-bids: selected at rank 3, for target {chosen['target']} ({chosen['task']}), utility" in text
    assert "clean: passed exact_duplicates" in text and "tokens, 3 of them trained on" in text
    assert "attribution: mean per task: math" in text
    facts = {event.stage: event.facts for event in found.events}
    assert facts["select-bids"]["influence"].keys() == {"math", "code"}
    source = found.events[0].facts["source"]
    passes = {"forum": 1.0, "maths & more": 15.0}[source]
    assert f"finetune-bids: drawn {passes:.0f} times ({passes:.2f} passes over source {source})" in text


def test_a_row_that_was_left_out_is_told_why(run):
    files = [run.stage(f"select-{method}") / "selection.parquet" for method in ("bids", "random")]
    taken = {row for file in files for row in pq.read_table(file)["id"].to_pylist()}
    row = next(each.id for each in read_examples(run.stage("clean") / POOL) if each.id not in taken)
    found = story(run, row)
    assert found.end == "not selected"
    why = next(event for event in found.events if event.stage == "select-bids")
    assert why.facts["gap"] <= why.facts["last_utility"] and "at the end it would have added" in why.told
    assert "select-random: not among the 12 selected" in told(found)


def test_a_removed_row_names_its_match_and_the_kept_one_its_copies(run):
    found = story(run, "copy")
    assert found.end == "removed" and found.events[-1].facts["matched_id"] == "row-3"
    assert "removed by exact_duplicates: same text as a pool row; it matches row-3: Say number 3" in told(found)
    assert "1 rows were removed for being like it: copy" in told(story(run, "row-3"))
    again = story(run, "target-again")
    assert "removed by target_overlap" in told(again) and again.events[-1].facts["matched_id"] == "row-1001"


def test_a_masked_row_is_told_what_was_masked_and_not_the_data(run):
    text = told(story(run, "mail"))
    assert "clean: changed by personal_data: 1 email masked" in text and "jane" not in text


def test_rejected_rows_are_found_by_id_and_by_line(run):
    assert told(story(run, "broken")).startswith("ingest: rejected: messages is ")
    found = story(run, f"pool.jsonl:{ROWS + len(ODD) + 1}")
    assert found.kind == "rejected row" and "not valid JSON" in told(found) and found.end == "rejected"
    assert story(run, f"data/pool.jsonl:{ROWS + 1}").id == "copy"


def test_a_target_steers(run):
    found = story(run, "row-1000")
    assert (found.kind, found.end) == ("target", "steers") and "capability math" in told(found)


def test_an_unknown_row_names_the_nearest_ids(run):
    with pytest.raises(ConfigError, match=r"read no row 'rwo-12'; the nearest ids: .*row-12"):
        stories(run, "rwo-12")


def test_the_command_prints_a_story_or_json(run):
    store = str(run.record.parents[2])
    shown = CliRunner().invoke(app, ["lineage", "copy", "--store", store], env={"COLUMNS": "120"})
    assert shown.exit_code == 0 and "removed by exact_duplicates" in shown.output and "end: removed" in shown.output
    printed = CliRunner().invoke(app, ["lineage", "row-3", "--run", "small", "--store", store, "--json"])
    (found,) = json.loads(printed.output)
    assert found["id"] == "row-3" and found["events"][0]["stage"] == "ingest"
    unknown = CliRunner().invoke(app, ["lineage", "nothing-like-it", "--store", store])
    assert unknown.exit_code == 2 and "read no row" in unknown.output


def test_a_row_that_got_lost_is_an_error(run, tmp_path):
    pool, removed = run.stage("clean") / POOL, run.stage("clean") / REMOVED
    kept, gone = read_examples(pool), read_removed(removed)
    assert len(kept) + len(gone) == ROWS + len(ODD) - 1
    before = pool.read_bytes()
    try:
        write_examples(pool, kept[1:])
        with pytest.raises(StoreError, match="row 'row-0' is lost after the clean stage"):
            ends(run)
    finally:
        pool.write_bytes(before)
