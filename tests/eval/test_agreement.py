"""Agreement of two engines: what rounding explains, and what it does not."""

from __future__ import annotations

import pytest

from eval.agreement import agreement
from eval.errors import EvaluationError
from eval.request import EngineInfo, EvaluationResponse, ItemResult

TOKENS = {("t", "i"): (2, 4), ("t", "j"): (2, 4), ("g", "k"): ()}


def answered(*items, dtype="bfloat16"):
    engine = EngineInfo(backend="hf", device="cpu", dtype=dtype, python="3.11", versions={})
    return EvaluationResponse(items=items, engine=engine, seconds={}, seconds_start_up=0.0)


def choice(item_id, *log_likelihoods):
    return ItemResult(model="m", task="t", item_id=item_id, metrics={"acc": 1.0}, log_likelihoods=log_likelihoods)


def written(answer):
    return ItemResult(model="m", task="g", item_id="k", metrics={"exact_match": 1.0}, answer=answer)


def test_equal_answers_agree():
    both = answered(choice("i", -1.0, -2.0), written("yes"))
    found = agreement(both, both, TOKENS)
    assert (found.items, found.same, found.largest, found.disagreements) == (2, 2, 0.0, ())
    assert found.within_rounding


def test_distances_are_per_token():
    found = agreement(answered(choice("i", -1.0, -2.0)), answered(choice("i", -1.1, -2.4)), TOKENS)
    assert (found.largest, found.mean) == pytest.approx((0.1, 0.075))


def test_another_choice_between_answers_that_rounding_cannot_tell_apart_is_listed_but_allowed():
    found = agreement(answered(choice("i", -1.00, -1.05)), answered(choice("i", -1.04, -1.01)), TOKENS)
    (one,) = found.disagreements
    assert (one.first, one.second, one.rounding) == ("choice 0", "choice 1", True)
    assert one.margin == pytest.approx(0.05)
    assert found.within_rounding and found.same == 0


def test_another_choice_with_a_margin_or_a_distance_beyond_rounding_is_not_allowed():
    apart = agreement(answered(choice("i", -1.0, -3.0)), answered(choice("i", -3.0, -1.0)), TOKENS)
    assert not apart.disagreements[0].rounding and not apart.within_rounding
    far = agreement(answered(choice("i", -1.0, -9.0)), answered(choice("i", -1.5, -9.0)), TOKENS)
    assert not far.disagreements and not far.within_rounding


def test_the_coarser_type_sets_the_tolerance():
    one, two = choice("i", -1.0, -2.0), choice("i", -1.02, -2.0)
    assert not agreement(answered(one, dtype="float32"), answered(two, dtype="float32"), TOKENS).within_rounding
    assert agreement(answered(one, dtype="float32"), answered(two), TOKENS).within_rounding


def test_written_answers_that_differ_are_listed_and_not_judged():
    found = agreement(answered(written("yes")), answered(written("no")), TOKENS)
    assert (found.disagreements[0].first, found.disagreements[0].second) == ("yes", "no")
    assert found.within_rounding and found.largest is None


def test_other_items_are_refused():
    with pytest.raises(EvaluationError, match="other items"):
        agreement(answered(choice("i", -1.0, -2.0)), answered(choice("j", -1.0, -2.0)), TOKENS)
