"""What differs between runs: the whole comparison, from what was read of each to frozen values.

Only what differs is told of the configuration, since what two runs share explains nothing; but files, code and library
versions are looked at too, for they can differ under equal settings. Cost: reading the runs, and the bootstrap.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.comparison.read import ArmData, RunData, SeedLog, find_runs, read_runs
from flows.comparison.scores import compare_scores
from flows.comparison.selection import changes, measured, overlaps, selected_arms
from flows.comparison.values import ComparedRun, RunComparison, Setting, Training
from train.step_log import totals

NOT_SETTINGS = {"name", "store", "store_cache"}
TENTH = 10  # losses are means over this part of the steps, at the beginning and at the end


def compare_runs(references: Sequence[str], store: str | Path, *, control: str | None = None) -> RunComparison:
    """Compare finished runs; `references` as `flows.runs.find_run` takes them, one run alone by its arms.

    Raises `ConfigError` for an unknown run or control, for one whose output is gone, and where there is only one arm.
    """
    return comparison_of(read_runs(find_runs(references, store)), control)


def comparison_of(runs: Sequence[RunData], control: str | None = None) -> RunComparison:
    """The comparison of runs that were read."""
    results = compare_scores(runs, control)
    alone = [f"One run was given, so its {len(runs[0].arms)} arms are compared with each other."] * (len(runs) == 1)
    return RunComparison(
        runs=tuple(
            ComparedRun(
                label=run.label,
                name=run.run.name,
                finished=run.run.finished,
                record=str(run.run.record),
                model=run.run.config["model"],
                pool=len(run.sources),
                seconds=sum(output.seconds for output in run.run.stages.values()),
            )
            for run in runs
        ),
        notes=(*alone, *_notes(runs), *results.notes),
        settings=tuple(settings([run.run.config for run in runs])),
        arms=tuple(selected_arms(runs)),
        measured=tuple(measured(runs)),
        overlaps=tuple(overlaps(runs)),
        changes=tuple(changes(runs)),
        training=tuple(_training(arm, log) for run in runs for arm in run.arms for log in arm.training),
        items=tuple(results.items),
        results=results.comparison,
    )


def settings(configs: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """The keys in which configurations differ, in the order they come in."""
    flat = [dict(_flat(config)) for config in configs]
    keys = dict.fromkeys(key for each in flat for key in each if key not in NOT_SETTINGS)
    absent = object()
    return [
        Setting(key=key, values=tuple(_text(each[key]) if key in each else None for each in flat))
        for key in keys
        if any(each.get(key, absent) != flat[0].get(key, absent) for each in flat)
    ]


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and plain value; a list of mappings by position, any other list as one value."""
    inside: Iterator[tuple[Any, Any]] | None = None
    if isinstance(value, Mapping) and value:
        inside = iter(value.items())
    elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        inside = iter(enumerate(value))
    if inside is None:
        yield key, value
        return
    for name, each in inside:
        yield from _flat(each, f"{key}.{name}" if key else str(name))


def _text(value: Any) -> str:
    """As JSON; a string without its quotes, unless it would then read as something else."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    try:
        json.loads(value)
    except ValueError:
        return value
    return json.dumps(value, ensure_ascii=False)


def _notes(runs: Sequence[RunData]) -> list[str]:
    """What can differ under equal settings: the content of files, the code, the libraries, the ids of the pool."""
    notes = []
    files = _differing([run.files for run in runs])
    if files:
        notes.append(f"Under the same path the runs read different content: {', '.join(files)}.")
    if code := _differing([run.code for run in runs]):
        notes.append(f"The runs were made by different versions of the code of {', '.join(code)}.")
    for name in _differing([run.versions for run in runs]):
        notes.append(f"{name}: {', '.join(f'{run.versions[name]} in {run.label}' for run in runs)}.")
    measured_on = [run.figures["sizes"] for run in runs if run.figures]
    if measured_on and _differing(measured_on):
        notes.append("The runs measured diversity on samples of different sizes, which alone makes its figures differ.")
    pools = [run.sources.keys() for run in runs]
    common = set(pools[0]).intersection(*pools[1:])
    if any(len(pool) != len(common) for pool in pools):
        sizes = ", ".join(f"{len(pool):,} in {run.label}" for pool, run in zip(pools, runs, strict=True))
        notes.append(f"The cleaned pools differ: {len(common):,} rows are in all of them; {sizes}.")
    if _pool_paths(runs).intersection(files):
        notes.append("Rows are matched by id; in pools that differ, the same id may hold another text.")
    return notes


def _pool_paths(runs: Sequence[RunData]) -> set[str]:
    return {spec["path"] for run in runs for spec in run.run.config["data"]["pool"]}


def _differing(each: Sequence[Mapping[str, str]]) -> list[str]:
    """Names that all runs know and that do not mean the same in all."""
    shared = [name for name in each[0] if all(name in one for one in each)]
    return [name for name in shared if len({one[name] for one in each}) > 1]


def _training(arm: ArmData, log: SeedLog) -> Training:
    rows = sum(totals(log.steps, "selected").values())
    part = max(1, math.ceil(len(log.steps) / TENTH))
    return Training(
        label=arm.label,
        seed=log.seed,
        steps=len(log.steps),
        rows=rows,
        tokens=sum(totals(log.steps, "trained_tokens").values()),
        passes=rows / len(arm.rows) if arm.rows else 0.0,
        first_loss=_mean_loss(log.steps[:part]),
        last_loss=_mean_loss(log.steps[-part:]),
        seconds=log.seconds,
    )


def _mean_loss(steps: Sequence[Mapping[str, Any]]) -> float | None:
    """Per row: a step's log has the mean of every domain and how many rows of it were trained on."""
    total, rows = 0.0, Counter[str]()
    for step in steps:
        for domain, loss in step["loss"].items():
            count = step["selected"][domain]
            total += loss * count
            rows[domain] += count
    return total / rows.total() if rows else None
