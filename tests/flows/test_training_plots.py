"""flows.report.training_plots: what the step log has is drawn, and what was lost is said."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from flows.report.training_plots import details, left_out, mixture
from tests.flows.step_records import step_records
from train.step_log import StepLog, TrainedStep, summary


def texts(svg: str) -> str:
    return " ".join(part for part in ET.fromstring(svg).itertext() if part.strip())


@pytest.mark.parametrize("coreset", [False, True])
def test_all_panels_are_drawn_and_names_are_escaped(coreset):
    records = step_records(60, "<script>alert(1)</script>", coreset=coreset)
    svg = details(records)
    assert "<script>" not in svg
    told = texts(svg)
    for title in ("Drawn, trained, weight", "How often rows were drawn", "Weights and coreset", "Loss per domain"):
        assert title in told
    assert ("kept small sources" in told) == coreset
    assert "Mixture over training" in texts(mixture(records, [(1, 2.5), (60, 2.0)]))


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
