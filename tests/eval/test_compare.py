"""Comparison tables on scores whose right answer is known by construction."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from eval.compare import compare, comparison_table, scores_by_capability
from eval.statistics import StatisticsError, TaskScores
from eval.tables import ACCURACY, AVERAGE, BITS_PER_BYTE, TASK_AVERAGE, Comparison


@pytest.fixture(scope="module")
def bits():
    """`bids` is 0.2 below `random` on math and as good on code; `random` is 0.5 below `base` on both."""
    rng = np.random.default_rng(0)
    base = {c: {f"{c}-{k}": 2 + rng.normal() for k in range(60)} for c in ("math", "code")}

    def shifted(by):
        return {c: {key: x + by[c] + 0.05 * rng.normal() for key, x in items.items()} for c, items in base.items()}

    return {
        "base": base,
        "random": shifted({"math": -0.5, "code": -0.5}),
        "bids": shifted({"math": -0.7, "code": -0.5}),
    }


@pytest.fixture(scope="module")
def scores(bits):
    return scores_by_capability(bits)


@pytest.fixture(scope="module")
def table(scores):
    return comparison_table(scores, BITS_PER_BYTE, controls=["base", "random"])


def test_means_are_the_means_of_the_items(bits, table):
    for model, capabilities in bits.items():
        means = {c: float(np.mean(list(items.values()))) for c, items in capabilities.items()}
        for capability, mean in means.items():
            assert table.cell(model, capability).mean == pytest.approx(mean)
        assert table.cell(model, AVERAGE).mean == pytest.approx(np.mean(list(means.values())))


def test_verdicts(table):
    assert table.difference("bids", "random", "math").verdict == "better"
    assert table.difference("bids", "random", "code").verdict == "no clear difference"
    assert table.difference("bids", "random", AVERAGE).verdict == "better"
    assert table.difference("random", "base", "code").verdict == "better"


def test_the_same_numbers_where_higher_is_better_turn_the_verdicts(scores):
    table = comparison_table(scores, ACCURACY, controls=["random"])
    assert table.difference("bids", "random", "math").verdict == "worse"
    assert table.least_gain("bids", "random").row == "math"


def test_a_control_is_compared_with_the_controls_before_it_only(table):
    pairs = {(d.model, d.control) for d in table.differences}
    assert pairs == {("random", "base"), ("bids", "base"), ("bids", "random")}


def test_least_gain_names_the_capability_left_behind(table):
    assert table.least_gain("bids", "random").row == "code"


def test_the_average_difference_weighs_capabilities_alike():
    values = {
        "a": {"big": {f"b{k}": 1.0 for k in range(90)}, "small": {f"s{k}": 0.0 for k in range(10)}},
        "b": {"big": {f"b{k}": 0.0 for k in range(90)}, "small": {f"s{k}": 1.0 for k in range(10)}},
    }
    table = comparison_table(scores_by_capability(values), ACCURACY, ["b"])
    assert table.difference("a", "b", AVERAGE).interval.mean == pytest.approx(0.0)


def several_tasks():
    """Two tasks of math, one of code; `new` gains 0.3 on one task of math alone, the base is at 0.5 everywhere."""

    def model(gains):
        noise = np.random.default_rng(2)
        return {
            task: TaskScores.of(
                task, capability, [{f"{task}-{k}": 0.5 + gain + 0.1 * noise.normal() for k in range(50)}]
            )
            for (task, capability), gain in zip(
                (("sums", "math"), ("sets", "math"), ("code", "code")), gains, strict=True
            )
        }

    return {"base": model((0, 0, 0)), "new": model((0.3, 0, -0.1))}


def test_a_capability_is_the_mean_of_its_tasks_and_the_average_that_of_the_capabilities():
    table = comparison_table(several_tasks(), ACCURACY, ["base"], resamples=500)
    assert [(row.name, row.kind) for row in table.rows] == [
        ("sums", "task"),
        ("sets", "task"),
        ("math", "capability"),
        ("code", "capability"),
        (AVERAGE, "average"),
        (TASK_AVERAGE, "average"),
    ]
    gain = {row.name: table.difference("new", "base", row.name).interval.mean for row in table.rows}
    assert gain == pytest.approx(
        {"sums": 0.3, "sets": 0.0, "math": 0.15, "code": -0.1, AVERAGE: 0.025, TASK_AVERAGE: 0.2 / 3}
    )
    assert table.cell("new", "math").items == 100
    assert table.difference("new", "base", "sums").verdict == "better"
    assert table.difference("new", "base", "sets").verdict == "no clear difference"


def test_a_task_named_like_a_capability_has_a_row_of_its_own():
    both = {"math": TaskScores.of("math", "math", [{"a": 1.0, "b": 1.0}])}
    both["sums"] = TaskScores.of("sums", "math", [{"a": 0.0, "b": 0.0}])
    table = comparison_table({"m": both}, ACCURACY, resamples=200)
    assert (table.cell("m", "math (task)").mean, table.cell("m", "math").mean) == (1.0, 0.5)


def test_balance_names_the_worst_capability_the_spread_and_the_largest_loss_against_base():
    table = comparison_table(several_tasks(), ACCURACY, ["base"], resamples=500)
    balance = table.balance_of("new")
    assert balance.worst.capability == "code"
    assert balance.worst.interval.mean == pytest.approx(table.cell("new", "code").mean)
    assert balance.spread.mean == pytest.approx((table.cell("new", "math").mean - table.cell("new", "code").mean) / 2)
    assert balance.drop.capability == "code"
    assert balance.drop.interval.mean == pytest.approx(0.1)
    assert table.balance_of("base").drop is None


def test_where_lower_is_better_the_worst_is_the_highest_and_a_loss_is_a_rise(table):
    balance = table.balance_of("bids")
    highest = max(table.capabilities, key=lambda name: table.cell("bids", name).mean)
    assert balance.worst.capability == highest
    assert balance.worst.interval.mean == pytest.approx(table.cell("bids", highest).mean)
    assert balance.drop.capability == "code"
    # it gained on both: the largest loss is a gain, told as a negative loss
    assert balance.drop.interval.mean == pytest.approx(table.difference("bids", "base", "code").interval.mean)
    assert balance.drop.interval.high < 0


@pytest.mark.parametrize("chance", [[0.5] * 8, [0.4, 0.45, 0.5, 0.55, 0.6], [0.6] * 7 + [0.3]])
def test_the_balance_covers_the_truth_although_the_extreme_was_picked_for_its_luck(chance):
    """Two models that are equally good at everything: nothing was lost against the base, and the interval says so."""
    rng = np.random.default_rng(6)
    trials, hits = 40, np.zeros(3)

    def model():
        return {
            f"c{k}": TaskScores.of(f"c{k}", f"c{k}", [{f"{i}": float(x) for i, x in enumerate(rng.random(100) < p)}])
            for k, p in enumerate(chance)
        }

    for trial in range(trials):
        table = comparison_table({"base": model(), "m": model()}, ACCURACY, ["base"], resamples=1000, seed=trial)
        balance = table.balance_of("m")
        figures = ((balance.worst.interval, min(chance)), (balance.spread, np.std(chance)), (balance.drop.interval, 0))
        hits += [interval.low <= truth <= interval.high for interval, truth in figures]
        assert all(interval.low <= interval.mean <= interval.high for interval, _ in figures)
    # 0.95 and three standard errors
    assert (hits / trials >= 0.85).all(), hits / trials


def test_a_claim_must_survive_the_correction_for_many_tasks():
    """Forty tasks without any difference: some intervals leave zero out by luck, none is called a win or a loss."""
    rng = np.random.default_rng(3)

    def model():
        return {f"t{k}": TaskScores.of(f"t{k}", "c", [dict(enumerate(rng.normal(size=40)))]) for k in range(40)}

    table = comparison_table({"a": model(), "b": model()}, ACCURACY, ["b"])
    tasks = [d for d in table.differences if d.row.startswith("t")]
    lucky = [d for d in tasks if not d.interval.low <= 0 <= d.interval.high]
    assert lucky
    assert all(d.verdict == "no clear difference" for d in tasks)


def test_seeds_of_training_widen_the_interval_and_are_told():
    rng = np.random.default_rng(4)
    items = rng.normal(size=200)
    runs = [items + luck + 0.01 * rng.normal(size=200) for luck in (-0.4, 0.0, 0.4)]

    def model(runs):
        return {"t": TaskScores.of("t", "c", [{f"{k}": x for k, x in enumerate(run)} for run in runs])}

    scores = {"base": model([items]), "one": model(runs[2:]), "three": model(runs)}
    table = comparison_table(scores, ACCURACY, ["base"])
    one, three = (table.difference(name, "base", "c") for name in ("one", "three"))
    assert one.verdict == "better"  # of one lucky seed
    assert three.verdict == "no clear difference"
    assert (table.cell("three", "c").runs, one.interval.runs, three.interval.runs) == (3, 1, 1)
    assert "items and training seeds" in compare([(ACCURACY, scores)], ["base"], resamples=200).to_markdown()


def test_models_trained_with_the_same_seeds_are_paired_by_seed():
    rng = np.random.default_rng(5)
    luck = rng.normal(size=(3, 1))
    common = rng.normal(size=(1, 100)) + luck

    def model(values):
        return {"t": TaskScores.of("t", "c", [{f"{k}": x for k, x in enumerate(run)} for run in values])}

    table = comparison_table({"random": model(common), "new": model(common + 0.1)}, ACCURACY, ["random"])
    difference = table.difference("new", "random", "c")
    assert difference.verdict == "better"
    assert (difference.interval.low, difference.interval.high) == pytest.approx((0.1, 0.1))


def test_json_and_markdown(scores):
    comparison = compare([(BITS_PER_BYTE, scores), (ACCURACY, scores)], controls=["base", "random"], resamples=200)
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison
    text = comparison.to_markdown()
    assert text.count("(lower is better") == 1 and text.count("(higher is better") == 1
    assert "bids − random" in text and "no clear difference" in text
    first = next(line for line in text.splitlines() if line.startswith("| math"))
    assert f"{comparison.tables[0].cell('base', 'math').mean:.3f}" in first
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {5}  # all kinds of table have four columns: none has a broken row


def test_csv_holds_every_number(scores):
    comparison = compare([(BITS_PER_BYTE, scores)], controls=["base", "random"], resamples=200)
    rows = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    (table,) = comparison.tables
    assert len(rows) == len(table.cells) + len(table.differences)
    found = next(r for r in rows if (r["model"], r["control"], r["row"]) == ("bids", "random", "math"))
    assert float(found["mean"]) == table.difference("bids", "random", "math").interval.mean
    assert found["verdict"] == "better"


def test_a_bar_in_a_name_does_not_break_the_table(bits):
    text = compare([(BITS_PER_BYTE, scores_by_capability({"a|b": bits["base"]}))], resamples=50).to_markdown()
    assert "a\\|b" in text


def test_errors_name_what_is_missing(bits, scores):
    with pytest.raises(StatisticsError, match="'less' was not evaluated"):
        comparison_table(scores, BITS_PER_BYTE, ["less"])
    with pytest.raises(StatisticsError, match="tasks scored: code"):
        fewer_tasks = scores_by_capability({**bits, "bids": {"math": bits["bids"]["math"]}})
        comparison_table(fewer_tasks, BITS_PER_BYTE)
    with pytest.raises(StatisticsError, match="not scored on the same items"):
        fewer = dict(list(bits["bids"]["math"].items())[1:])
        fewer_items = scores_by_capability({**bits, "bids": {**bits["bids"], "math": fewer}})
        comparison_table(fewer_items, BITS_PER_BYTE, ["random"])
    with pytest.raises(StatisticsError, match="no model"):
        comparison_table({}, BITS_PER_BYTE)
    with pytest.raises(StatisticsError, match="no task was scored"):
        comparison_table({"m": {}}, BITS_PER_BYTE)
