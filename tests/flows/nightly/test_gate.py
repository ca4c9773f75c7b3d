"""The gate on tables whose right decision is known by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eval.compare import LATEST, compare, scores_by_capability
from eval.tables import ACCURACY, AVERAGE, BITS_PER_BYTE, BITS_PER_TOKEN
from flows.nightly.gate import decide

ITEMS = 60
CAPABILITIES = ("math", "code", "knowledge")


def bits(shifts, seed=0):
    """capability -> item -> bits per byte; shifts: by how much a capability is above the common items' difficulty."""
    difficulty = np.random.default_rng(0).normal(2, 0.5, ITEMS)
    own = np.random.default_rng(seed)
    return {
        name: {f"{name}-{k}": difficulty[k] + shifts.get(name, 0.0) + own.normal(0, 0.02) for k in range(ITEMS)}
        for name in CAPABILITIES
    }


def tables(shifts, metric=BITS_PER_BYTE, controls=("base", LATEST), base=None):
    models = {"base": bits(base or {}, 3), "bids": bits(shifts, 1), LATEST: bits({}, 2)}
    return compare([(metric, scores_by_capability(models))], [c for c in controls if c in models], resamples=400)


def joined(*comparisons):
    return comparisons[0].model_copy(update={"tables": tuple(t for each in comparisons for t in each.tables)})


def test_one_clearly_worse_capability_refuses_and_is_named_with_its_interval():
    decision = decide(tables({"math": 0.1, "code": -0.5}), "bids", [LATEST])
    assert not decision.promote
    (reason,) = decision.reasons
    assert reason.startswith("worse: math, held-out bits per byte: +0.")
    found = next(each for each in decision.compared if each.capability == "math")
    assert f"[{found.difference.low:+.3f}, {found.difference.high:+.3f}] against latest" in reason
    assert 0.05 < found.difference.low < found.difference.high < 0.15
    assert found.loss == found.difference.high


def test_where_higher_is_better_the_other_side_is_worse():
    assert decide(tables({"math": 0.1}, ACCURACY), "bids", [LATEST]).promote
    refused = decide(tables({"math": -0.1}, ACCURACY), "bids", [LATEST])
    assert [reason[:11] for reason in refused.reasons] == ["worse: math"]


def test_a_tie_goes_live_and_the_record_says_what_may_have_been_missed():
    comparison = tables({})
    assert {d.verdict for d in comparison.tables[0].differences if d.control == LATEST} == {"no clear difference"}
    decision = decide(comparison, "bids", [LATEST])
    assert decision.promote
    assert decision.reasons[0] == "no capability is worse than latest beyond noise"
    least = max((each for each in decision.compared if each.capability != AVERAGE), key=lambda each: each.loss)
    assert decision.reasons[1] == f"least certain: {least.in_words()}"


def test_better_asks_for_a_clearly_better_average():
    for shifts, promoted in (({}, False), ({"math": -0.3}, True)):
        decision = decide(tables(shifts), "bids", [LATEST], require="better")
        assert decision.promote is promoted
        assert ("clearly better than latest" in decision.reasons[0]) is not promoted


def test_a_better_average_does_not_outweigh_a_worse_capability():
    comparison = tables({"math": 0.1, "code": -1.0, "knowledge": -1.0})
    assert comparison.tables[0].difference("bids", LATEST, AVERAGE).verdict == "better"
    assert not decide(comparison, "bids", [LATEST], require="better").promote


def test_every_metric_counts_but_bits_per_token_which_are_the_same_losses():
    good, bad = tables({}), tables({"code": -0.2}, ACCURACY)
    assert not decide(joined(good, bad), "bids", [LATEST]).promote
    again = tables({"code": 0.2}, BITS_PER_TOKEN)
    assert decide(joined(good, again), "bids", [LATEST]).promote


