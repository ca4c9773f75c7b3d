"""Comparison tables on scores whose right answer is known by construction."""

from __future__ import annotations

import numpy as np
import pytest

from eval.compare import ACCURACY, AVERAGE, BITS_PER_BYTE, Comparison, accuracy_scores, compare, comparison_table
from eval.request import EngineInfo, EvaluationResponse, ItemResult
from eval.statistics import StatisticsError


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
def table(bits):
    return comparison_table(bits, BITS_PER_BYTE, controls=["base", "random"])


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


def test_the_same_numbers_where_higher_is_better_turn_the_verdicts(bits):
    table = comparison_table(bits, ACCURACY, controls=["random"])
    assert table.difference("bids", "random", "math").verdict == "worse"
    assert table.least_gain("bids", "random").capability == "math"


def test_a_control_is_compared_with_the_controls_before_it_only(table):
    pairs = {(d.model, d.control) for d in table.differences}
    assert pairs == {("random", "base"), ("bids", "base"), ("bids", "random")}


def test_least_gain_names_the_capability_left_behind(table):
    assert table.least_gain("bids", "random").capability == "code"


def test_the_average_difference_weighs_capabilities_alike():
    scores = {
        "a": {"big": {f"b{k}": 1.0 for k in range(90)}, "small": {f"s{k}": 0.0 for k in range(10)}},
        "b": {"big": {f"b{k}": 0.0 for k in range(90)}, "small": {f"s{k}": 1.0 for k in range(10)}},
    }
    assert comparison_table(scores, ACCURACY, ["b"]).difference("a", "b", AVERAGE).interval.mean == pytest.approx(0.0)


def test_json_and_markdown(bits):
    comparison = compare([(BITS_PER_BYTE, bits), (ACCURACY, bits)], controls=["base", "random"], resamples=200)
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison
    text = comparison.to_markdown()
    assert text.count("(lower is better") == 1 and text.count("(higher is better") == 1
    assert "bids − random" in text and "no clear difference" in text
    first = next(line for line in text.splitlines() if line.startswith("| math"))
    assert f"{comparison.tables[0].cell('base', 'math').mean:.3f}" in first
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {5}  # both kinds of table have four columns: none has a broken row


def test_a_bar_in_a_name_does_not_break_the_table(bits):
    text = compare([(BITS_PER_BYTE, {"a|b": bits["base"]})], resamples=50).to_markdown()
    assert "a\\|b" in text


def test_errors_name_what_is_missing(bits):
    with pytest.raises(StatisticsError, match="'less' was not evaluated"):
        comparison_table(bits, BITS_PER_BYTE, ["less"])
    with pytest.raises(StatisticsError, match="capabilities scored: code"):
        comparison_table({**bits, "bids": {"math": bits["bids"]["math"]}}, BITS_PER_BYTE)
    with pytest.raises(StatisticsError, match="not scored on the same items"):
        fewer = dict(list(bits["bids"]["math"].items())[1:])
        comparison_table({**bits, "bids": {**bits["bids"], "math": fewer}}, BITS_PER_BYTE, ["random"])
    with pytest.raises(StatisticsError, match="no model"):
        comparison_table({}, BITS_PER_BYTE)


def _response(*items):
    engine = EngineInfo(backend="hf", device="cpu", dtype="float32", python="3.11", versions={})
    return EvaluationResponse(items=items, engine=engine, seconds={}, seconds_start_up=0.0)


def test_scores_from_a_response():
    one = ItemResult(model="m", task="t", item_id="i", capability="math", metrics={"acc": 1.0, "acc_norm": 0.0})
    two = ItemResult(model="m", task="plain", item_id="i", metrics={"acc": 0.0})
    three = ItemResult(model="m", task="g", item_id="i", capability="math", metrics={"exact_match": 1.0})
    assert accuracy_scores(_response(one, two, three)) == {"m": {"math": {"i": 1.0}, "plain": {"i": 0.0}}}
    assert accuracy_scores(_response(one, two, three), "exact_match") == {"m": {"math": {"i": 1.0}}}
    with pytest.raises(StatisticsError, match="two values of acc"):
        accuracy_scores(_response(one, one.model_copy(update={"task": "u"})))
