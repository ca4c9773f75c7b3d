"""What is read of each run: its selections, pool, training logs and scored items, from the stages' own files.

Nothing is computed again and no model is loaded, so a comparison needs the tables of a store only, not its gradients or
weights. Memory: ids and sources of every pool, and all item values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.scores import ROWS
from curate.selection.inputs import INPUTS
from flows.comparison.values import RowOf
from flows.config import ConfigError
from flows.naming import FINETUNE, seed_names
from flows.runs import Run, find_run
from flows.stages.data import POOL
from flows.stages.evaluation import ITEM_SCHEMA, ITEMS
from flows.stages.figures import read_figures
from flows.stages.selection import SELECTION
from flows.store import MANIFEST
from train.settings import MIXTURE_LOG

REMEDY = "run its configuration again: what is still in the store is not computed anew"


@dataclass(frozen=True)
class ScoredItem:
    """One value of `items.parquet`; model: `base` or a method; run: number of the training seed."""

    model: str
    run: int
    task: str
    capability: str
    id: str
    metric: str
    value: float
    excluded: bool


@dataclass(frozen=True, eq=False)
class SeedLog:
    """A training run's step log and its wall time."""

    seed: int
    steps: list[dict[str, Any]]
    seconds: float


@dataclass(frozen=True, eq=False)
class ArmData:
    """One method of one run. label: `run:method`; rows: by rank; eligible: ids of the rows it could select from."""

    label: str
    method: str
    rows: list[RowOf]
    eligible: frozenset[str]
    training: list[SeedLog]


@dataclass(frozen=True, eq=False)
class RunData:
    """All that a comparison looks at. sources: id -> source of the cleaned pool; tokens: id -> length, None where the
    encoding is gone; figures: `figures.json`, empty where the run has none; files: path of what was read -> content
    key; code: stage -> key of its code; versions: of the libraries, at the evaluation."""

    label: str
    run: Run
    arms: list[ArmData]
    sources: dict[str, str]
    tokens: dict[str, int] | None
    figures: dict[str, Any]
    files: dict[str, str]
    code: dict[str, str]
    versions: dict[str, str]
    items: list[ScoredItem]


def find_runs(references: Sequence[str], store: str | Path) -> list[Run]:
    """The runs to compare. Raises `ConfigError` for an unknown one, and where there is nothing to compare."""
    runs = [find_run(reference, store) for reference in references]
    for run in runs:
        run.fetch()
    if len(runs) == 1 and len(runs[0].config["selection"]["methods"]) < 2:
        raise ConfigError(
            f"run {runs[0].record} has one arm, so there is nothing to compare it with; name another run, or run it "
            "with several selection.methods"
        )
    return runs


def labels(runs: Sequence[Run]) -> list[str]:
    """A name per run: its own, with its time where two share one, and a number where they share that too."""
    names = [run.name for run in runs]
    timed = [f"{run.name}@{run.record.stem}" if names.count(run.name) > 1 else run.name for run in runs]
    return [
        f"{label}#{timed[:k].count(label) + 1}" if timed.count(label) > 1 else label for k, label in enumerate(timed)
    ]


def read_runs(runs: Sequence[Run]) -> list[RunData]:
    """Raises `ConfigError` with the remedy when a file of a run is gone, or was written by another version."""
    return [_read_run(label, run) for label, run in zip(labels(runs), runs, strict=True)]


def _read_run(label: str, run: Run) -> RunData:
    try:
        evaluated = run.stage("evaluate")
        pool = pq.read_table(run.stage("clean") / POOL, columns=["id", "source"]).to_pydict()
        eligible: dict[str, frozenset[str]] = {}
        arms = []
        for method in run.config["selection"]["methods"]:
            kind = INPUTS[method]
            scored = "attribution" if kind == "influence" else f"similarity-{kind}"
            if scored not in eligible:
                eligible[scored] = frozenset(pq.read_table(run.stage(scored) / ROWS, columns=["id"])["id"].to_pylist())
            arms.append(
                ArmData(
                    label=f"{label}:{method}",
                    method=method,
                    rows=_selected(run.stage(f"select-{method}")),
                    eligible=eligible[scored],
                    training=_training(run, method),
                )
            )
        manifests = {
            name: json.loads((output.path / MANIFEST).read_text(encoding="utf-8"))
            for name, output in run.stages.items()
            if (output.path / MANIFEST).is_file()
        }
        return RunData(
            label=label,
            run=run,
            arms=arms,
            sources=dict(zip(pool["id"], pool["source"], strict=True)),
            tokens=_tokens(run),
            figures=read_figures(run.stage("figures")) if "figures" in run.stages else {},
            files=_files(run.config, manifests),
            code={name: manifest["code"] for name, manifest in manifests.items() if name != "report"},
            versions=manifests["evaluate"]["versions"],
            items=_items(evaluated),
        )
    except ConfigError as error:
        raise ConfigError(f"{error}; {REMEDY}") from error
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise ConfigError(f"run {run.record} cannot be read: {error!r}; {REMEDY}") from error


def _selected(folder: Path) -> list[RowOf]:
    return [RowOf(**row) for row in pq.read_table(folder / SELECTION, columns=["id", "source", "task"]).to_pylist()]


def _tokens(run: Run) -> dict[str, int] | None:
    """Length of every encoded row; the lists themselves are never made into Python's."""
    if not run.stages["encode"].path.is_dir():
        return None
    table = pq.read_table(run.stages["encode"].path / POOL, columns=["id", "input_ids"])
    return dict(zip(table["id"].to_pylist(), pc.list_value_length(table["input_ids"]).to_pylist(), strict=True))


def _training(run: Run, method: str) -> list[SeedLog]:
    logs, seeds = [], run.config["finetune"]["seeds"] or [run.config["seed"]]
    for seed, name in zip(seeds, seed_names(FINETUNE + method, seeds), strict=True):
        lines = (run.stage(name) / MIXTURE_LOG).read_text(encoding="utf-8").splitlines()
        logs.append(SeedLog(seed, [json.loads(line) for line in lines], run.stages[name].seconds))
    return logs


def _items(folder: Path) -> list[ScoredItem]:
    table = pq.read_table(folder / ITEMS)
    if missing := [name for name in ITEM_SCHEMA.names if name not in table.column_names]:
        raise ConfigError(f"{folder / ITEMS} has no column {', '.join(missing)}: another version of Equipoise wrote it")
    return [ScoredItem(**row) for row in table.select(ITEM_SCHEMA.names).to_pylist()]


def _files(config: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Path -> content key, as the stages that read them wrote down."""
    read, scored = manifests["ingest"]["inputs"], manifests["evaluate"]["inputs"]
    evaluation = config["evaluation"]
    found = {spec["path"]: read[f"{k}"] for k, spec in enumerate([*config["data"]["pool"], *config["data"]["targets"]])}
    found |= {path: scored[f"items-{k}"] for k, path in enumerate(evaluation["items"])}
    if evaluation["task_folder"]:
        found[evaluation["task_folder"]] = scored["tasks"]
    return found | {config["model"]: scored["model-base-0"]}
