"""The analysis stage on small score folders, with the real select stage before it and the report's readers after it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.scores import VALUES, write_labels
from curate.selection import METHODS
from curate.selection.explain import average_influence, strongest_tasks
from flows.artifacts import _balance, _stability
from flows.report.data import read_analysis, read_confidence, read_picks
from flows.stages.analysis import analyse, confidence_file, neighbours_file
from flows.stages.selection import SELECTION, select
from flows.store import StageOutput, StageStore, StoreError
from tests.flows.test_report import config
from train.encoding import Encoded, write_encoded

POOL = 80
TASKS = ["math"] * 4 + ["code"] * 4
pytestmark = pytest.mark.filterwarnings("ignore:unequal columns per task")


def output(stage: str, folder: Path) -> StageOutput:
    folder.mkdir(parents=True, exist_ok=True)
    return StageOutput(stage, f"key-{stage}-{folder.name}", folder, False, 0.0, {})


def score_stage(stage: str, folder: Path, rows: range, seed: int, tasks=TASKS) -> StageOutput:
    made = output(stage, folder)
    values = np.random.default_rng(seed).normal(size=(len(rows), len(tasks))).astype(np.float32)
    np.save(folder / VALUES, values)
    ids = [f"{stage}-t{j}" for j in range(len(tasks))]
    write_labels(folder, [f"r{i}" for i in rows], ids, tasks, summary={})
    return made


class Run:
    """The stages before the analysis: a pool of 80 rows, of which influence scores 76 and text all."""

    def __init__(self, tmp_path: Path, methods: list[str], **selection):
        self.config = config(tmp_path, selection={"methods": methods, "budget": 0.25, **selection})
        self.store = StageStore(tmp_path / "store")
        self.methods = methods
        self.cleaned = output("clean", tmp_path / "clean")
        sources = ["web" if i % 3 else "books" for i in range(POOL)]
        table = pa.table({"id": [f"r{i}" for i in range(POOL)], "source": sources})
        pq.write_table(table, self.cleaned.path / "pool.parquet")
        removed = pa.schema([(name, pa.string()) for name in ("id", "source", "filter", "reason", "matched_id")])
        pq.write_table(removed.empty_table(), self.cleaned.path / "removed.parquet")
        self.encoded = output("encode", tmp_path / "encode")
        tokens = [Encoded(f"r{i}", "web", [1] * (3 + i % 5), [1] * (3 + i % 5)) for i in range(POOL)]
        write_encoded(self.encoded.path / "pool.parquet", tokens)
        influence = score_stage("attribution", tmp_path / "attribution", range(4, POOL), 0)
        text = score_stage("similarity", tmp_path / "text", range(POOL), 1)
        self.scored = {m: text if m in ("bm25", "rds") else influence for m in methods}
        self.selected = {m: self.select(m) for m in methods}

    def select(self, method: str) -> StageOutput:
        return select(self.config, self.store, method, self.cleaned, self.encoded, self.scored[method])

    def analyse(self) -> StageOutput:
        return analyse(self.config, self.store, self.methods, self.cleaned, self.encoded, self.scored, self.selected)


def values_of(stage: StageOutput) -> np.ndarray:
    return np.load(stage.path / VALUES)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("run"), ["bids", "random", "bm25"])


@pytest.fixture(scope="module")
def analysed(run):
    return run.analyse()


def test_every_selection_is_measured_on_the_influence(run, analysed):
    analysis = read_analysis(analysed.path)
    assert analysed.rows == {"rows_in": 80, "rows_out": 76, "not_scored": 4}
    assert (analysis["measured_on"], analysis["tasks"]) == ("attribution", ["math", "code"])
    values = values_of(run.scored["bids"])
    for method in run.methods:
        ids = pq.read_table(run.selected[method].path / SELECTION)["id"].to_pylist()
        rows = np.array([int(name[1:]) - 4 for name in ids if int(name[1:]) >= 4])
        found = analysis["methods"][method]
        assert found["aid_per_task"] == pytest.approx(average_influence(values, rows, TASKS).per_task)
        assert found["thi_instance"] == strongest_tasks(values, rows, TASKS)
        assert found["not_measured"] == len(ids) - len(rows)
        assert found["rows"] == len(rows)
        assert found["coverage"]["budgets"][-1] == len(rows)
    assert analysis["pool"]["rows"] == 76
    assert list(analysis["influence_by_source"]) == ["web", "books"]


def test_the_claim_is_checked_on_all_methods_that_read_influence(analysed):
    spread = read_analysis(analysed.path)["spread"]
    assert list(spread["methods"])[:3] == ["bids", "random", "bm25"]
    assert {"less", "sum", "instance_max", "instance_max_normalized", "equal_quota"} <= set(spread["methods"])
    assert "rds" not in spread["methods"]
    stds = [spread["methods"][name]["aid_between_task_std"] for name in spread["claimed_order"]]
    assert spread["falls"] == (stds[0] > stds[1] > stds[2])


def test_files_per_method(run, analysed):
    for method in run.methods:
        ids = pq.read_table(run.selected[method].path / SELECTION)["id"].to_pylist()
        table = pq.read_table(analysed.path / confidence_file(method)).to_pydict()
        assert [name for name, chosen in zip(table["id"], table["selected"], strict=True) if chosen] == sorted(
            ids, key=lambda name: int(name[1:])
        )
        near = pq.read_table(analysed.path / neighbours_file(method)).to_pylist()
        assert {len(row["neighbours"]) for row in near} == {3}
        assert all(row["id"] not in row["neighbours"] for row in near)
    assert read_confidence(analysed.path, "random") is None
    share, selected = read_confidence(analysed.path, "bids")
    assert share.size == 76 and selected.sum() == 20
    assert share.sum() == pytest.approx(20)
    assert share[selected].mean() > share[~selected].mean() + 0.3


def test_the_utility_curve_goes_on_beyond_the_budget(run, analysed):
    analysis = read_analysis(analysed.path)["methods"]
    longer = METHODS["bids"](values_of(run.scored["bids"]), 76, tasks=TASKS)
    assert analysis["bids"]["utility"]["curve"] == [[k + 1, u] for k, u in enumerate(longer.utility.tolist())]
    assert analysis["random"]["utility"]["curve"] == []
    assert analysis["bids"]["last_utility"] == longer.utility[19]
    assert len(analysis["bids"]["near_misses"]) == 10 and analysis["bm25"]["near_misses"] == []
    assert analysis["random"]["confidence"] == {
        "resamples": 0,
        "reason": "the method does not look at the targets",
    }


def test_picks_come_with_their_reasons(run, analysed):
    table = pq.read_table(run.selected["bids"].path / SELECTION).to_pylist()
    first, *_, last = read_picks(run.selected["bids"].path, analysed.path, "bids")
    assert (first.id, first.target, first.task) == (table[0]["id"], table[0]["target"], table[0]["task"])
    assert 0 < first.share <= 1 and len(first.neighbours) == 3
    assert last.id == table[-1]["id"]
    assert read_picks(run.selected["random"].path, analysed.path, "random")[0].share is None


def test_the_artifacts_tables(analysed):
    analysis = read_analysis(analysed.path)
    rows = {row["method"]: row for row in _balance(analysis)}
    assert set(rows) == set(analysis["spread"]["methods"])
    assert rows["bids"]["math"] == f"{analysis['methods']['bids']['aid_per_task']['math']:+.3f}"
    sure = {row["method"]: row for row in _stability(analysis)}
    assert "%" in sure["bids"]["chosen again"]
    assert sure["random"]["chosen again"] == "the method does not look at the targets"
    assert sure["random"]["suggested budget"].startswith("none: ")


def test_a_second_run_finds_it_and_a_first_one_writes_the_same(run, analysed, tmp_path):
    again = run.analyse()
    assert again.cached and again.key == analysed.key
    other = analyse(run.config, StageStore(tmp_path), run.methods, run.cleaned, run.encoded, run.scored, run.selected)
    for file in sorted(path.name for path in analysed.path.iterdir() if path.name != "manifest.json"):
        assert (other.path / file).read_bytes() == (analysed.path / file).read_bytes(), file


@pytest.mark.parametrize(
    "demand",
    [
        {"include": ["r70"], "exclude": ["r5"], "sources": {"books": {"min": 10}}},
        {"budget": 0.1, "budget_tokens": 100},
    ],
    ids=["constraints", "tokens"],
)
def test_what_was_demanded_of_the_selection_holds_in_the_analysis(tmp_path, demand):
    run = Run(tmp_path, ["bids", "random"], **demand)
    analysed = run.analyse()
    analysis = read_analysis(analysed.path)["methods"]["bids"]
    rows = pq.read_table(run.selected["bids"].path / SELECTION).num_rows
    curve = analysis["utility"]["curve"]
    assert not curve or curve[-1][0] == rows  # not beyond: a larger budget need not begin with the same rows
    if "include" in demand:
        table = pq.read_table(analysed.path / confidence_file("bids")).to_pydict()
        share = dict(zip(table["id"], table["share"], strict=True))
        assert (share["r70"], share["r5"]) == (1, 0)
        assert analysis["near_misses"] == []


def test_a_selection_that_cannot_be_made_again_is_not_explained(tmp_path):
    run = Run(tmp_path, ["bids"])
    folder = run.selected["bids"].path
    table = pq.read_table(folder / SELECTION)
    pq.write_table(table.take(list(range(table.num_rows))[::-1]), folder / SELECTION)
    with pytest.raises(StoreError, match="does not select with bids what the select stage did"):
        run.analyse()


def test_without_influence_the_run_s_own_scores_are_the_measure(tmp_path):
    run = Run(tmp_path, ["bm25"])
    analysis = read_analysis(run.analyse().path)
    assert analysis["measured_on"] == "similarity"
    assert list(analysis["spread"]["methods"]) == ["bm25"] and analysis["spread"]["falls"] is None
    assert "NaN" not in json.dumps(analysis)
