"""From answers to scores: what comes together, what is left out, and that it is told."""

from __future__ import annotations

from eval.request import EngineInfo, EvaluationResponse, ItemResult
from eval.results import left_out, task_scores

ENGINE = EngineInfo(backend="hf", device="cpu", dtype="float32", python="3", versions={})
RUNS = {"m": ("m", 0), "m, run 2": ("m", 1)}


def _response(tasks):
    """tasks: name → number of items, all of them right in the first run and wrong in the second."""
    items = tuple(
        ItemResult(model=model, task=task, item_id=f"{k}", metrics={"acc": 1.0 - run})
        for model, (_, run) in RUNS.items()
        for task, count in tasks.items()
        for k in range(count)
    )
    return EvaluationResponse(items=items, engine=ENGINE, seconds={}, seconds_start_up=0)


def test_runs_of_one_model_come_together_and_excluded_items_do_not_score():
    ((metric, scores),) = task_scores(_response({"t": 3}), RUNS, {("t", "1")})
    assert (metric.name, list(scores)) == ("accuracy", ["m"])
    assert scores["m"]["t"].items == ("0", "2")
    assert scores["m"]["t"].values.tolist() == [[1, 1], [0, 0]]


def test_a_task_without_two_items_left_is_in_no_table_and_one_without_any_makes_no_table():
    response = _response({"t": 3, "u": 2})
    ((_, scores),) = task_scores(response, RUNS, {("u", "1")})
    assert list(scores["m"]) == ["t"]
    assert task_scores(response, RUNS, {(task, str(k)) for task in "tu" for k in range(3)}) == []


def test_what_is_in_no_table_is_told_with_its_numbers():
    items = [("t", False), ("u", True), ("t", True), ("u", True), ("u", False), ("v", True), ("t", False)]
    assert left_out(items) == [
        "u is in no table: 1 of its 3 items may score, and an interval needs two",
        "v is in no table: 0 of its 1 items may score, and an interval needs two",
    ]
    assert left_out([("one", False)]) == ["one is in no table: 1 of its 1 items may score, and an interval needs two"]
