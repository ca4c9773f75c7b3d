"""Evaluation as a stage: task scores on vLLM and held-out losses of every model, over the same items, with
intervals."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from eval.compare import ACCURACY, BITS_PER_BYTE, EXACT_MATCH, Comparison, accuracy_scores, compare
from eval.harness import run_evaluation
from eval.heldout import bits_by_capability, encode_held_out, held_out_losses
from eval.items import read_items
from eval.request import EngineSettings, EvaluationRequest, EvaluationResponse, ModelToEvaluate
from flows.config import RunConfig
from flows.process import show
from flows.stages.data import external_digest
from flows.store import StageOutput, StageStore
from train.models import load_base, load_tokenizer

BASE = "base"
RANDOM = "random"
RESULTS, ITEMS, ENGINE = "results.json", "items.parquet", "engine.json"
ITEM_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("task", pa.string()),
        ("capability", pa.string()),
        ("id", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
    ]
)


@dataclass(frozen=True)
class EvaluatedModel:
    """A whole (merged) model folder or hub id, by the name it has in the tables; `key`: hash of its content."""

    name: str
    path: str
    key: str


def evaluate(config: RunConfig, store: StageStore, models: Sequence[EvaluatedModel]) -> StageOutput:
    """Comparison of all models with base and, where there is one, random as controls."""
    settings = config.evaluation

    def build(folder: Path) -> None:
        scores: list = []
        records: list[dict] = []
        skipped: dict[str, str] = {}
        if settings.items:
            bits, skipped = _held_out(config, models)
            scores.append((BITS_PER_BYTE, bits))
            records += _records("held_out", "bits_per_byte", bits)
        if settings.tasks:
            response = _tasks(config, models, folder)
            order = list(scores[0][1][models[0].name]) if scores else []
            for metric, key in ((ACCURACY, "acc"), (EXACT_MATCH, "exact_match")):
                found = accuracy_scores(response, key)
                if found:
                    ordered = {name: _ordered(values, order) for name, values in found.items()}
                    scores.append((metric, ordered))
                    records += _records("tasks", key, ordered)
            (folder / ENGINE).write_text(response.engine.model_dump_json(indent=1))
        controls = [name for name in (BASE, RANDOM) if name in {m.name for m in models} and len(models) > 1]
        comparison = compare(scores, controls, resamples=settings.resamples, seed=config.seed)
        (folder / RESULTS).write_text(comparison.model_dump_json(indent=1))
        (folder / "excluded.json").write_text(json.dumps(skipped, indent=1))
        pq.write_table(pa.Table.from_pylist(records, schema=ITEM_SCHEMA), folder / ITEMS)

    task_files = {"tasks": external_digest(str(settings.task_folder))} if settings.task_folder else {}
    return store.run(
        "evaluate",
        build,
        params={
            "models": [m.name for m in models],
            "settings": settings.model_dump(mode="json", exclude={"python", "task_folder", "items"}),
            "seed": config.seed,
            "max_length": config.max_length,
        },
        inputs={
            **{f"model-{m.name}": m.key for m in models},
            **{f"items-{k}": external_digest(str(path)) for k, path in enumerate(settings.items)},
            **task_files,
        },
        code=["train/encoding.py", "train/losses.py", "train/models.py", "eval", "flows/stages/evaluation.py"],
    )


def read_results(folder: Path) -> Comparison:
    return Comparison.model_validate_json((folder / RESULTS).read_text())


def _held_out(config: RunConfig, models: Sequence[EvaluatedModel]) -> tuple[dict, dict[str, str]]:
    items = [
        {"id": item.id, "capability": item.capability, "messages": item.messages()}
        for item in read_items(config.evaluation.items)
    ]
    tokenizer = load_tokenizer(config.model)
    rows, skipped = encode_held_out(items, tokenizer, config.max_length)
    bits = {}
    for model in models:
        losses = held_out_losses(load_base(model.path), rows, tokenizer.pad_token_id)
        bits[model.name] = bits_by_capability(losses)
    return bits, dict(skipped)


def _tasks(config: RunConfig, models: Sequence[EvaluatedModel], folder: Path) -> EvaluationResponse:
    settings = config.evaluation
    request = EvaluationRequest(
        models=tuple(ModelToEvaluate(name=m.name, path=m.path) for m in models),
        tasks=tuple(settings.tasks),
        task_folder=str(settings.task_folder) if settings.task_folder else None,
        limit=settings.limit,
        engine=EngineSettings(backend=settings.backend, max_model_len=settings.max_model_len or config.max_length),
        seed=config.seed,
    )
    return run_evaluation(request, folder / "engine", python=str(settings.python or sys.executable), on_line=show)


def _ordered(by_capability: dict, order: Sequence[str]) -> dict:
    """Capabilities in the order of the first table, so that all tables read alike."""
    names = [name for name in order if name in by_capability] + [name for name in by_capability if name not in order]
    return {name: by_capability[name] for name in names}


def _records(task: str, metric: str, scores: dict) -> list[dict]:
    return [
        {"model": model, "task": task, "capability": capability, "id": item, "metric": metric, "value": value}
        for model, by_capability in scores.items()
        for capability, values in by_capability.items()
        for item, value in values.items()
    ]