def test_the_averages_alone_refuse_nothing():
    """Three losses, none of which stands out after the correction, may make a clear average: it is no capability."""
    comparison = tables({})
    (table,) = comparison.tables
    worse = [
        d.model_copy(update={"verdict": "worse"}) if (d.model, d.control, d.row) == ("bids", LATEST, AVERAGE) else d
        for d in table.differences
    ]
    comparison = comparison.model_copy(update={"tables": (table.model_copy(update={"differences": tuple(worse)}),)})
    assert decide(comparison, "bids", [LATEST]).promote


@pytest.mark.parametrize("field", ["mean", "low", "high"])
def test_what_is_no_number_refuses(field):
    comparison = tables({})
    (table,) = comparison.tables
    broken = [
        d.model_copy(update={"interval": d.interval.model_copy(update={field: math.nan})})
        if (d.model, d.control, d.row) == ("bids", LATEST, "code")
        else d
        for d in table.differences
    ]
    comparison = comparison.model_copy(update={"tables": (table.model_copy(update={"differences": tuple(broken)}),)})
    decision = decide(comparison, "bids", [LATEST])
    assert not decision.promote
    assert decision.reasons[0].endswith("not a number")
    assert "code" in decision.reasons[0]


def test_what_was_to_be_measured_and_was_not_refuses():
    asked = {(BITS_PER_BYTE.name, name) for name in (*CAPABILITIES, "poetry")} | {(ACCURACY.name, "math")}
    decision = decide(tables({}), "bids", [LATEST], asked=asked)
    assert not decision.promote
    assert decision.reasons == (
        "math, accuracy: not measured, so nothing shows that it is not worse",
        "poetry, held-out bits per byte: not measured, so nothing shows that it is not worse",
    )


@pytest.mark.parametrize(
    ("candidate", "controls", "reason"),
    [
        ("less", [LATEST], "held-out bits per byte: less was not measured"),
        ("bids", ["random"], "held-out bits per byte: nothing was compared with random"),
    ],
)
def test_a_model_that_is_in_no_table_refuses(candidate, controls, reason):
    decision = decide(tables({}), candidate, controls)
    assert (decision.promote, decision.reasons) == (False, (reason,))


def test_no_table_at_all_refuses():
    only = tables({}, BITS_PER_TOKEN)
    for comparison in (only, only.model_copy(update={"tables": ()})):
        decision = decide(comparison, "bids", [LATEST])
        assert (decision.promote, decision.reasons) == (False, ("nothing was measured that could be compared",))


def test_the_base_model_may_be_a_floor_as_well():
    """As good as what is live, which is worse than the base: losses too small to be seen may add up over nights."""
    comparison = tables({}, base={"math": -0.2})
    assert decide(comparison, "bids", [LATEST]).promote
    decision = decide(comparison, "bids", [LATEST, "base"])
    assert not decision.promote
    assert decision.reasons[0].startswith("worse: math")
    assert decision.reasons[0].endswith("against base")


def test_with_nothing_to_be_compared_with_what_was_measured_goes_live():
    decision = decide(tables({"math": 9.0}), "bids", [], asked={(BITS_PER_BYTE.name, "math")})
    assert (decision.promote, decision.reasons) == (True, ("nothing is live to be compared with",))
    assert not decide(tables({}), "bids", [], asked={(BITS_PER_BYTE.name, "poetry")}).promote


def test_of_nights_on_which_nothing_changed_few_are_refused():
    """200 nights of pure noise on three capabilities: Holm's correction at 0.95 lets at most 1 in 20 stand out on
    either side, so that 20 would be a chance of one in a thousand."""
    refused = 0
    for night in range(200):
        models = {"bids": bits({}, 1000 + night), LATEST: bits({}, 5000 + night)}
        comparison = compare([(BITS_PER_BYTE, scores_by_capability(models))], [LATEST], resamples=400, seed=night)
        refused += not decide(comparison, "bids", [LATEST]).promote
    assert refused < 20
