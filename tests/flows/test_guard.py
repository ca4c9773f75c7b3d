"""The leakage guard before any work: what steers and what scores, told with the text, stopped or dropped by setting."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.cleaning import read_removed
from curate.records import read_examples, read_rejected
from eval.leakage import read_leaks
from flows.config import ConfigError, validate
from flows.stages.data import POOL, REJECTED, REMOVED, TARGETS, clean, ingest
from flows.stages.evaluation import _known_texts
from flows.stages.guard import LEAKS, guard, read_texts, scoring, told_before
from flows.store import StageStore
from tests.flows.small_config import small_raw

ROOT = Path(__file__).parents[2]
LONG = "a farmer sells seven dozen eggs at the market on monday and keeps the other four dozen for his own kitchen"
NEAR = "how many small red apples are there in the big round basket of the old man"
TARGETS_TEXT = {"same": "What is the capital of Peru?", "run": f"Solve this. {LONG}!", "free": "Name a river in Asia."}
ITEMS = {
    "peru": "what is  the capital of Peru?",
    "eggs": f"Read: {LONG}. How many?",
    "other": "Which month has 28 days?",
}


def rows(texts, **more):
    said = lambda text: [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]  # noqa: E731
    return "".join(json.dumps({"id": name, "messages": said(text), **more}) + "\n" for name, text in texts.items())


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "pool.jsonl").write_text(rows({"p1": "Something else.", "p2": "One more.", "p3": f"{NEAR} here?"}))
    (tmp_path / "targets.jsonl").write_text(rows(TARGETS_TEXT, capability="c"))
    items = [{"id": name, "capability": "c", "prompt": text, "target": "x"} for name, text in ITEMS.items()]
    pq.write_table(pa.Table.from_pylist(items), tmp_path / "items.parquet")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    asked = [{"id": "apples", "question": NEAR, "answer": "3"}, {"id": "late", "question": LONG[:20], "answer": "3"}]
    (tasks / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (tasks / "apples.yaml").write_text(
        "task: apples\ndataset_path: json\ntest_split: test\noutput_type: generate_until\n"
        "doc_to_text: '{{question}}'\ndoc_to_target: answer\ndataset_kwargs:\n  data_files:\n    test: data.jsonl\n"
    )
    raw = small_raw(tmp_path, model=ROOT / "demo" / "model", items=tmp_path / "items.parquet")
    return {**raw, "evaluation": raw["evaluation"] | {"tasks": ["apples"], "task_folder": str(tasks), "limit": 1}}


def configured(raw, leaks):
    return validate({**raw, "evaluation": raw["evaluation"] | {"leaks": leaks}})


def test_a_run_stops_before_any_work_and_names_the_pairs_with_their_text(raw):
    config = validate(raw)
    store = StageStore(config.store)
    with pytest.raises(ConfigError) as caught:
        guard(config, store, ingest(config, store))
    message = str(caught.value)
    assert "2 of 3 targets overlap" in message and "drop_targets" in message
    assert "target same: held-out item peru, same text: 'what is the capital of Peru?'" in message
    assert f"target run: held-out item eggs, 13 words in a row: {' '.join(LONG.split()[:13])!r}" in message
    (listed,) = Path(config.store).glob(f"guard/*/{LEAKS}")
    assert [(leak.matched_id, leak.item_id) for leak in read_leaks(listed)] == [("same", "peru"), ("run", "eggs")]
    with pytest.raises(ConfigError, match="2 of 3 targets overlap"):
        told_before(config)


def test_dropped_targets_steer_nothing_and_are_accounted_for(raw):
    config = configured(raw, "drop_targets")
    store = StageStore(config.store)
    ingested = ingest(config, store)
    assert [target.id for target in read_examples(ingested.path / TARGETS)] == ["free"]
    rejected = {row.id: row.reason for row in read_rejected(ingested.path / REJECTED)}
    assert set(rejected) == {"same", "run"} and "overlaps what scores: held-out item peru" in rejected["same"]
    assert ingested.rows == {"rows_in": 6, "rows_out": 3, "targets": 1, "rejected": 2}
    assert read_leaks(guard(config, store, ingested).path / LEAKS) == []
    # nor do they take items out of the evaluation
    assert {text.id for text in _known_texts(config, store, {})} == {"free"}


def test_dropped_items_are_left_to_the_evaluation(raw):
    config = configured(raw, "drop_items")
    store = StageStore(config.store)
    ingested = ingest(config, store)
    output = guard(config, store, ingested)
    assert len(read_leaks(output.path / LEAKS)) == 2 and ingested.rows["targets"] == 3
    assert {text.id for text in _known_texts(config, store, {})} == {"same", "run", "free"}
    assert told_before(config).startswith("leakage: 3 targets beside 4 scoring texts, 2 overlap, which do not score")


def test_the_pool_is_kept_clear_of_the_items_of_local_tasks_too(raw):
    config = configured(raw, "drop_items")
    store = StageStore(config.store)
    assert [(text.task, text.item_id) for text in read_texts(scoring(config, store))][-1] == ("apples", "apples")
    cleaned = clean(config, store, ingest(config, store))
    (removed,) = read_removed(cleaned.path / REMOVED)
    assert (removed.id, removed.matched_id) == ("p3", "apples: apples") and NEAR[:30] in removed.reason
    assert [row.id for row in read_examples(cleaned.path / POOL)] == ["p1", "p2"]


def test_without_any_overlap_nothing_is_said_to_be_wrong(raw, tmp_path):
    (tmp_path / "targets.jsonl").write_text(rows({"free": "Name a river in Asia."}, capability="c"))
    config = validate(raw)
    store = StageStore(config.store)
    output = guard(config, store, ingest(config, store))
    assert read_leaks(output.path / LEAKS) == [] and output.rows == {"rows_in": 1, "rows_out": 1}
    assert told_before(config) == "leakage: 1 targets beside 4 scoring texts, none overlaps"
