"""Compare models task by task: means with intervals, paired differences to named controls, and how balanced each is.

A mean per model answers "how good", the paired difference "better than what"; only the second decides, and only when
its interval leaves zero out and it survives the correction for the number of tasks (Holm). A capability is the mean of
its tasks, the average the mean of the capabilities: a capability of ten tasks weighs as much as one of a single task.
The balance figures say what the average hides: the worst capability, the spread, and the largest loss against the base
model. All come from the same bootstrap draws (`eval.statistics`). Cost: about 50 ms per task and model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.statistics import (
    RESAMPLES,
    Interval,
    StatisticsError,
    TaskScores,
    holm,
    interval_of,
    resampled_means,
    resamples_for,
    two_sided_p,
    verdict,
)
from eval.tables import (
    AVERAGE,
    TASK_AVERAGE,
    Balance,
    Cell,
    Comparison,
    Difference,
    Extreme,
    Kind,
    Metric,
    MetricTable,
    Row,
    compared_pairs,
)

# the controls every run knows by name; latest: what is live when a nightly run would replace it
BASE, LATEST, RANDOM = "base", "latest", "random"

# model → task → its scores
Scores = Mapping[str, Mapping[str, TaskScores]]


def scores_by_capability(values: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, TaskScores]]:
    """model → capability → item id → value, each capability a task of its own name and of one run."""
    return {
        model: {name: TaskScores.of(name, name, [items]) for name, items in by_capability.items()}
        for model, by_capability in values.items()
    }


def comparison_table(
    scores: Scores,
    metric: Metric,
    controls: Sequence[str] = (),
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> MetricTable:
    """Means per model and row, each model's paired difference to every control, and the balance of each model.

    A control is itself compared with the controls before it only. Raises `StatisticsError` naming what differs when
    models were scored on other tasks or items, or a control was not scored.
    """
    _check(scores, metric, controls)
    drawn = _resample(scores, metric, confidence, resamples, seed)
    return MetricTable(
        metric=metric,
        models=tuple(scores),
        rows=tuple(drawn.rows.values()),
        controls=tuple(controls),
        cells=tuple(
            Cell(model=model, row=row.name, interval=drawn.interval(model, key))
            for model in scores
            for key, row in drawn.rows.items()
        ),
        differences=tuple(
            difference
            for model, control in compared_pairs(list(scores), controls)
            for difference in _differences(drawn, metric, model, control)
        ),
        balance=tuple(_balance(drawn, metric, model) for model in scores),
    )


def compare(
    scores_by_metric: Iterable[tuple[Metric, Scores]],
    controls: Sequence[str] = (),
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Comparison:
    """One table per metric: `compare([(BITS_PER_BYTE, bits), (ACCURACY, accuracies)], controls=["base", "random"])`."""
    tables = tuple(
        comparison_table(scores, metric, controls, confidence=confidence, resamples=resamples, seed=seed)
        for metric, scores in scores_by_metric
    )
    return Comparison(tables=tables, confidence=confidence, resamples=resamples, seed=seed, notes=tuple(notes))


def _check(scores: Scores, metric: Metric, controls: Sequence[str]) -> None:
    models = list(scores)
    if not models:
        raise StatisticsError(f"{metric.name}: no model to compare")
    for control in controls:
        if control not in scores:
            raise StatisticsError(
                f"{metric.name}: the control {control!r} was not evaluated; evaluated: {', '.join(models)}"
            )
    first = scores[models[0]]
    if not first:
        raise StatisticsError(f"{metric.name}: no task was scored; every item may have been excluded")
    for model in models:
        if scores[model].keys() != first.keys():
            odd = sorted(scores[model].keys() ^ first.keys())
            raise StatisticsError(
                f"{metric.name}: {models[0]} and {model} differ in the tasks scored: {', '.join(odd)}"
            )


@dataclass(frozen=True, eq=False)
class _Resampled:
    """Means and bootstrap draws of every model on every row, by the rows' keys. draws: (resamples,) each."""

    rows: dict[str, Row]
    items: dict[str, int]
    runs: dict[str, int]
    means: dict[str, dict[str, float]]
    draws: dict[str, dict[str, NDArray]]
    confidence: float

    def interval(self, model: str, key: str) -> Interval:
        return self._around(self.means[model][key], self.draws[model][key], key, self.runs[model])

    def between(self, model: str, control: str, key: str) -> tuple[Interval, NDArray]:
        """The difference's interval and draws."""
        apart = self.draws[model][key] - self.draws[control][key]
        runs = min(self.runs[model], self.runs[control])
        return self._around(self.means[model][key] - self.means[control][key], apart, key, runs), apart

    def over_all(self, model: str, mean: float, low: float, high: float) -> Interval:
        items = self.items[_key("average", AVERAGE)]
        return Interval(mean=mean, low=float(low), high=float(high), items=items, runs=self.runs[model])

    def by_capability(self, model: str) -> tuple[list[str], NDArray, NDArray]:
        """Names, means and draws of the capabilities."""
        keys = [key for key, row in self.rows.items() if row.kind == "capability"]
        names = [self.rows[key].name for key in keys]
        return names, np.array([self.means[model][k] for k in keys]), np.array([self.draws[model][k] for k in keys])

    def _around(self, mean: float, drawn: NDArray, key: str, runs: int) -> Interval:
        return interval_of(mean, drawn, self.confidence, items=self.items[key], runs=runs)


