"""flows.report.training_plots: what the step log has is drawn, and what was lost is said."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from flows.artifacts import _mixture
from flows.report.training_plots import WINDOWS, details, left_out, mean_loss, mixture
from tests.flows.step_records import step_records
from train.step_log import StepLog, TrainedStep, summary


def texts(svg: str) -> str:
    return " ".join(part for part in ET.fromstring(svg).itertext() if part.strip())


def drawn(records) -> str:
    return " ".join(map(texts, details(records).values()))


def domains(count, steps=3):
    """A log over `count` domains, the first ones largest."""
    names = [f"domain-{k:02d}" for k in range(count)]
    own = np.arange(count)
    arrays = {
        "probabilities": np.full(count, 1 / count), "epochs": np.linspace(0.2, 6, count), "names": names,
        "pool_domains": own, "domains": own, "tokens": 100 - own, "weights": np.ones(count),
        "losses": 2 + 0.01 * own, "ids": names,
    }  # fmt: skip
    return step_records(steps, **arrays)


@pytest.mark.parametrize("coreset", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_only_what_the_log_has_is_drawn(coreset, weighted):
    records = step_records(60, coreset=coreset, **({} if weighted else {"weights": np.ones(4)}))
    told = drawn(records)
    for title in ("Passes", "Loss per domain, before weights"):
        assert title in told
    assert ("Drawn, trained" in told) == ("Coreset" in told) == ("kept" in told) == coreset
    assert ("Effective sample size" in told) == ("burn-in" in told) == weighted
    assert ("weight" in told.split()) == weighted  # the legend of the bars
    assert "Mixture over training" in texts(mixture(records, [(1, 2.5), (60, 2.0)]))


def test_a_row_without_a_loss_is_no_weighting():
    weights = np.array([0.0, 1.0, 1.0, 1.0])
    losses = np.array([np.nan, 2.0, 3.0, 3.0])
    assert "Effective sample size" not in drawn(step_records(4, weights=weights, losses=losses))


def test_weights_from_the_first_step_have_no_burn_in():
    told = drawn(step_records(4, weights=np.array([0.4, 0.6, 1.5, 1.5])))
    assert "Effective sample size" in told and "burn-in" not in told


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "_private", "cost $x^$ each", "a\\b{c}", "&amp;"])
def test_a_domain_s_name_is_shown_as_it_is(name):
    records = step_records(6, name, coreset=True)
    for svg in [mixture(records, []), *details(records).values()]:
        assert "<script" not in svg
    shown = name if len(name) <= 18 else name[:17] + "…"
    assert shown in texts(mixture(records, []))
    for title in ("Shares and passes of each domain", "Loss of each domain"):
        assert shown in texts(details(records)[title])


def test_temperatures_are_told_where_they_jump_move_and_are_infinite():
    assert "T = 5 1 " in texts(mixture(step_records(40), []))
    moving = [{**record, "temperature": 5 - record["step"] / 20} for record in step_records(81)]
    assert "T = 5 4.2 3.4 2.6 1.8 1" in texts(mixture(moving, []))
    infinite = [{**r, "temperature": None if r["step"] < 20 else 1.0} for r in step_records(40)]
    assert "T = ∞ 1 " in texts(mixture(infinite, []))
    assert "T = " not in texts(mixture(step_records(4, temperature=float("nan")), []))


def test_small_domains_share_a_curve_and_long_lists_are_cut():
    records = domains(30)
    told = drawn(records)
    assert "(20 most drawn of 30)" in told and "(20 most repeated of 30)" in told
    losses = texts(details(records)["Loss of each domain"])
    assert set(re.findall(r"domain-\d\d", losses)) == {f"domain-{k:02d}" for k in range(7)}
    assert "others" in losses and "others" in texts(mixture(records, []))
    assert "others" not in drawn(domains(7)) + texts(mixture(domains(7), []))


def test_four_passes_are_marked_where_they_are_reached():
    title = "Shares and passes of each domain"
    dashes = {passes: "stroke-dasharray" in details(step_records(1, epochs=np.array([0.1, passes])))[title]
              for passes in (3.9, 4.0)}  # fmt: skip
    assert dashes == {3.9: False, 4.0: True}


def test_mean_loss_counts_rows_and_skips_null():
    records = [
        {"loss": {"a": 1.0, "b": 4.0}, "selected": {"a": 3, "b": 1}},
        {"loss": {"a": None}, "selected": {"a": 2, "b": 2}},
    ]
    assert mean_loss(records, ["a"]) == 1.0
    assert mean_loss(records, ["a", "b"]) == pytest.approx((3 * 1 + 4) / 4)
    assert mean_loss(records[1:], ["a", "b"]) is None


@pytest.mark.parametrize("steps", [1, 2, WINDOWS + 1, 59, 300])
def test_a_domain_whose_loss_is_null_throughout_has_no_curve(steps):
    records = step_records(steps)
    for record in records:
        record["loss"]["forum"] = None
    told = texts(details(records)["Loss of each domain"])
    assert "maths & more" in told and "forum" not in told


def test_the_artifact_tells_each_half():
    records = step_records(4)
    for record in records[2:]:
        record["loss"]["forum"] = None
    maths = {
        "source": "maths & more", "rows trained": 8, "passes": "6.00",
        "tokens, first half": "38.9%", "tokens, second half": "38.9%",
        "weight, first half": "57.5%", "weight, second half": "65.0%",
        "loss, first half": "3.175", "loss, second half": "3.075",
    }  # fmt: skip
    forum, found = _mixture(records)
    assert found == maths
    assert (forum["source"], forum["loss, first half"], forum["loss, second half"]) == ("forum", "2.075", "")
    assert [row["tokens, first half"] for row in _mixture(records[:1])] == ["0.0%", "0.0%"]
    unseen = step_records(2, domains=np.array([0, 0, 0, 0]))
    assert [(row["source"], row["rows trained"]) for row in _mixture(unseen)] == [("forum", 8), ("maths & more", 0)]


def test_one_step_and_a_domain_without_a_finite_loss():
    losses = np.array([np.nan, np.inf, 3.0, 3.4])
    records = step_records(1, losses=losses)
    assert records[0]["loss"] == {"maths & more": pytest.approx(3.2)}
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    details(records)
    assert "2 row(s) had no finite loss" in left_out(records)
    assert "(r1, r2)" in left_out(records)


def test_static_shares_have_no_temperature_and_skipped_steps_are_told():
    records = step_records(3, temperature=float("nan"), skipped=True, weighted_loss=float("nan"))
    assert records[0]["temperature"] is None
    mixture(records, [])
    assert left_out(records).startswith("3 step(s) were skipped")
    assert left_out(step_records(2)) == ""


def test_averages_for_loggers():
    flat = summary(step_records(4, coreset=True))
    assert flat["mixture/temperature"] == 1.0
    assert flat["share_pool/forum"] == pytest.approx(6 / 8)
    assert flat["share_selected/forum"] == pytest.approx(0.5)
    assert flat["share_trained_tokens/maths & more"] == pytest.approx(14 / 36)
    assert flat["loss/forum"] == pytest.approx(2.1 - 0.05 * 1.5)
    assert flat["epochs/maths & more"] == pytest.approx(6.0)
    assert (flat["coreset/kept"], flat["coreset/quotas"]) == (2.0, 2.0)
    assert (flat["weights/min"], flat["weights/max"]) == (0.5, 1.3)


def test_log_file_is_cut_back_to_a_checkpoint(tmp_path):
    def step(number: int) -> TrainedStep:
        return TrainedStep(
            number, 1.0, np.array([1.0]), np.array([1.0]), ["a"], np.zeros(1, int), np.zeros(1, int), np.ones(1, int),
            np.ones(1), np.ones(1), 1.0, None, ["r"], False, [],
        )  # fmt: skip

    log = StepLog(tmp_path / "steps.jsonl")
    log.add(step(0))
    size = log.bytes
    log.add(step(1))
    assert log.drain()["loss/a"] == 1.0
    assert log.drain() == {}
    log.restart(size)
    log.add(step(1))
    assert [json.loads(line)["step"] for line in (tmp_path / "steps.jsonl").read_text().splitlines()] == [0, 1]
    with pytest.raises(ValueError, match="remove the checkpoints to start afresh"):
        log.restart(10**6)


def test_rows_the_coreset_could_not_rank_are_told():
    told = left_out(step_records(2, coreset=True, unranked=["r9"]))
    assert told == "1 row(s) could not be ranked by the coreset at some step and were not picked there (r9)"
