"""What the report shows, read from the stages' files; no drawing here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from curate.scores import COLUMNS, read_scores
from curate.selection.explain import SourceShare, source_shares
from eval.compare import Comparison
from flows.config import RunConfig
from flows.stages.data import AUDIT, POOL, REJECTED, REMOVED
from flows.stages.evaluation import ENGINE, read_results
from flows.stages.selection import ANALYSIS, SELECTION
from flows.store import StageOutput
from train.settings import MIXTURE_LOG


@dataclass(frozen=True)
class Arm:
    """One selection method: its shares, utilities by rank, winning tasks, balance figures, mixture log and loss
    curve."""

    name: str
    shares: list[SourceShare]
    utility: list[float]
    tasks: list[str | None]
    analysis: dict
    mixture: list[dict]
    losses: list[tuple[int, float]]


@dataclass(frozen=True)
class ReportData:
    """Everything on the page. influence: source -> task -> mean z-score of the source's rows."""

    config: RunConfig
    stages: Mapping[str, StageOutput]
    arms: list[Arm]
    influence: dict[str, dict[str, float]]
    comparison: Comparison
    engine: dict
    audit: dict
    rejected: list[dict]
    removed: list[dict]


def read_shares(clean: Path, selection: Path) -> list[SourceShare]:
    """Rows per source in the cleaned pool and in a selection."""
    pool = pq.read_table(clean / POOL, columns=["id", "source"]).to_pydict()
    chosen = set(pq.read_table(selection / SELECTION, columns=["id"])["id"].to_pylist())
    return source_shares(pool["source"], [i for i, row in enumerate(pool["id"]) if row in chosen])


def read_losses(folder: Path) -> list[tuple[int, float]]:
    """(optimizer step, mean loss since the last line) from a training log."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def read_mixture(folder: Path) -> list[dict]:
    """The mixture log of a training run, one record per optimizer step."""
    return [json.loads(line) for line in (folder / MIXTURE_LOG).read_text().splitlines()]


def read_influence(clean: Path, attribution: Path) -> dict[str, dict[str, float]]:
    """Mean z-score of every source's rows on every task's targets: which sources help what."""
    matrix = read_scores(attribution)
    pool = pq.read_table(clean / POOL, columns=["id", "source"]).to_pydict()
    source_of = dict(zip(pool["id"], pool["source"], strict=True))
    sources = np.array([source_of[row] for row in matrix.row_ids])
    columns = pq.read_table(attribution / COLUMNS)
    z = (np.asarray(matrix.values, dtype=np.float64) - columns["mean"].to_numpy()) / np.maximum(
        columns["std"].to_numpy(), 1e-12
    )
    labels = np.array(matrix.tasks)
    return {
        source: {
            task: float(z[np.ix_(sources == source, labels == task)].mean()) for task in dict.fromkeys(matrix.tasks)
        }
        for source in dict.fromkeys(pool["source"])
        if (sources == source).any()
    }


def read_report(config: RunConfig, stages: Mapping[str, StageOutput]) -> ReportData:
    """All of a finished run."""
    clean, selections = stages["clean"].path, {m: stages[f"select-{m}"].path for m in config.selection.methods}
    arms = []
    for method, folder in selections.items():
        table = pq.read_table(folder / SELECTION).to_pydict()
        tuned = stages[f"finetune-{method}"].path
        arms.append(
            Arm(
                name=method,
                shares=read_shares(clean, folder),
                utility=table["utility"],
                tasks=table["task"],
                analysis=json.loads((folder / ANALYSIS).read_text()),
                mixture=read_mixture(tuned),
                losses=read_losses(tuned),
            )
        )
    engine = stages["evaluate"].path / ENGINE
    return ReportData(
        config=config,
        stages=stages,
        arms=arms,
        influence=read_influence(clean, stages["attribution"].path),
        comparison=read_results(stages["evaluate"].path),
        engine=json.loads(engine.read_text()) if engine.exists() else {},
        audit=json.loads((stages["encode"].path / AUDIT).read_text()),
        rejected=pq.read_table(stages["ingest"].path / REJECTED).to_pylist(),
        removed=pq.read_table(clean / REMOVED).to_pylist(),
    )
