"""The encode stage on rows of the demo: what it leaves, and what stops a run before anything is trained."""

import json
import logging

import pyarrow.parquet as pq
import pytest

from flows.config import validate
from flows.errors import FAILED, exit_code
from flows.stages.data import clean, ingest
from flows.stages.encoding import AUDIT, AUDITED_ROWS, EXCLUDED, encode
from flows.store import StageStore
from train.audit import AuditError
from train.encoding import read_encoded

ROWS = 60


def config(store, **changes):
    values = {
        "name": "small",
        "store": str(store),
        "model": "demo/model",
        "max_length": 256,
        "data": {
            "pool": [{"path": "demo/data/pool.parquet", "limit": ROWS}],
            "targets": [{"path": "demo/data/targets.parquet", "limit": 20}],
        },
        "evaluation": {"items": ["demo/data/eval/code.parquet"]},
    }
    return validate(values | changes)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encode")
    store = StageStore(folder / "store")
    given = config(store.root)
    ingested = ingest(given, store)
    return store, ingested, clean(given, store, ingested)


def test_the_rows_are_accounted_for_by_source(prepared, caplog):
    store, ingested, cleaned = prepared
    with caplog.at_level(logging.WARNING, logger="prefect.equipoise"):
        output = encode(config(store.root), store, ingested, cleaned)
    assert not caplog.records  # nothing is off
    audit = json.loads((output.path / AUDIT).read_text())
    rows = pq.read_table(output.path / AUDITED_ROWS).to_pylist()
    ids = pq.read_table(cleaned.path / "pool.parquet")["id"].to_pylist()
    assert [row["id"] for row in rows if row["part"] == "pool"] == ids
    by_source = audit["pool"]["sources"].values()
    assert audit["pool"]["rows_in"] == output.rows["rows_in"] == sum(sums["rows_in"] for sums in by_source)
    kept = read_encoded(output.path / "pool.parquet")
    assert audit["pool"]["trained_tokens"] == sum(row.trained_tokens for row in kept)
    assert {row["id"] for row in rows if row["excluded"]} == set().union(
        *json.loads((output.path / EXCLUDED).read_text()).values()
    )


def test_a_wrong_max_length_stops_the_run_and_another_limit_needs_no_second_encoding(prepared, caplog):
    store, ingested, cleaned = prepared
    short = config(store.root, max_length=48)
    with pytest.raises(AuditError, match="raise max_length") as stopped:
        encode(short, store, ingested, cleaned)
    assert exit_code(stopped.value) == FAILED
    assert "the pool:" in str(stopped.value) and "the targets:" in str(stopped.value)
    limits = {"min_rows": 0, "max_lost_labels": 1}
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="prefect.equipoise"):
        output = encode(config(store.root, max_length=48, audit=limits), store, ingested, cleaned)
    assert output.cached and output.rows["excluded"] > 0
    assert "truncation removed the whole answer" in caplog.text
