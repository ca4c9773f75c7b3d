"""Hub datasets through the real client: the commit that is read is the commit that is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.curate.sources.hub_server import Hub, run_client

OLD, NEW = "a" * 40, "b" * 40
PROGRAM = """
import json, sys
from curate.sources import SourceError, SourceSpec, pinned, read_reported
spec = SourceSpec(**json.loads(sys.argv[1]))
try:
    pool = read_reported([pinned(spec)], "pool")
    print(json.dumps({"rows": [[e.id, e.origin, e.messages[1].content] for e in pool.examples],
                      "revision": pool.reports[0].revision, "source": dict(pool.reports[0].sources)}))
except SourceError as error:
    print(json.dumps({"error": str(error)}))
"""


def lines(word: str) -> bytes:
    rows = [{"id": f"r{n}", "prompt": f"{n}?", "completion": word, "unused": [n]} for n in range(3)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def hub():
    return Hub("club/set", {OLD: {"train.jsonl": lines("old")}, NEW: {"train.jsonl": lines("new")}}, OLD)


def read(address: str, home: Path, **spec) -> dict:
    home.mkdir(exist_ok=True)
    offline = "0" if address.startswith("http") else "1"
    done = run_client(PROGRAM, {"path": "club/set", **spec}, address, home, HF_HUB_OFFLINE=offline)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_branch_is_read_at_its_commit_and_a_commit_stays(hub, tmp_path):
    with hub.serve() as address:
        first = read(address, tmp_path)
        assert first["revision"] == OLD and first["source"] == {"club/set": 3}
        assert first["rows"] == [[f"r{n}", f"hub:club/set@{OLD}/train:{n + 1}", "old"] for n in range(3)]
        hub.main = NEW
        assert read(address, tmp_path)["rows"][0][2] == "new"
        kept = read(address, tmp_path, revision=OLD)
        assert (kept["revision"], kept["rows"]) == (OLD, first["rows"])


@pytest.mark.slow
def test_offline_the_cache_is_read_if_it_holds_the_commit(hub, tmp_path):
    with hub.serve() as address:
        first = read(address, tmp_path)
        assert read("", tmp_path) == read("", tmp_path, revision=OLD) == first
        read(address, tmp_path, revision=NEW)
    assert read("", tmp_path)["revision"] == NEW
    refused = read("", tmp_path, revision=OLD)["error"]
    assert f"the local cache holds commit {NEW}, not {OLD}" in refused


@pytest.mark.slow
def test_streaming_reads_the_same_rows_and_leaves_no_copy(hub, tmp_path):
    with hub.serve() as address:
        whole = read(address, tmp_path / "a")
        streamed = read(address, tmp_path / "b", stream=True)
        assert streamed == whole
        assert not list((tmp_path / "b").rglob("*.arrow")) and list((tmp_path / "a").rglob("*.arrow"))
        assert len(read(address, tmp_path / "b", stream=True, limit=2)["rows"]) == 2


@pytest.mark.slow
def test_an_unknown_revision_or_split_is_refused(hub, tmp_path):
    with hub.serve() as address:
        for wrong in ({"revision": "c" * 40}, {"split": "validation"}):
            assert "club/set: no such local path, and as a hub dataset" in read(address, tmp_path, **wrong)["error"]
