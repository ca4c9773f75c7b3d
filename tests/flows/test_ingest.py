"""The ingest stage: what was read is told beside the rows, and reaches the card; other content is another key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from curate.export import CardInfo, dataset_card, pool_sources
from curate.records import read_examples
from curate.sources import TooManyRejectedError, read_reports
from curate.sources.report import attributions
from flows.config import ConfigError, load_config
from flows.stages.data import POOL, REJECTED, SOURCES, ingest
from flows.store import StageStore

ROOT = Path(__file__).parents[2]


def rows(name: str, number: int) -> str:
    made = [{"id": f"{name}{n}", "prompt": f"What is {n}?", "completion": name} for n in range(number)]
    return "".join(json.dumps(row) + "\n" for row in made)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "targets.csv").write_text("prompt,completion,capability\nq,a,math\n")
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.jsonl").write_text(rows("a", 3))

    def load(**source):
        pool = [{"path": f"{tmp_path}/pool/*.jsonl", **source}]
        overrides = {"store": tmp_path / "store", "data.pool": pool}
        overrides |= {"data.targets": [{"path": f"{tmp_path}/targets.csv"}]}
        return load_config(
            ROOT / "configs" / "demo.yaml", [f"{k}={json.dumps(v, default=str)}" for k, v in overrides.items()]
        )

    return load


def test_what_was_read_lies_beside_the_rows_and_reaches_the_card(config):
    loaded = config(attribution="Ask Club, CC-BY-4.0", license="CC-BY-4.0")
    output = ingest(loaded, StageStore(loaded.store))
    reports = read_reports(output.path / SOURCES)
    assert [(report.use, report.rows, dict(report.shapes)) for report in reports] == [
        ("pool", 3, {"prompt_completion": 3}),
        ("targets", 1, {"prompt_completion": 1}),
    ]
    pool = pool_sources(read_examples(output.path / POOL), attributions(reports))
    text = dataset_card(CardInfo("t", "s", "m", pool), read_examples(output.path / POOL))
    assert "## Attribution\n\n- pool: Ask Club, CC-BY-4.0\n" in text


def test_a_file_that_comes_under_the_pattern_is_another_input(config, tmp_path):
    loaded = config()
    store = StageStore(loaded.store)
    first = ingest(loaded, store)
    assert ingest(loaded, store).cached
    (tmp_path / "pool" / "b.jsonl").write_text(rows("b", 2))
    second = ingest(loaded, store)
    assert not second.cached and second.key != first.key and second.rows["rows_out"] == 5


def test_too_many_rejected_leave_the_table_of_sources(config, tmp_path):
    (tmp_path / "pool" / "b.jsonl").write_text("no json\n" * 3)
    loaded = config()
    with pytest.raises(TooManyRejectedError, match=f"All of them: .*{REJECTED}; what was read: .*{SOURCES}") as caught:
        ingest(loaded, StageStore(loaded.store))
    (report,) = read_reports(Path(str(caught.value).rpartition("what was read: ")[2]))
    assert [(file.rows, file.rejected) for file in report.files] == [(3, 0), (3, 3)]


def test_a_pattern_that_fits_nothing_and_an_unknown_protocol_stop_before_any_work(config):
    for path, message in (("none/*.jsonl", "no data file fits this pattern"), ("odd://x", "cannot be opened")):
        with pytest.raises(ConfigError, match=message):
            config(path=path)
