"""Three nights with their real parts: a first one, one with another pool, and one whose training is spoiled.

A small pool and held-out items only. The nights go on without Prefect; at the end the command runs once more with it.
About a minute on two idle cores.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app
from flows.comparison.differences import compare_runs
from flows.nightly.history import History
from flows.nightly.pointer import Promotions
from flows.runs import find_run
from flows.store import StageStore
from tests.integration.prefect_server import ask
from tests.integration.small_run import NAME, ROOT, Forker, write_config

pytestmark = pytest.mark.slow

POOL, CHECKPOINTS, BUDGET = 48, 2, 8


class Nights:
    """The nights of one store. pool: what the next one reads."""

    def __init__(self, folder):
        self.folder, self.store = folder, StageStore(folder / "store")
        self.config = write_config(folder, self.store.root)
        self.config |= {"max_length": 256, "selection": {"methods": ["bids"], "budget": BUDGET}}
        # so little that no adapter differs from another in what a table shows
        self.config["finetune"]["optimizer"] = {"learning_rate": 1e-6, "epochs": 1, "batch_size": 4}
        self.forker = Forker(folder)
        self.promotions = Promotions(self.store, NAME)

    def pass_one(self, **changes):
        one_thread = {"OMP_NUM_THREADS": "1"}  # so that training can be forked off after work with threads
        code, log = self.forker.run({**self.config, **changes}, flow="nightly", environment=one_thread)
        assert code == 0, log
        return History(self.store, NAME).nights()[-1]

    def change_pool(self, gone, more):
        """Other rows in the place of some: those of the demo that are next to the pool's own."""
        path = self.folder / "pool.parquet"
        rows = pq.read_table(path).to_pylist()
        demo = pq.read_table(ROOT / "demo/data/pool.parquet")
        fresh = demo.take([1 + k * (len(demo) // POOL) for k in range(more)]).to_pylist()
        kept = [row for row in rows if row["id"] not in gone]
        pq.write_table(pa.Table.from_pylist([*kept, *fresh], schema=demo.schema), path)
        return [row["id"] for row in fresh]

    def live(self):
        """Of what is live: its number, the folders behind its links, and the ids of its dataset."""
        folder = self.promotions.folder
        adapter, dataset = (folder / "adapter").resolve(), (folder / "dataset").resolve()
        ids = pq.read_table(next((dataset / "data").glob("*.parquet")), columns=["id"])["id"].to_pylist()
        return self.promotions.latest().number, adapter, dataset, ids


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Each night's record, and what was live after it."""
    made = Nights(tmp_path_factory.mktemp("nights"))
    try:
        first = made.pass_one()
        made.first_live = made.live()
        chosen = [row.id for row in first.selection.added]
        ids = pq.read_table(made.folder / "pool.parquet", columns=["id"])["id"].to_pylist()
        made.gone = [chosen[0], next(name for name in ids if name not in chosen)]
        made.fresh = made.change_pool(made.gone, 3)
        second = made.pass_one()
        made.second_live = made.live()
        spoiled = {"save_every": 2, "optimizer": {"learning_rate": 0.5, "epochs": 3, "batch_size": 4}}
        third = made.pass_one(finetune=spoiled)
        made.records = [first, second, third]
        yield made
    finally:
        made.forker.close()


def test_the_first_night_goes_live_because_it_is_not_worse_than_the_base(nights):
    first = nights.records[0]
    assert (first.number, first.outcome, first.against, first.live) == (1, "promoted", None, 1)
    assert first.reasons[0] == "no capability is worse than base beyond noise"
    assert not first.warmup.kept
    assert first.gradients.computed == (first.pool.rows,) * CHECKPOINTS
    number, adapter, dataset, ids = nights.first_live
    assert number == 1
    assert ids == [row.id for row in first.selection.added]
    assert (adapter / "adapter_config.json").is_file()
    assert adapter.parent.parent == nights.store.root.resolve() / "finetune"
    assert dataset.parent.parent == nights.store.root.resolve() / "export"


def test_only_the_new_rows_cost_a_gradient(nights):
    second = nights.records[1]
    assert (second.pool.rows, second.pool.new, second.pool.vanished) == (POOL + 1, 3, 2)
    assert second.warmup.kept
    assert second.gradients.computed == (3,) * CHECKPOINTS
    assert second.gradients.found == (POOL - 2,) * CHECKPOINTS


def test_what_vanished_left_the_selection_and_the_history_says_so(nights):
    second = nights.records[1]
    left = {row.id: row for row in second.selection.dropped}
    assert left[nights.gone[0]].why == "vanished"
    assert nights.gone[1] not in left  # it had not been selected
    number, _, _, ids = nights.second_live
    assert (number, second.outcome, second.against, second.live) == (2, "promoted", 1, 2)
    assert not set(nights.gone) & set(ids)
    before = set(nights.first_live[3])
    assert {row.id for row in second.selection.added} == set(ids) - before
    assert set(left) == before - set(ids)
    for row in second.selection.added:
        assert row.why == ("new" if row.id in nights.fresh else "risen")
    for row in left.values():
        if row.why == "outranked":
            assert row.gap is not None


def test_the_live_adapter_was_scored_beside_the_new_one_on_the_same_items(nights):
    second = nights.records[1]
    assert {(each.metric, each.control) for each in second.compared} == {("held-out bits per byte", "latest")}
    assert second.reasons[0] == "no capability is worse than latest beyond noise"


def test_a_spoiled_training_is_refused_with_its_reasons_and_moves_nothing(nights):
    third = nights.records[2]
    assert (third.outcome, third.against, third.live) == ("refused", 2, 2)
    (reason,) = third.reasons
    assert reason.startswith("worse: knowledge, held-out bits per byte: +")
    assert reason.endswith("against latest")
    assert (third.gradients.computed, third.selection.added, third.selection.dropped) == ((0, 0), (), ())
    assert nights.live() == nights.second_live


def test_the_records_of_nights_lead_to_their_runs(nights):
    for night in nights.records:
        run = find_run(night.run, nights.store.root)
        assert run.record.name.startswith(f"{night.number:04d}-")
        run.check()


def test_the_same_night_again_by_the_command_with_prefect(nights, shared_api, shared_environment):
    """Nothing has changed since what is live was made, so it stays; the terminal and the artifact say so."""
    path = nights.folder / "nightly.yaml"
    path.write_text(yaml.safe_dump(nights.config))
    environment = shared_environment | {"PREFECT_API_URL": shared_api}
    command = [sys.executable, "-m", "flows.cli", "nightly", str(path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert "Night 4 of small: unchanged; live is still night 2" in done.stdout
    assert nights.live() == nights.second_live
    (artifact,) = ask(shared_api, "artifacts", artifacts={"key": {"any_": [f"{NAME}-night"]}})
    assert "**Night 4: unchanged**" in artifact["data"]
    names = {flow["name"] for flow in ask(shared_api, "flows")}
    assert {"nightly", "pipeline", "curate", "finetune", "evaluate"} <= names


def test_the_history_tells_every_night_and_the_changes_of_each(nights):
    def history(*arguments):
        command = ["history", NAME, *arguments, "--store", str(nights.store.root)]
        return CliRunner().invoke(app, command, env={"COLUMNS": "200"}).output

    table = history()
    assert table.index("promoted") < table.index("refused")
    changes = history("2")
    assert nights.gone[0] in changes
    assert "vanished" in changes
    (told,) = json.loads(history("2", "--json"))
    assert told == nights.records[1].model_dump(mode="json")


def test_a_night_is_compared_like_any_run(nights):
    """What was live is in its tables and is no arm of it."""
    found = compare_runs([night.run for night in nights.records[:2]], nights.store.root)
    assert len(found.arms) == 2
    assert found.results.tables
