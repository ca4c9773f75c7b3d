"""All arms of all runs on the items that every one of them was scored on and no run excludes.

Only the same items make a fair comparison: a run that was evaluated on more of them, or whose training rows leaked into
some, has a mean of its own that says nothing about another's. Items are the same where metric, task, capability and id
are. What is left out is counted by its reason, and a metric without common items is named rather than failed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.compare import BASE, Scores, compare
from eval.statistics import TaskScores
from eval.tables import BITS_PER_BYTE, BITS_PER_TOKEN, METRICS, Comparison, Metric
from flows.comparison.read import RunData
from flows.comparison.values import ScoredItems
from flows.config import ConfigError
from flows.stages.evaluation import HELD_OUT
from train.names import nearest

KNOWN = {"bits_per_byte": BITS_PER_BYTE, "bits_per_token": BITS_PER_TOKEN, **METRICS}

Key = tuple[str, str, str]  # task, capability, id
Values = dict[str, dict[int, dict[Key, float]]]  # model → training run → item → value


@dataclass(frozen=True, eq=False)
class Results:
    """The tables, which items they are made of, and what has to be said beside them."""

    comparison: Comparison
    items: list[ScoredItems]
    notes: list[str]


def compare_scores(runs: Sequence[RunData], control: str | None = None) -> Results:
    """control: an arm by its label, or by its method in the first run that has it; None: the first arm of the first.

    Raises `ConfigError` for a control that there is not.
    """
    chosen = _control(runs, control)
    values, excluded = _by_metric(runs)
    shared = {metric: _shared(of, excluded[metric]) for metric, of in values.items()}
    order = list(dict.fromkeys(capability for keys in shared.values() for _, capability, _ in keys))
    bases, notes = _bases(runs, values, shared)
    scored: list[tuple[Metric, Scores]] = []
    counted = []
    for metric, of in values.items():
        every = {key for by_run in of.values() for each in by_run.values() for key in each}
        tasks, lonely = _tasks(shared[metric], order)
        lost = every & excluded[metric]
        counted.append(
            ScoredItems(
                metric=metric.name,
                common=sum(map(len, tasks.values())),
                excluded=len(lost),
                unshared=len(every - lost) - len(shared[metric]),
                lonely=lonely,
            )
        )
        if tasks:
            names = [*bases, *(arm.label for run in runs for arm in run.arms)]
            scored.append((metric, {name: _scores(tasks, of[bases.get(name, name)]) for name in names}))
        else:
            notes.append(f"{metric.name}: no item was scored in all runs, so nothing is compared by it.")
    settings = [run.run.config for run in runs]
    comparison = compare(
        scored,
        [*bases, *([chosen] if chosen not in bases else [])],
        resamples=max(config["evaluation"]["resamples"] for config in settings),
        seed=min(config["seed"] for config in settings),
    )
    return Results(comparison, counted, notes)


def _control(runs: Sequence[RunData], control: str | None) -> str:
    arms = [arm for run in runs for arm in run.arms]
    if control is None:
        return arms[0].label
    found = next((arm.label for arm in arms if control in (arm.label, arm.method)), None)
    if found is None:
        names = [arm.label for arm in arms]
        raise ConfigError(f"--control {control!r}: no such arm; there are {', '.join(names)}{nearest(control, names)}")
    return found


def _by_metric(runs: Sequence[RunData]) -> tuple[dict[Metric, Values], dict[Metric, set[Key]]]:
    """Per metric, in the order of `KNOWN`, the finite values of every model of every run, and the excluded items.

    A model that a metric was not measured on is there, without values: what it lacks is not common.
    """
    models = [f"{run.label}:{name}" for run in runs for name in (BASE, *(arm.method for arm in run.arms))]
    values: dict[Metric, Values] = {}
    excluded: dict[Metric, set[Key]] = {}
    for run in runs:
        for item in run.items:
            if item.metric not in KNOWN:
                raise ConfigError(f"run {run.run.record}: the metric {item.metric!r} is unknown; evaluate the run anew")
            metric = KNOWN[item.metric]
            key = item.task, item.capability, item.id
            of = values.setdefault(metric, {model: {} for model in models})
            lost = excluded.setdefault(metric, set())
            if item.excluded:
                lost.add(key)
            by_run = of.setdefault(f"{run.label}:{item.model}", {}).setdefault(item.run, {})
            if math.isfinite(item.value):
                by_run[key] = item.value
    ordered = [metric for metric in dict.fromkeys(KNOWN.values()) if metric in values]
    return {metric: values[metric] for metric in ordered}, excluded


def _shared(values: Values, excluded: set[Key]) -> list[Key]:
    """Items of every model and training run that are not excluded, in the first one's order."""
    every = [each for by_run in values.values() for each in (by_run.values() or [{}])]
    return [key for key in every[0] if key not in excluded and all(key in each for each in every)]


def _tasks(keys: Sequence[Key], order: Sequence[str]) -> tuple[dict[tuple[str, str], list[Key]], int]:
    """(task, capability) -> its items, capabilities in the order of all tables; and how many were alone in theirs."""
    tasks: dict[tuple[str, str], list[Key]] = {}
    for key in keys:
        tasks.setdefault(key[:2], []).append(key)
    ordered = sorted(tasks, key=lambda task: order.index(task[1]))
    return {task: tasks[task] for task in ordered if len(tasks[task]) > 1}, sum(len(x) == 1 for x in tasks.values())


def _scores(tasks: Mapping[tuple[str, str], Sequence[Key]], by_run: Mapping[int, Mapping[Key, float]]) -> dict:
    """As the evaluation names its tasks: held-out losses by capability, a task with several capabilities by both."""
    named = [task for task, _ in tasks]
    scores = {}
    for (task, capability), keys in tasks.items():
        name = task if named.count(task) == 1 else f"{task}, {capability}"
        name = capability if task == HELD_OUT else name
        seeds = [{item: by_run[run][task, capability, item] for _, _, item in keys} for run in sorted(by_run)]
        scores[name] = TaskScores.of(name, capability, seeds)
    return scores


def _bases(
    runs: Sequence[RunData], values: Mapping[Metric, Values], shared: Mapping[Metric, Sequence[Key]]
) -> tuple[dict[str, str], list[str]]:
    """Name in the tables -> label of the values: one base where all runs have the same, else one of each run."""
    own = [f"{run.label}:{BASE}" for run in runs]
    keys = {run.files[run.run.config["model"]] for run in runs}
    if len(keys) > 1:
        return {name: name for name in own}, ["The runs start from different base models, so each is compared."]
    first, *others = own
    apart = [
        metric.name
        for metric, of in values.items()
        if any(of[other][0][key] != of[first][0][key] for other in others for key in shared[metric])
    ]
    if apart:
        note = (
            f"The base model is the same, but its values of {', '.join(apart)} are not: the runs were evaluated in "
            "different ways, and differences between their arms may come from that."
        )
        return {name: name for name in own}, [note]
    return {BASE: first}, []
