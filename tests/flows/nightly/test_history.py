"""The records of nights: read, told, and asked for where there are none; and two nights at once."""

from __future__ import annotations

import json
import threading

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.config import ConfigError
from flows.nightly import show
from flows.nightly.history import History
from flows.nightly.night import Entered, Left, SelectionChange
from flows.nightly.pointer import Promotions
from flows.store import StageStore
from tests.flows.nightly.nights import night

CHANGED = SelectionChange(
    rows=3,
    kept=1,
    added=(
        Entered(id="fresh", source="a", rank=0, utility=0.9, why="new", told="new in the pool; rank 1"),
        Entered(id="up", source="b", rank=2, utility=0.4, why="risen", told="was scored"),
    ),
    dropped=tuple(
        Left(id=f"old-{k}", source="<b>", rank=k, utility=None, why="vanished", told="no longer | there")
        for k in range(25)
    ),
    rewritten=("same",),
)


@pytest.fixture
def store(tmp_path):
    store = StageStore(tmp_path / "store")
    for each in (night(1), night(2, selection=CHANGED), night(3, "refused", reasons=("worse: [math]", "worse: code"))):
        History(store, "tiny").write(each)
    return store


def command(store, *arguments):
    told = CliRunner().invoke(app, ["history", *arguments, "--store", str(store.root)], env={"COLUMNS": "160"})
    return told.exit_code, told.output


def test_a_line_per_night(store):
    code, told = command(store, "tiny")
    assert code == 0
    lines = [line.split() for line in told.splitlines() if line.strip()]
    assert [line[:4] for line in lines[2:]] == [
        ["1", "2026-01-01", "promoted", "1"],
        ["2", "2026-01-01", "promoted", "2"],
        ["3", "2026-01-01", "refused", "2"],
    ]
    assert "3 +2 −25" in told
    assert "worse: [math] (and 1 more)" in told


def test_one_night_with_every_row_that_changed(store):
    code, told = command(store, "tiny", "2")
    assert code == 0
    for row in (*CHANGED.added, *CHANGED.dropped):
        assert row.id in told
    assert "25 (25 vanished)" in told
    assert "1 kept rows have another text" in told


def test_as_json_it_is_the_record(store):
    nights = json.loads(command(store, "tiny", "--json")[1])
    assert nights == [each.model_dump(mode="json") for each in History(store, "tiny").nights()]


def test_what_is_not_there_is_told_with_what_is(store, tmp_path):
    code, told = command(store, "tiny", "9")
    assert (code, "has no night 9; there are 1 to 3" in told) == (2, True)
    code, told = command(store, "tinny")
    assert (code, "names there: tiny" in told) == (2, True)
    History(store, "tiny").path(2).write_text('{"format": 7}')
    with pytest.raises(ConfigError, match=r"000002\.json is no record that this version"):
        History(store, "tiny").nights()


def test_a_record_is_never_written_over(store):
    history = History(store, "tiny")
    history.write(night(2, "refused"))
    assert history.read(2).outcome == "promoted"


def test_markdown_shows_the_first_rows_and_counts_the_others():
    text = show.markdown(night(2, selection=CHANGED))
    assert text.count("no longer \\| there") == show.SHOWN_ROWS
    assert "5 more" in text
    first = show.markdown(night(1, selection=CHANGED))  # all of a first selection is new: it is no change
    assert "**Added**" not in first


def test_of_two_nights_at_once_the_second_waits_and_says_for_whom(store, caplog):
    order, waits = [], threading.Event()

    def second():
        with Promotions(store, "tiny").held():
            order.append("second")

    caplog.handler.addFilter(lambda record: "waiting for" not in record.getMessage() or waits.set() or True)
    with Promotions(store, "tiny").held():
        other = threading.Thread(target=second)
        other.start()
        assert waits.wait(60)
        order.append("first")
    other.join(60)
    assert order == ["first", "second"]
    assert "nightly tiny: waiting for process" in caplog.text
