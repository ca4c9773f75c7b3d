"""The Prefect flows: `curate`, `finetune`, `evaluate`, and `pipeline`, which joins them. Each can be deployed and run
alone.

One task per stage, never per row; tasks pass paths and keys, never tensors. What may be skipped is decided by the
stage store (content keys), not by Prefect's cache, whose keys go stale when a file changes under the same path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow

from curate.selection.inputs import INPUTS
from flows import artifacts
from flows.config import RunConfig
from flows.naming import FINETUNE, seed_names
from flows.nightly.warmup import keep_warmup as kept_warmup
from flows.report.page import REPORT_FILE, report
from flows.runs import write_run
from flows.stage_run import run_stage
from flows.stages.analysis import analyse
from flows.stages.data import clean, external_digest, ingest
from flows.stages.encoding import encode
from flows.stages.evaluation import evaluate, evaluated_models
from flows.stages.export import DATASET, export
from flows.stages.figures import figures
from flows.stages.guard import guard
from flows.stages.influence import attribution, gradients, warmup
from flows.stages.selection import select
from flows.stages.similarity import similarity
from flows.stages.training import finetune
from flows.store import StageOutput


@dataclass(frozen=True)
class Curated:
    """What `curate` leaves: every stage's output by name (`select-bids`, `export-bids`, ...) and the dataset folder
    per method."""

    stages: dict[str, StageOutput]
    datasets: dict[str, str]


@dataclass(frozen=True)
class PipelineResult:
    """What `pipeline` leaves: all stages in order, the datasets, the adapters, the evaluation, the report and the run's
    record."""

    stages: dict[str, StageOutput]
    datasets: dict[str, str]
    adapters: dict[str, str]
    results: str
    report: str
    run: str


@flow(name="curate", flow_run_name="curate-{config.name}")
def curate_flow(config: RunConfig, keep_warmup: bool = False) -> Curated:
    """Sources in, one exported dataset per selection method out.

    keep_warmup: use the warmup of earlier nightly runs of this name while it fits, instead of one of this pool.
    """
    store = config.open_store()
    stages: dict[str, StageOutput] = {}

    def stage(name: str, work: Callable[..., StageOutput], *args: Any) -> StageOutput:
        stages[name] = run_stage(name, work, config, store, *args)
        return stages[name]

    ingested = stage("ingest", ingest)
    stage("guard", guard, ingested)
    cleaned = stage("clean", clean, ingested)
    encoded = stage("encode", encode, ingested, cleaned)
    warmed = stage("warmup", kept_warmup if keep_warmup else warmup, encoded)
    gradient = stage("gradients", gradients, encoded, warmed)
    matrix = stage("attribution", attribution, ingested, encoded, gradient)
    scores: dict[str, StageOutput] = {"influence": matrix}
    scored, selected, datasets = {}, {}, {}
    for method in config.selection.methods:
        kind = INPUTS[method]
        if kind not in scores:
            scores[kind] = stage(f"similarity-{kind}", similarity, kind, ingested, cleaned, encoded, warmed)
        scored[method] = scores[kind]
        selected[method] = stage(f"select-{method}", select, method, cleaned, encoded, scored[method])
        exported = stage(
            f"export-{method}", export, method, ingested, cleaned, encoded, scored[method], selected[method]
        )
        datasets[method] = str(exported.path / DATASET)
    stage("analysis", analyse, config.selection.methods, cleaned, encoded, scored, selected)
    stage("figures", figures, cleaned, encoded, warmed, selected)
    artifacts.curation(config, stages)
    return Curated(stages, datasets)


@flow(name="finetune", flow_run_name="finetune-{config.name}")
def finetune_flow(config: RunConfig, datasets: dict[str, str]) -> dict[str, StageOutput]:
    """One adapter per dataset folder (name -> folder) and training seed, all with the same budget and steps.

    Outputs go by `seed_names`.
    """
    store = config.open_store()
    tuned, seeds = {}, config.training_seeds()
    names = {dataset: seed_names(dataset, seeds) for dataset in datasets}
    for number, seed in enumerate(seeds):
        for dataset, folder in datasets.items():
            name = names[dataset][number]
            work = (finetune, config, store, dataset, Path(folder), external_digest(folder), seed)
            tuned[name] = run_stage(FINETUNE + name, *work)
            artifacts.training(config, name, tuned[name])
    return tuned


@flow(name="evaluate", flow_run_name="evaluate-{config.name}")
def evaluate_flow(
    config: RunConfig, models: dict[str, list[str]], datasets: dict[str, str] | None = None
) -> StageOutput:
    """Task scores and held-out losses of the base model and of every model (name -> folders, one per training seed).

    A folder holds a whole model, an adapter of the base model, or both as `finetune` leaves them. datasets: the
    exported folders that the models were trained on, whose overlap with the items is excluded.
    """
    candidates = evaluated_models(config, models)
    output = run_stage("evaluate", evaluate, config, config.open_store(), candidates, datasets or {})
    artifacts.evaluation(config, output)
    return output


@flow(name="pipeline", flow_run_name="{config.name}")
def pipeline_flow(
    config: RunConfig,
    keep_warmup: bool = False,
    rivals: dict[str, list[str]] | None = None,
    rival_datasets: dict[str, str] | None = None,
) -> PipelineResult:
    """Curate, fine-tune on every selection, evaluate, report.

    keep_warmup: as `curate` takes it; rivals, rival_datasets: further models for `evaluate` and what they were trained
    on, left out where they are what this run has trained itself.
    """
    curated = curate_flow(config, keep_warmup)
    tuned = finetune_flow(config, curated.datasets)
    seeds = config.training_seeds()
    models = {method: [str(tuned[name].path) for name in seed_names(method, seeds)] for method in curated.datasets}
    others = {name: folders for name, folders in (rivals or {}).items() if folders not in models.values()}
    trained = {name: folder for name, folder in (rival_datasets or {}).items() if name in others}
    evaluated = evaluate_flow(config, models | others, curated.datasets | trained)
    stages = curated.stages | {FINETUNE + name: output for name, output in tuned.items()} | {"evaluate": evaluated}
    page = run_stage("report", report, config, config.open_store(), stages)
    stages["report"] = page
    artifacts.overview(config, stages)
    artifacts.report_link(config, page)
    artifacts.stages(config, stages)
    return PipelineResult(
        stages=stages,
        datasets=curated.datasets,
        adapters={name: str(output.path / "adapter") for name, output in tuned.items()},
        results=str(evaluated.path / "results.json"),
        report=str(page.path / REPORT_FILE),
        run=str(write_run(config, stages) or ""),
    )
