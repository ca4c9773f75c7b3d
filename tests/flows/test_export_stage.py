"""From files to a dataset folder through the real stages: rows add up, each leads back to its line, bytes are equal."""

from __future__ import annotations

import json
import re
import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from curate.export.licenses import LicenseError
from curate.export.manifest import verify
from curate.export.rows import SHARDS
from flows.config import ConfigError
from flows.errors import CONFIGURATION, exit_code
from flows.stages.data import ingest
from flows.store import StageStore
from tests.flows.exported import HOSTILE, ROOT, ROWS, load, run, write_sources

ITALIAN, SWAHILI = "multilingual:ita", "multilingual:swa"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    write_sources(folder)
    return folder


@pytest.fixture(scope="module")
def exported(folder):
    return run(load(folder))


def data(folder):
    return [row for path in sorted(folder.glob(SHARDS)) for row in pq.read_table(path).to_pylist()]


def test_every_pool_row_is_in_the_card_once(exported):
    text = (exported.folder / "README.md").read_text(encoding="utf-8")
    table = text.partition("## What became of the other rows\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    told = {name: int(number) for name, number in (re.findall(r"[^|]+", line.replace(",", "")) for line in table)}
    told = {name.strip().replace("\\", ""): number for name, number in told.items()}
    assert told.pop("read") == 49 and sum(told.values()) == 49
    assert (told["exported"], told["rejected as no conversation"], told["not scored"]) == (30, 1, 1)
    assert told["removed by exact_duplicates"] == 1 and "removed by personal_data" in told


def test_every_row_leads_back_to_its_line(exported, folder):
    verify(exported.folder)
    rows = {row["id"]: row for row in data(exported.folder)}
    lineage = {row["id"]: row for row in pq.read_table(exported.folder / "lineage.parquet").to_pylist()}
    assert list(lineage) == list(rows) and len(rows) == 30
    lines = (folder / "pool.jsonl").read_text(encoding="utf-8").split("\n")
    more = pq.read_table(folder / "more.parquet").to_pylist()
    for name, row in lineage.items():
        place = json.loads(lines[row["row"] - 1]) if row["file"] == "pool.jsonl" else more[row["row"] - 1]
        assert row["file"] in ("pool.jsonl", "more.parquet") and place["id"] == name
        assert (place["messages"] == rows[name]["messages"]) == (name != "address")
        shard = pq.read_table(exported.folder / row["shard"])
        assert shard["id"][row["shard_row"]].as_py() == name
        assert row["license"] == rows[name]["license"] and row["near_duplicate_cluster"] is not None
        assert row["filters_passed"][:2] == ["exact_duplicates", "target_overlap"]
        assert {score["task"] for score in row["influence"]} == {"math", "code"}
    assert lineage["address"]["transformations"] == [{"step": "personal_data", "what": "email", "places": 1}]
    assert [name for name, row in lineage.items() if row["truncated"]] == ["cut"]
    assert lineage["cut"]["tokens"] == 256 and set(ROWS) - {"answer-too-far"} <= set(lineage)


def test_the_card_knows_languages_and_shows_hostile_names_as_text(exported):
    text = (exported.folder / "README.md").read_text(encoding="utf-8")
    # en as the source says, de of the demo's rows whose domain is multilingual:deu
    assert re.search(r"^language:\n- de\n- en$", text, re.M) and "detected in" not in text
    assert "| web \\| &lt;b&gt;\\*x\\*&lt;/b&gt; | CC-BY-4.0 | local files | 8 |" in text and HOSTILE not in text
    assert "Anna &amp; Co &lt;a@b&gt;" in text


def test_languages_that_nobody_names_are_detected(tmp_path):
    write_sources(tmp_path)
    pool = pq.read_table(ROOT / "demo/data/pool.parquet")
    mine = pc.and_(pc.equal(pool["source"], "xcopa"), pc.is_in(pool["domain"], pa.array([ITALIAN, SWAHILI])))
    pq.write_table(pool.filter(mine).drop_columns("domain"), tmp_path / "more.parquet")
    found = run(load(tmp_path, data__pool=[{"path": str(tmp_path / "more.parquet")}], selection__include=[]))
    text = (found.folder / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^language:\n- it\n- sw$", text, re.M) and "detected in their text (py3langid): it, sw." in text


def test_the_same_selection_gives_the_same_bytes(exported, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "again", ignore=shutil.ignore_patterns("store"))
    again = run(load(tmp_path / "again"))
    names = sorted(path.relative_to(exported.folder) for path in exported.folder.rglob("*") if path.is_file())
    differing = [
        str(name) for name in names if (exported.folder / name).read_bytes() != (again.folder / name).read_bytes()
    ]
    # the manifest names the stages' keys, which know where the sources lay
    assert differing == ["manifest.json"]
    one, two = (json.loads((each.folder / "manifest.json").read_text()) for each in (exported, again))
    assert one.pop("lineage").keys() == two.pop("lineage").keys() and one == two


def test_other_settings_are_another_export_and_nothing_else(exported, folder):
    other = run(load(folder, export__rows_per_shard=100))
    assert len(list(other.folder.glob(SHARDS))) == 1 and len(list(exported.folder.glob(SHARDS))) == 3
    assert [name for name, stage in other.stages.items() if not stage.cached] == ["export"]
    assert data(other.folder) == data(exported.folder)


def test_a_licence_that_forbids_stops_when_the_settings_are_read(folder):
    pool = [{"path": str(folder / "pool.jsonl"), "license": "CC-BY-ND-4.0"}]
    with pytest.raises(ConfigError, match=r"data.pool.0 \(.*pool.jsonl\): the licence 'CC-BY-ND-4.0' does not permit"):
        load(folder, data__pool=pool)
    load(folder, data__pool=pool, export__allow_licenses=["cc by-nd 4.0"])


def test_a_licence_in_a_row_stops_at_ingest_and_an_unknown_one_is_told(folder, tmp_path, caplog):
    lines = [{"prompt": "q", "completion": "a", "license": "proprietary"}, {"prompt": "r", "completion": "a"}]
    (tmp_path / "bound.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pool = [{"path": str(tmp_path / "bound.jsonl")}]
    config = load(folder, data__pool=pool, store=str(tmp_path / "store"))
    with pytest.raises(LicenseError, match=r"bound.jsonl: the licence 'proprietary' .* \[proprietary\]") as caught:
        ingest(config, StageStore(config.store))
    assert exit_code(caught.value) == CONFIGURATION
    allowed = load(folder, data__pool=pool, store=str(tmp_path / "store"), export__allow_licenses=["Proprietary"])
    with caplog.at_level("WARNING", logger="prefect.equipoise"):
        assert ingest(allowed, StageStore(allowed.store)).cached
    assert "the terms of the licence 'unknown' (1 rows) are not known" in caplog.text