def _resample(scores: Scores, metric: Metric, confidence: float, resamples: int, seed: int) -> _Resampled:
    models = list(scores)
    first = scores[models[0]]
    rows, parts = _rows(first)
    resamples = resamples_for(len(first), confidence, resamples)
    means: dict[str, dict[str, float]] = {model: {} for model in models}
    draws: dict[str, dict[str, NDArray]] = {model: {} for model in models}
    for task in first:
        found = resampled_means(f"{metric.name}/{task}", [scores[m][task] for m in models], resamples, seed=seed)
        for model, drawn in zip(models, found, strict=True):
            means[model][task], draws[model][task] = scores[model][task].mean, drawn
    for key, inside in parts.items():
        for model in models:
            means[model][key] = float(np.mean([means[model][part] for part in inside]))
            draws[model][key] = np.mean([draws[model][part] for part in inside], axis=0)
    return _Resampled(
        rows=rows,
        items={key: _items(first, key, row) for key, row in rows.items()},
        runs={model: max(each.runs for each in scores[model].values()) for model in models},
        means=means,
        draws=draws,
        confidence=confidence,
    )


def _differences(drawn: _Resampled, metric: Metric, model: str, control: str) -> list[Difference]:
    found = {key: drawn.between(model, control, key) for key in drawn.rows}
    p = {key: two_sided_p(apart) for key, (_, apart) in found.items()}
    adjusted = dict(p)
    for kind in ("task", "capability"):
        family = [key for key, row in drawn.rows.items() if row.kind == kind]
        adjusted |= zip(family, holm([p[key] for key in family]), strict=True)
    return [
        Difference(
            model=model,
            control=control,
            row=drawn.rows[key].name,
            interval=interval,
            p=p[key],
            p_adjusted=adjusted[key],
            verdict=verdict(interval, metric.higher_is_better, adjusted[key], drawn.confidence),
        )
        for key, (interval, _) in found.items()
    ]


def _balance(drawn: _Resampled, metric: Metric, model: str) -> Balance:
    """The intervals of an extreme and of the spread hold for all capabilities at once.

    An extreme is chosen for its luck as well, and choosing again in every draw would add the luck of the draw: of ten
    equal capabilities the "largest loss" would exclude zero nearly always. So each capability gets its interval at
    Bonferroni's level, and the extreme of their ends bounds the true extreme. A standard deviation obeys the triangle
    inequality: the true one is no further off than the errors' own.
    """
    names, mean, draws = drawn.by_capability(model)
    sign = 1 if metric.higher_is_better else -1

    def least(mean: NDArray, draws: NDArray, turn: int) -> Extreme:
        goodness = sign * mean
        at = int(np.argmin(goodness))
        tail = (1 - drawn.confidence) / 2 / len(names)
        ends = turn * np.quantile(sign * draws, [tail, 1 - tail], axis=1).min(axis=1)
        return Extreme(
            capability=names[at], interval=drawn.over_all(model, turn * float(goodness[at]), ends.min(), ends.max())
        )

    drop = None
    if BASE in drawn.means and model != BASE:
        _, base_mean, base_draws = drawn.by_capability(BASE)
        drop = least(mean - base_mean, draws - base_draws, turn=-1)
    spread = float(mean.std())
    off = float(np.quantile((draws - mean[:, None]).std(axis=0), drawn.confidence))
    return Balance(
        model=model,
        worst=least(mean, draws, turn=sign),
        spread=drawn.over_all(model, spread, max(0.0, spread - off), spread + off),
        drop=drop,
    )


def _rows(tasks: Mapping[str, TaskScores]) -> tuple[dict[str, Row], dict[str, list[str]]]:
    """The table's rows by key (a task's own name, else `_key`), and which keys every capability and average is the mean
    of."""
    members: dict[str, list[str]] = {}
    for task, scores in tasks.items():
        members.setdefault(scores.capability, []).append(task)
    taken = {*members, AVERAGE, TASK_AVERAGE}
    rows: dict[str, Row] = {}
    parts: dict[str, list[str]] = {}

    def mean_of(kind: Kind, name: str, inside: list[str]) -> None:
        key = _key(kind, name)
        rows[key], parts[key] = Row(name=name, kind=kind), inside

    for capability, inside in members.items():
        if len(inside) > 1:
            for task in inside:
                name = f"{task} (task)" if task in taken else task
                rows[task] = Row(name=name, kind="task", capability=capability)
        mean_of("capability", capability, inside)
    mean_of("average", AVERAGE, list(parts))
    if len(tasks) > len(members):
        mean_of("average", TASK_AVERAGE, list(tasks))
    return rows, parts


def _key(kind: Kind, name: str) -> str:
    """Apart from the tasks' names: a capability of one task may bear the task's name."""
    return f"{kind}\0{name}"


def _items(tasks: Mapping[str, TaskScores], key: str, row: Row) -> int:
    if row.kind == "task":
        return len(tasks[key].items)
    return sum(len(each.items) for each in tasks.values() if row.kind == "average" or each.capability == row.name)
