"""Records of runs: found by path, name and time, moved with their store, and never overwritten."""

from __future__ import annotations

import json
import shutil

import pytest

from flows.config import ConfigError
from flows.runs import find_run, write_run
from flows.store import StageOutput
from tests.flows.report_values import config


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def _stages(store, key="k1"):
    folder = store / "clean" / key
    folder.mkdir(parents=True, exist_ok=True)
    return {"clean": StageOutput("clean", key, folder, False, 1.5, {"rows_in": 3, "rows_out": 2, "copies": 1})}


def test_a_run_is_found_by_its_record_its_name_and_its_time(tmp_path, store):
    first = write_run(config(tmp_path, store=str(store)), _stages(store))
    second = write_run(config(tmp_path, store=str(store), seed=3), _stages(store, "k2"))
    assert first != second and first.exists()
    assert find_run("small", store).config["seed"] == 3
    found = find_run(str(first), store)
    assert (found.name, found.config["seed"], found.stages) == ("small", 17, _stages(store))
    assert find_run(f"small@{second.stem}", store).record == second


def test_a_record_moves_with_its_store(tmp_path, store):
    write_run(config(tmp_path, store=str(store)), _stages(store))
    shutil.move(store, tmp_path / "elsewhere")
    assert find_run("small", tmp_path / "elsewhere").stage("clean") == tmp_path / "elsewhere" / "clean" / "k1"


def test_what_is_missing_is_named_with_what_there_is(tmp_path, store):
    with pytest.raises(ConfigError, match="no run was recorded there"):
        find_run("small", store)
    record = write_run(config(tmp_path, store=str(store)), _stages(store))
    with pytest.raises(ConfigError, match=r"runs there: small; did you mean 'small'\?|runs there: small.*small"):
        find_run("smal", store)
    with pytest.raises(ConfigError, match=f"it ended at {record.stem}"):
        find_run("small@1999", store)
    with pytest.raises(ConfigError, match="no such run record"):
        find_run(str(tmp_path / "none.json"), store)
    (tmp_path / "other.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(ConfigError, match="is no run record"):
        find_run(str(tmp_path / "other.json"), store)
    run = find_run("small", store)
    with pytest.raises(ConfigError, match="has no stage evaluate; it has clean"):
        run.stage("evaluate")
    shutil.rmtree(store / "clean")
    with pytest.raises(ConfigError, match="is gone from the store"):
        run.stage("clean")
