"""The clean stage with filters on: files and counts that add up, a key of settings and models, clear errors."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curate.cleaning import read_changed, read_removed
from curate.cleaning.steps import CLEANING
from curate.records import read_examples
from flows.config import ConfigError, validate
from flows.stages.data import CHANGED, POOL, REMOVED, clean, ingest
from flows.stages.export import _gaps
from flows.store import StageOutput, StageStore
from tests.flows.small_config import small_raw
from tests.tiny import save_base

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def raw(tmp_path):
    pool = pq.read_table(ROOT / "demo" / "data" / "pool.parquet").to_pylist()[::16]
    rows = [{key: row[key] for key in ("id", "source", "messages")} for row in pool]
    question = {"role": "user", "content": "Whom do I ask? Please answer in one short sentence and no more."}
    rows += [
        {"id": "mail", "messages": [question, {"role": "assistant", "content": "Ask Jane, jane@host.org, on Monday."}]},
        {"id": "no", "messages": [question, {"role": "assistant", "content": "I cannot assist with that request."}]},
    ]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    targets = pq.read_table(ROOT / "demo" / "data" / "targets.parquet").to_pylist()[:4]
    keys = ("id", "capability", "messages")
    text = "".join(json.dumps({key: row[key] for key in keys}) + "\n" for row in targets)
    (tmp_path / "targets.jsonl").write_text(text)
    return small_raw(tmp_path, model=ROOT / "demo" / "model", items=ROOT / "demo" / "data" / "eval" / "math.parquet")


def cleaned(raw, **cleaning):
    """(output of the clean stage, key of ingest)."""
    config = validate({**raw, "data": {**raw["data"], "cleaning": cleaning}})
    store = StageStore(config.store)
    ingested = ingest(config, store)
    return clean(config, store, ingested), ingested.key


def test_all_rows_are_accounted_for_and_the_masked_ones_told(raw, encoder):
    semantic = {"model": str(encoder), "threshold": 1.0, "equalise": "source"}
    output, _ = cleaned(raw, quality={}, personal_data={}, near_duplicates={}, semantic_duplicates=semantic)
    kept, removed = read_examples(output.path / POOL), read_removed(output.path / REMOVED)
    assert output.rows["rows_in"] == 202 == len(kept) + len(removed)
    assert ("no", "quality") in {(row.id, row.filter) for row in removed}
    assert ("mail", "email", 1) in {(row.id, row.what, row.places) for row in read_changed(output.path / CHANGED)}
    masked = next(row for row in kept if row.id == "mail")
    assert masked.messages[1].content == "Ask Jane, [EMAIL], on Monday."
    told = json.loads((output.path / CLEANING).read_text())
    assert [step["filter"] for step in told["filters"]][4:] == [
        "quality",
        "personal_data",
        "near_duplicates",
        "semantic_duplicates",
    ]
    for step, after in zip(told["filters"], told["filters"][1:], strict=False):
        assert step["seen"] - step["removed"] == after["seen"]
        assert sum(row["seen"] for row in step["groups"] if row["by"] == "source") == step["seen"]


def test_without_settings_the_pool_is_as_before(raw):
    output, _ = cleaned(raw)
    assert set(output.rows) <= {
        "rows_in",
        "rows_out",
        "exact_duplicates",
        "target_overlap",
        "word_run_overlap",
        "near_match",
    }
    assert read_changed(output.path / CHANGED) == []


def test_the_key_covers_settings_and_model_files_and_nothing_is_read_again(raw, encoder):
    default, ingested = cleaned(raw)
    quality, same = cleaned(raw, quality={})
    stricter, _ = cleaned(raw, quality={"min_words": 2})
    assert ingested == same and len({default.key, quality.key, stricter.key}) == 3
    assert cleaned(raw, quality={})[0].cached
    settings = {"model": str(encoder), "threshold": 1.0}
    one, _ = cleaned(raw, semantic_duplicates=settings)
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(config | {"note": "other"}))
    assert cleaned(raw, semantic_duplicates=settings)[0].key != one.key


@pytest.mark.parametrize(
    ("cleaning", "told"),
    [
        ({"qualty": {}}, "data.cleaning.qualty: unknown key, did you mean 'quality'?"),
        ({"quality": {"min_word": 3}}, "data.cleaning.quality.min_word: unknown key, did you mean 'min_words'?"),
        ({"language": {"wanted": ["eng"]}}, "data.cleaning.language.wanted: no language code 'eng'"),
        ({"near_duplicates": {"threshold": 1.5}}, "data.cleaning.near_duplicates.threshold"),
        ({"balance": {"by": ["sources"]}}, "data.cleaning.balance.by.0"),
    ],
)
def test_mistakes_are_named_with_the_nearest_valid_name(raw, cleaning, told):
    with pytest.raises(ConfigError) as caught:
        validate({**raw, "data": {**raw["data"], "cleaning": cleaning}})
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("cleaning", "told"),
    [
        ({}, ["Near-duplicates, personal data and toxicity were not filtered."]),
        (
            {"personal_data": {"kinds": ["email", "ip"]}, "near_duplicates": {}},
            ["Addresses, numbers and keys of the kinds email, ip were masked.", "Toxicity was not filtered."],
        ),
    ],
)
def test_the_card_says_what_was_not_looked_for(raw, cleaning, told):
    config = validate({**raw, "data": {**raw["data"], "cleaning": cleaning}})
    whole = StageOutput("encode", "key", Path(), False, 0.0, {"excluded": 0})
    assert list(_gaps(config, whole, whole))[1:] == told
