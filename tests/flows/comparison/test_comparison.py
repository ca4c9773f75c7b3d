"""Runs compared: a run is like itself, the order only permutes, what differs is told and nothing else, and only items
that all share decide."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from eval.tables import AVERAGE
from flows.comparison.differences import compare_runs, comparison_of, settings
from flows.comparison.files import write_comparison
from flows.comparison.page import render
from flows.comparison.read import ArmData, find_runs, labels, read_runs
from flows.comparison.selection import overlaps
from flows.comparison.text import HEAD, measured_rows, shown_pairs, to_csv, to_markdown
from flows.comparison.values import RowOf, RunComparison
from flows.config import ConfigError
from tests.flows.comparison.small_runs import finish, item_values, write_data

EVIL = "<script>alert('x')</script>|=1+1"


def compared(*runs, control=None):
    return comparison_of(read_runs(runs), control)


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data")


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def pair(store, data):
    """Two runs: the second with other influence, another method and another rate."""
    first = finish(store, data)
    rate = {"optimizer": {"learning_rate": 5e-4}}
    return first, finish(store, data, name="other", influence=1, methods=["bids", "sum"], finetune=rate)


def test_a_run_is_like_itself(store, data):
    run = finish(store, data)
    found = compared(run, run)
    assert found.settings == () and found.notes == ()
    assert [r.label for r in found.runs] == [f"small@{run.record.stem}#1", f"small@{run.record.stem}#2"]
    one, two = (r.label for r in found.runs)
    for method in ("bids", "random"):
        own = [o for o in found.overlaps if (o.first, o.second) == (f"{one}:{method}", f"{two}:{method}")]
        assert {o.scope for o in own} >= {"all", "source"} and all(o.jaccard == 1 for o in own)
        assert all(o.common == o.first_rows == o.second_rows for o in own)
    assert all(change.added_rows == change.dropped_rows == 0 and change.kept == 12 for change in found.changes)
    (table,) = found.results.tables
    assert table.models[0] == "base" and len(table.models) == 5
    same = table.difference(f"{two}:bids", f"{one}:bids", AVERAGE)
    assert (same.interval.mean, same.interval.low, same.interval.high) == (0, 0, 0)
    assert same.verdict == "no clear difference"


def test_the_order_of_the_runs_only_permutes(pair):
    ahead, back = compared(*pair, control="small:bids"), compared(*pair[::-1], control="small:bids")
    assert sorted(ahead.arms, key=str) == sorted(back.arms, key=str)
    assert sorted(ahead.training, key=str) == sorted(back.training, key=str)
    assert sorted(ahead.items, key=str) == sorted(back.items, key=str)
    assert [s.values[::-1] for s in ahead.settings] == [s.values for s in back.settings]
    for each in ahead.overlaps:
        other = back.overlap(each.first, each.second, each.scope, each.name)
        assert other is not None and (other.common, other.jaccard, other.expected) == (
            each.common,
            each.jaccard,
            pytest.approx(each.expected),
        )
    for change in ahead.changes:
        (other,) = (c for c in back.changes if c.method == change.method)
        assert (change.kept, change.added_rows, change.added) == (other.kept, other.dropped_rows, other.dropped)
    for one, two in zip(ahead.results.tables, back.results.tables, strict=True):
        assert sorted(one.cells, key=str) == sorted(two.cells, key=str)
        assert sorted(one.differences, key=str) == sorted(two.differences, key=str)


def test_only_settings_that_differ_are_told(pair):
    told = {setting.key: setting.values for setting in compared(*pair).settings}
    assert told.keys() == {"selection.methods", "finetune.optimizer.learning_rate"}
    assert told["selection.methods"] == ('["bids", "random"]', '["bids", "sum"]')
    assert told["finetune.optimizer.learning_rate"][1] == "0.0005"


def test_settings_by_key():
    one = {"name": "a", "store": "s", "x": {"deep": [1, 2], "gone": 1}, "pool": [{"path": "p"}, {"path": "q"}]}
    two = {"name": "b", "store": "t", "x": {"deep": [1, 3]}, "pool": [{"path": "p"}], "text": "5", "null": None}
    assert [(s.key, *s.values) for s in settings([one, two])] == [
        ("x.deep", "[1, 2]", "[1, 3]"),
        ("x.gone", "1", None),
        ("pool.1.path", "q", None),
        ("text", None, '"5"'),
        ("null", None, "null"),
    ]
    assert settings([one, one]) == []
    changed = json.loads(json.dumps(one))
    changed["pool"][1]["path"] = "r"
    assert [s.key for s in settings([one, changed, one])] == ["pool.1.path"]


def test_overlaps_are_what_sets_say(pair):
    runs = read_runs(pair)
    found = comparison_of(runs)
    first, second = runs[0].arms[0], runs[1].arms[0]
    a, b = ({row.id for row in arm.rows} for arm in (first, second))
    whole = found.overlap(first.label, second.label)
    assert (whole.common, whole.jaccard) == (len(a & b), len(a & b) / len(a | b))
    assert whole.expected == pytest.approx(12 * 12 / len(runs[0].sources))
    for source in ("forum", "maths & more"):
        ours, theirs = ({row.id for row in arm.rows if row.source == source} for arm in (first, second))
        own = found.overlap(first.label, second.label, "source", source)
        size = sum(name == source for name in runs[0].sources.values())
        assert (own.common, own.expected) == (len(ours & theirs), pytest.approx(len(ours) * len(theirs) / size))
    won = [o for o in found.overlaps if o.scope == "task" and {o.first, o.second} == {first.label, second.label}]
    assert {o.name for o in won} == {"math", "code"} and sum(o.common for o in won) <= whole.common
    # random looks at no target, so nothing was won there
    assert not [o for o in found.overlaps if o.scope == "task" and "small:random" in (o.first, o.second)]


def test_chance_is_what_random_draws_share(store, data):
    (run,) = read_runs([finish(store, data)])
    pool, drawn = sorted(run.sources), random.Random(0)
    shared = []
    for _ in range(300):
        rows = [[RowOf(id=i, source=run.sources[i], task=None) for i in drawn.sample(pool, n)] for n in (10, 20)]
        arms = [ArmData(f"{len(own)}", "random", own, frozenset(pool), []) for own in rows]
        whole, *_ = overlaps([replace(run, arms=arms)])
        assert whole.expected == pytest.approx(10 * 20 / len(pool))
        shared.append(whole.common)
    # the mean of 300 hypergeometric counts has a standard error of 0.08
    assert abs(sum(shared) / len(shared) - whole.expected) < 0.3


def test_rows_that_came_and_went(pair):
    (change,) = compared(*pair).changes
    assert (change.first, change.other) == ("small:bids", "other:bids")
    assert change.kept + change.added_rows == change.kept + change.dropped_rows == 12
    assert len(change.added) == min(10, change.added_rows)
    assert all(row.source in {"forum", "maths & more"} and row.task in {"math", "code"} for row in change.added)


def test_figures_of_pools_and_arms_stand_side_by_side(store, data):
    runs = [finish(store, data, name=name, selection={"budget": budget}) for name, budget in (("a", 12), ("b", 20))]
    found = compared(*runs)
    labels, rows = measured_rows(found)
    assert labels == [f"{run}:{group}" for run in "ab" for group in ("pool", "bids", "random")]
    told = {figure.name: values for figure, values in rows}
    assert told == {
        "refusals": ["12.5 % [0.0 %, 25.0 %]"] * 6,
        "sources": ["2.00", "–", "–", "2.00", "–", "–"],  # measured of the pools only, where nothing varied
    }
    assert "| sources, effective number* | 2.00 | – | – | 2.00 | – | – |" in to_markdown(found)
    assert any("samples of different sizes" in note for note in found.notes)
    assert not any("samples of different sizes" in note for note in compared(runs[0]).notes)


def test_training_is_told_per_seed(store, data):
    run = finish(store, data, finetune={"seeds": [3, 4]}, items=lambda c: item_values(c, gain=0.2))
    found = compared(run)
    assert "its 2 arms" in found.notes[0]
    assert [(t.label, t.seed) for t in found.training] == [
        (f"small:{method}", seed) for method in ("bids", "random") for seed in (3, 4)
    ]
    first = found.training[0]
    assert (first.steps, first.rows, first.tokens, first.passes) == (10, 40, 360, pytest.approx(40 / 12))
    # step_records: rows of 2.0, 2.2, 3.0 and 3.4, each less by 0.05 a step
    assert first.first_loss == pytest.approx(2.65) and first.last_loss == pytest.approx(2.65 - 0.45)
    (table,) = found.results.tables
    assert table.cell("small:bids", AVERAGE).runs == 2 and table.cell("base", AVERAGE).runs == 1


def test_a_win_needs_an_interval_without_zero(store, data):
    runs = [finish(store, data, name=n, items=lambda c, g=g: item_values(c, gain=g)) for n, g in (("a", 0), ("b", 0.3))]
    (table,) = compared(*runs).results.tables
    assert table.controls == ("base", "a:bids")
    assert table.difference("b:bids", "a:bids", AVERAGE).verdict == "better"
    assert table.difference("a:bids", "base", AVERAGE).verdict == "no clear difference"
    chosen = compared(*runs, control="random").results.tables[0]
    assert chosen.controls == ("base", "a:random")
    with pytest.raises(ConfigError, match="--control 'b:bidz': no such arm; there are a:bids, a:random, b:bids"):
        compared(*runs, control="b:bidz")


def test_only_items_of_all_runs_count(store, data):
    def fewer(config):
        rows = [r for r in item_values(config) if r["id"] not in {"math-0", "math-1"}]
        return [{**r, "excluded": r["id"] == "code-3"} for r in rows]

    def broken(config):
        return [
            {**r, "value": float("nan") if (r["model"], r["id"]) == ("random", "code-5") else r["value"]}
            for r in item_values(config)
        ]

    runs = [finish(store, data, name="a", items=broken), finish(store, data, name="b", items=fewer)]
    found = compared(*runs)
    (items,) = found.items
    assert (items.common, items.excluded, items.unshared, items.lonely) == (20, 1, 3, 0) and items.left_out == 4
    assert found.results.tables[0].cell("base", AVERAGE).items == 20


def test_a_metric_without_common_items_is_named(store, data):
    both = [
        finish(store, data, name="a", items=lambda c: item_values(c) + item_values(c, metric="acc", task="arc")),
        finish(store, data, name="b"),
    ]
    found = compared(*both)
    assert [table.metric.name for table in found.results.tables] == ["held-out bits per byte"]
    assert any("accuracy: no item was scored in all runs" in note for note in found.notes)
    other = finish(store, data, name="c", items=lambda c: item_values(c, metric="acc", task="arc"))
    nothing = compared(both[1], other)
    assert nothing.results.tables == ()
    assert "no item is common to all" in render(nothing) and "no item was scored" in to_markdown(nothing)


def test_tasks_of_one_metric_are_kept_apart(store, data):
    def two_tasks(config):
        one = item_values(config, metric="acc", task="arc")
        return one + item_values(config, metric="exact_match", task="gsm", capabilities=("math",))

    runs = [finish(store, data, name=n, items=two_tasks) for n in ("a", "b")]
    accuracy, exact = compared(*runs).results.tables
    assert [(row.name, row.kind) for row in accuracy.rows] == [
        ("math", "capability"),
        ("code", "capability"),
        ("average", "average"),
    ]
    assert exact.capabilities == ["math"]


def test_bases_that_differ_are_shown_apart(store, data):
    def other_engine(config):
        return [{**r, "value": r["value"] + 0.001 * (r["model"] == "base")} for r in item_values(config)]

    runs = [finish(store, data, name="a"), finish(store, data, name="b", items=other_engine)]
    found = compared(*runs)
    assert found.results.tables[0].models[:2] == ("a:base", "b:base")
    assert any("The base model is the same, but its values of held-out bits per byte are not" in n for n in found.notes)


def test_other_content_under_the_same_path_is_told(store, tmp_path):
    data = write_data(tmp_path / "data")
    first = finish(store, data, name="a")
    write_data(tmp_path / "data", rows=50)
    found = compared(first, finish(store, data, name="b"))
    assert found.settings == ()
    assert any(f"read different content: {tmp_path}/data/pool.jsonl" in note for note in found.notes)
    assert any("The cleaned pools differ: 50 rows are in all of them; 60 in a, 50 in b" in n for n in found.notes)
    assert any("matched by id" in note for note in found.notes)


def test_json_and_csv_hold_it_all(pair, tmp_path):
    found = compared(*pair)
    paths = write_comparison(found, tmp_path / "out")
    assert [p.name for p in paths.values()] == [f"comparison.{s}" for s in ("md", "csv", "json", "html")]
    assert RunComparison.model_validate_json(paths["json"].read_text()) == found
    lines = list(csv.DictReader(io.StringIO(paths["csv"].read_text())))
    assert lines and set(lines[0]) == set(HEAD)
    by = {(x["section"], x["subject"], x["against"], x["name"], x["measure"]): x for x in lines}
    assert len(by) + sum(x["measure"].endswith("row") for x in lines) >= len(lines)
    for o in found.overlaps:
        scope = "" if o.scope == "all" else f"{o.scope} "
        assert float(by["overlap", o.first, o.second, o.name, f"{scope}expected"]["value"]) == o.expected
    (table,) = found.results.tables
    for d in table.differences:
        line = by["result", d.model, d.control, d.row, table.metric.name]
        assert [float(line[k]) for k in ("value", "low", "high")] == [d.interval.mean, d.interval.low, d.interval.high]
        assert line["verdict"] == d.verdict
    for setting in found.settings:
        for run, value in zip(found.runs, setting.values, strict=True):
            assert by["configuration", run.label, "", setting.key, "value"]["value"] == value


def test_hostile_names_are_text(tmp_path, store):
    data = write_data(tmp_path / "data", sources=(EVIL, "two\x1b[31m\nlines"))
    runs = [finish(store, data, name=n, influence=k, tasks=(EVIL, "code")) for k, n in enumerate("ab")]
    found = compared(*runs)
    page = render(found)
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    text = to_markdown(found)
    assert "<script>" not in text and "\x1b" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len([line for line in tables if "alert" in line]) >= 4
    sources = next(line for line in tables if line.startswith("| &lt;script"))
    assert sources.replace("\\|", "").count("|") == len(shown_pairs(found)["source"]) + 2
    assert RunComparison.model_validate_json(found.model_dump_json()) == found
    assert any(EVIL in line for row in csv.reader(io.StringIO(to_csv(found))) for line in row)


def test_what_cannot_be_compared_is_named_with_the_remedy(store, data):
    lonely = finish(store, data, name="lonely", methods=["bids"])
    with pytest.raises(ConfigError, match="has one arm, so there is nothing to compare it with; name another run"):
        compare_runs(["lonely"], store)
    with pytest.raises(ConfigError, match="no run 'none' in the store"):
        compare_runs(["lonely", "none"], store)
    run = finish(store, data)
    # a run of another store, by its record
    other = store.parent / "moved"
    shutil.copytree(store, other)
    record = other / "runs" / "small" / run.record.name
    assert len(compare_runs(["lonely", str(record)], store).arms) == 3
    shutil.rmtree(lonely.stages["evaluate"].path)
    with pytest.raises(
        ConfigError, match=r"the output of evaluate is gone from the store.*run its configuration again"
    ):
        compare_runs(["lonely", str(record)], store)
    shutil.rmtree(run.stages["encode"].path)
    assert {arm.tokens for arm in compare_runs(["small"], store).arms} == {None}


def test_labels_tell_runs_apart(store, data):
    one, two = finish(store, data), finish(store, data, seed=5)
    assert one.record != two.record
    assert labels([one, finish(store, data, name="x")]) == ["small", "x"]
    assert labels([one, two]) == [f"small@{one.record.stem}", f"small@{two.record.stem}"]
    assert find_runs([str(one.record)], Path("nowhere"))[0].record == one.record
