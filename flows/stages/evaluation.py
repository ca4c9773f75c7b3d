"""Evaluation as a stage: task scores on vLLM and held-out losses of every model, over the same items, with intervals.

Items that overlap a target or a training row are excluded for all models and listed. A killed stage goes on at the next
task, and at the next model's held-out losses.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.sources import pinned, read_targets
from eval import leakage, parts
from eval.adapters import check_fit
from eval.compare import BASE, LATEST, RANDOM, Scores, compare
from eval.errors import EvaluationError
from eval.harness import run_evaluation
from eval.items import read_items
from eval.request import EngineSettings, EvaluationRequest, EvaluationResponse, ItemResult, ModelToEvaluate
from eval.results import check_measured, left_out, metric_of, task_scores
from eval.statistics import StatisticsError, TaskScores
from eval.tables import Comparison, Metric
from eval.tasks import folder_files
from flows.config import ConfigError, RunConfig
from flows.process import show
from flows.stages.data import external_digest
from flows.stages.guard import read_texts, scoring, without_leaked
from flows.stages.held_out import (
    HELD_OUT,
    Spread,
    comparable_units,
    held_out,
    held_out_records,
    held_out_scores,
    skipped_note,
)
from flows.store import StageOutput, StageStore

RESULTS, ITEMS, ENGINE, LEAKS, EXCLUDED = (
    "results.json",
    "items.parquet",
    "engine.json",
    "leaks.parquet",
    "excluded.json",
)
ITEM_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("run", pa.int32()),
        ("task", pa.string()),
        ("capability", pa.string()),
        ("id", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("excluded", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class EvaluatedModel:
    """One training run of a model, by the name it has in the tables.

    path: a whole model; adapter: a LoRA adapter for it; merged: both as one; key: hash of the content; run: which of
    the model's training runs (seeds) it is, from 0.
    """

    name: str
    path: str
    key: str
    adapter: str | None = None
    merged: str | None = None
    run: int = 0

    @property
    def run_name(self) -> str:
        return f"{self.name}, run {self.run + 1}" if self.run else self.name


def evaluated_models(config: RunConfig, models: Mapping[str, Sequence[str]]) -> list[EvaluatedModel]:
    """The base model and every training run of the others. Raises `ConfigError` for a folder that holds no model, or an
    adapter of another base."""
    found = [EvaluatedModel(BASE, config.model, external_digest(config.model))]
    for name, folders in models.items():
        found += [_model(config, name, run, Path(folder)) for run, folder in enumerate(folders)]
    return found


def _model(config: RunConfig, name: str, run: int, folder: Path) -> EvaluatedModel:
    if name == BASE:
        raise ConfigError(f"--model {name}: that name is the base model's own; choose another")
    if (folder / "merged").is_dir() and (folder / "adapter").is_dir():
        adapter, merged = folder / "adapter", folder / "merged"
        return EvaluatedModel(name, config.model, external_digest(str(merged)), str(adapter), str(merged), run)
    if (folder / "config.json").is_file():
        return EvaluatedModel(name, str(folder), external_digest(str(folder)), run=run)
    if (folder / "adapter_config.json").is_file():
        try:
            check_fit(ModelToEvaluate(name=name, path=config.model, adapter=str(folder)))
        except EvaluationError as error:
            raise ConfigError(str(error)) from error
        return EvaluatedModel(name, config.model, external_digest(str(folder)), adapter=str(folder), run=run)
    raise ConfigError(f"model {name}: {folder} has neither config.json nor adapter_config.json, so it is no model")


def evaluate(
    config: RunConfig, store: StageStore, models: Sequence[EvaluatedModel], datasets: Mapping[str, str]
) -> StageOutput:
    """Comparison of all models with base and, where there are any, latest and random as controls. datasets: name ->
    exported folder that models were trained on."""
    settings = config.evaluation

    def build(folder: Path) -> None:
        known = _known_texts(config, store, datasets)
        scored: list[tuple[Metric, Scores]] = []
        records: list[dict] = []
        leaks: list[leakage.Leak] = []
        skipped: dict[str, str] = {}
        notes: list[str] = []
        if len(models) > 1 and not datasets:
            notes.append(
                "No dataset was named, so items were compared with the targets only, not with what was trained on"
            )
        if settings.items:
            items = read_items(settings.items)
            leaks += leakage.find_leaks([leakage.ScoredText(HELD_OUT, i.id, i.prompt) for i in items], known)
            with _measuring(config) as spread:
                losses, skipped = held_out(config, models, items, folder / HELD_OUT, *spread)
            leaked = {leak.item_id for leak in leaks}
            units, told = comparable_units(losses)
            notes += [*told, *skipped_note(skipped, len(items))]
            notes += left_out((f"held-out {i.capability}", i.id in leaked or i.id in skipped) for i in items)
            scored += held_out_scores(models, losses, leaked, units)
            records += held_out_records(models, losses, leaked, units)
        if settings.tasks:
            response = _tasks(config, models, folder)
            check_measured(response)
            texts = {(i.task, i.item_id): leakage.ScoredText(i.task, i.item_id, i.prompt or "") for i in response.items}
            found = leakage.find_leaks(list(texts.values()), known)
            excluded = {(leak.task, leak.item_id) for leak in found}
            leaks += found
            runs = {m.run_name: (m.name, m.run) for m in models}
            order = list(dict.fromkeys(item.capability for item in items)) if settings.items else []
            scored += [(metric, _in_order(scores, order)) for metric, scores in task_scores(response, runs, excluded)]
            records += _task_records(response, runs, excluded)
            first = [item for item in response.items if item.model == models[0].run_name]
            notes += left_out((_task_name(i), (i.task, i.item_id) in excluded) for i in first)
            notes += response.notes
            (folder / ENGINE).write_text(json.dumps({**response.engine.model_dump(), "notes": notes}, indent=1))
        names = {m.name for m in models}
        controls = [name for name in (BASE, LATEST, RANDOM) if name in names and len(names) > 1]
        (folder / EXCLUDED).write_text(json.dumps(skipped, indent=1))
        leakage.write_leaks(folder / LEAKS, leaks)
        if not scored:
            raise StatisticsError(
                f"no item is left to score: {'; '.join(notes)}. What they overlap is in {folder / LEAKS}; use others"
            )
        comparison = compare(scored, controls, resamples=settings.resamples, seed=config.seed, notes=notes)
        (folder / RESULTS).write_text(comparison.model_dump_json(indent=1))
        pq.write_table(pa.Table.from_pylist(records, schema=ITEM_SCHEMA), folder / ITEMS)
        shutil.rmtree(folder / HELD_OUT, ignore_errors=True)  # they are in the table
        for finished in (folder / "engine").rglob(parts.FOLDER):
            shutil.rmtree(finished, ignore_errors=True)

    task_files = {}
    if settings.task_folder:
        data = folder_files(settings.tasks, settings.task_folder)
        task_files = {"tasks": external_digest(str(settings.task_folder))}
        task_files |= {f"task-data-{k}": external_digest(str(path)) for k, path in enumerate(data)}
    targets = {f"targets-{k}": external_digest(spec.path) for k, spec in enumerate(config.data.targets)}
    return store.run(
        "evaluate",
        build,
        params={
            "models": [(m.name, m.run) for m in models],
            "settings": settings.model_dump(mode="json", exclude={"python", "task_folder", "items"}),
            "seed": config.seed,
            "max_length": config.max_length,
            "targets": [spec.model_dump(mode="json") for spec in config.data.targets],
        },
        inputs={
            **{f"model-{m.name}-{m.run}": m.key for m in models},
            **{f"items-{k}": external_digest(str(path)) for k, path in enumerate(settings.items)},
            **{f"dataset-{name}": external_digest(folder) for name, folder in datasets.items()},
            **targets,
            **task_files,
        },
        code=[
            *("train/encoding.py", "train/losses.py", "train/models.py", "train/process.py", "train/rendering.py"),
            *("curate/cleaning", "curate/local_or_hub.py", "curate/records.py", "curate/sources"),
            *("eval", "flows/stages/evaluation.py", "flows/stages/guard.py", "flows/stages/held_out.py"),
        ],
        resumable=True,  # finished parts are found again
    )


def read_results(folder: Path) -> Comparison:
    return Comparison.model_validate_json((folder / RESULTS).read_text())


def _known_texts(config: RunConfig, store: StageStore, datasets: Mapping[str, str]) -> list[leakage.KnownText]:
    """What steered and what trained, turn by turn; of targets the questions, of training rows all that was said. Raises
    `ConfigError` for a folder that is no dataset: the guard would guard nothing."""
    targets, _ = read_targets(map(pinned, config.data.targets), max_rejected=config.data.max_rejected)
    if config.evaluation.leaks == "drop_targets":
        targets, _ = without_leaked(targets, read_texts(scoring(config, store)))
    known = [leakage.KnownText("target", each.id, turn) for each in targets for turn in each.user_turns()]
    trained: dict[leakage.KnownText, None] = {}  # datasets share rows, and strangers may share ids
    for name, folder in datasets.items():
        files = sorted((Path(folder) / "data").glob("*.parquet"))
        if not files:
            raise ConfigError(f"dataset {name}: {folder} has no data/*.parquet, so it is no exported dataset")
        for path in files:
            for row in pq.read_table(path, columns=["id", "messages"]).to_pylist():
                turns = [leakage.KnownText("training row", row["id"], turn["content"]) for turn in row["messages"]]
                trained |= dict.fromkeys(turns)
    return [*known, *trained]


def _tasks(config: RunConfig, models: Sequence[EvaluatedModel], folder: Path) -> EvaluationResponse:
    settings = config.evaluation
    server = settings.backend == "server"
    request = EvaluationRequest(
        models=tuple(
            ModelToEvaluate(
                name=m.run_name,
                path=m.path,
                adapter=m.adapter,
                merged=m.merged,
                served=_served(config, m) if server else None,
            )
            for m in models
        ),
        tasks=tuple(dict.fromkeys(settings.tasks)),
        task_folder=str(settings.task_folder) if settings.task_folder else None,
        limit=settings.limit,
        engine=EngineSettings(
            backend=settings.backend,
            url=settings.url,
            adapters=settings.adapters,
            overflow=settings.overflow,
            dtype=settings.dtype,
            max_model_len=settings.max_model_len or config.max_length,
        ),
        seed=config.seed,
        run_code=settings.run_code,
        sandbox=settings.sandbox,
    )
    python = str(settings.python or sys.executable)
    if config.execution.engine == "local" or server:  # a server computes elsewhere already
        return run_evaluation(request, folder / "engine", python=python, on_line=show)
    from flows.cluster.evaluation import score_on_cluster
    from flows.cluster.executor import RayExecutor

    with RayExecutor(config.execution, config.execution.requests.evaluation) as executor:
        return score_on_cluster(executor, request, folder / "engine", python, show)


@contextlib.contextmanager
def _measuring(config: RunConfig) -> Iterator[tuple[Spread, ...]]:
    """How held-out losses are spread; nothing where this process computes them."""
    if config.execution.engine == "local":
        yield ()
        return
    from flows.cluster.evaluation import measure_on_cluster
    from flows.cluster.executor import RayExecutor

    with RayExecutor(config.execution, config.execution.requests.evaluation) as executor:
        yield (partial(measure_on_cluster, executor),)


def _served(config: RunConfig, model: EvaluatedModel) -> str:
    """What the server calls a model: the name that was given, else its own."""
    names = config.evaluation.served.get(model.name, [model.name])
    if model.run >= len(names):
        raise ConfigError(
            f"evaluation.served.{model.name} names {len(names)} model(s), but there are more training runs of it"
        )
    return names[model.run]


def _in_order(scores: Mapping[str, Mapping[str, TaskScores]], order: Sequence[str]) -> Scores:
    """Tasks by capability in the order of the first table, so that all tables read alike."""
    place = {capability: number for number, capability in enumerate(order)}
    return {
        model: dict(sorted(tasks.items(), key=lambda task: place.get(task[1].capability, len(place))))
        for model, tasks in scores.items()
    }


def _task_name(item: ItemResult) -> str:
    return item.task if item.capability in (None, item.task) else f"{item.task} ({item.capability})"


def _task_records(
    response: EvaluationResponse, runs: Mapping[str, tuple[str, int]], excluded: set[tuple[str, str]]
) -> list[dict]:
    """The metric that the tables show of every item; all of them are in the engine's response."""
    return [
        {
            "model": runs[item.model][0],
            "run": runs[item.model][1],
            "task": item.task,
            "capability": item.capability or item.task,
            "id": item.item_id,
            "metric": name,
            "value": item.metrics[name],
            "excluded": (item.task, item.item_id) in excluded,
        }
        for item in response.items
        if (name := metric_of(item)) is not None
    ]
