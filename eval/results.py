"""From an evaluation's answers to what is compared: values per model, task and item, without the leaked ones.

Several runs (training seeds) of one model are answered under names of their own and come together here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from eval.request import EvaluationResponse, ItemResult
from eval.statistics import StatisticsError, TaskScores
from eval.tables import METRICS, Metric

# run's name in the request → (model's name in the tables, number of the run)
Runs = Mapping[str, tuple[str, int]]
# model, run, task, capability, item id, value
Value = tuple[str, int, str, str, str, float]
SCORABLE = 2  # items that an interval needs


def metric_of(item: ItemResult) -> str | None:
    """The one metric of an item that tables compare: the first of `METRICS` that it has."""
    return next((name for name in METRICS if name in item.metrics), None)


def task_scores(
    response: EvaluationResponse, runs: Runs, excluded: Collection[tuple[str, str]] = ()
) -> list[tuple[Metric, dict[str, dict[str, TaskScores]]]]:
    """Per metric that was measured, in the order of `METRICS`: model → task → scores.

    Without a capability of its own a task counts as one by its name; a task whose items have several is one task per
    capability. excluded: (task, item id) that must not score. A task of which all but one item are excluded is left
    out, since no interval can be made; `left_out` tells of it.
    """
    values: dict[Metric, list[Value]] = {}
    for item in response.items:
        name = metric_of(item)
        if name is None or (item.task, item.item_id) in excluded:
            continue
        model, run = runs[item.model]
        value = (model, run, item.task, item.capability or item.task, item.item_id, item.metrics[name])
        values.setdefault(METRICS[name], []).append(value)
    scored = [(metric, scores_of(values[metric])) for metric in dict.fromkeys(METRICS.values()) if metric in values]
    return [(metric, scores) for metric, scores in scored if any(scores.values())]


def scores_of(values: Iterable[Value]) -> dict[str, dict[str, TaskScores]]:
    """Single values as model → task → scores; what too few items are left of for an interval is left out."""
    grouped: dict[str, dict[tuple[str, str], dict[int, dict[str, float]]]] = {}
    for model, run, task, capability, item, value in values:
        by_run = grouped.setdefault(model, {}).setdefault((task, capability), {})
        by_run.setdefault(run, {})[item] = value
    return {model: _tasks(tasks) for model, tasks in grouped.items()}


def _tasks(tasks: Mapping[tuple[str, str], Mapping[int, Mapping[str, float]]]) -> dict[str, TaskScores]:
    names = [task for task, _ in tasks]
    scores = {}
    for (task, capability), by_run in tasks.items():
        name = task if names.count(task) == 1 else f"{task}, {capability}"
        if max(map(len, by_run.values())) < SCORABLE:
            continue
        scores[name] = TaskScores.of(name, capability, [by_run[run] for run in sorted(by_run)])
    return scores


def left_out(items: Iterable[tuple[str, bool]]) -> list[str]:
    """Notes on what is in no table. items: of every item its task or capability, and whether it is excluded."""
    total, scored = Counter[str](), Counter[str]()
    for name, excluded in items:
        total[name] += 1
        scored[name] += not excluded
    return [
        f"{name} is in no table: {scored[name]} of its {all_of} items may score, and an interval needs two"
        for name, all_of in total.items()
        if scored[name] < SCORABLE
    ]


def unmeasured(response: EvaluationResponse) -> list[str]:
    """Tasks none of whose metrics a table compares; they would vanish silently."""
    measured = {item.task for item in response.items if metric_of(item) is not None}
    return sorted({item.task for item in response.items} - measured)


def check_measured(response: EvaluationResponse) -> None:
    """Raises `StatisticsError` naming tasks that measure nothing a table can show."""
    if missing := unmeasured(response):
        has = sorted({name for item in response.items if item.task in missing for name in item.metrics})
        raise StatisticsError(
            f"task(s) {', '.join(missing)} measure {', '.join(has) or 'nothing'}; tables know {', '.join(METRICS)}"
        )
