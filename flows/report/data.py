"""What the report shows, read from the stages' files; no drawing here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from curate.cleaning.steps import CLEANING
from curate.records import Example, Message
from curate.selection.explain import SourceShare, source_shares
from eval.leakage import Leak, read_leaks
from eval.tables import Comparison
from flows.config import RunConfig
from flows.naming import FINETUNE
from flows.report.browser import MAX_ROWS, by_rank
from flows.stages.analysis import ANALYSIS, confidence_file, neighbours_file
from flows.stages.data import POOL, REJECTED, REMOVED
from flows.stages.encoding import AUDIT
from flows.stages.evaluation import ENGINE, LEAKS, read_results
from flows.stages.figures import read_figures
from flows.stages.influence import TRUST
from flows.stages.selection import SELECTION
from flows.store import StageOutput
from train.settings import MIXTURE_LOG


@dataclass(frozen=True)
class Pick:
    """A selected row with its reasons. target, task, utility, share: None where the method has none; neighbours: (id,
    cosine) of the selected rows most like it, nearest first."""

    id: str
    source: str
    target: str | None
    task: str | None
    utility: float | None
    share: float | None
    neighbours: list[tuple[str, float]]


@dataclass(frozen=True, eq=False)
class Arm:
    """One selection method: its shares, winning tasks and picks by rank, what the analysis says, mixture log and loss
    curve. confidence: as `read_confidence` gives it."""

    name: str
    shares: list[SourceShare]
    tasks: list[str | None]
    picks: list[Pick]
    analysis: dict
    confidence: tuple[np.ndarray, np.ndarray] | None
    mixture: list[dict]
    losses: list[tuple[int, float]]


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything on the page. analysis: `analysis.json` of the run, with what holds for all methods; trust: what is
    known of the influence scores themselves; conversations: by id, those of the picks that the page may show; leaks:
    items that no model was scored on; cleaning: `cleaning.json`, what each filter removed and of whom;
    figures: `figures.json`, quality, diversity and complexity of pool and selections."""

    config: RunConfig
    stages: Mapping[str, StageOutput]
    arms: list[Arm]
    analysis: dict
    trust: dict
    comparison: Comparison
    engine: dict
    audit: dict
    rejected: list[dict]
    removed: list[dict]
    conversations: Mapping[str, Example] = field(default_factory=dict)
    leaks: list[Leak] = field(default_factory=list)
    cleaning: dict = field(default_factory=dict)
    figures: dict = field(default_factory=dict)


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


def read_analysis(folder: Path) -> dict:
    """`analysis.json` of the analysis stage, as plain values."""
    return json.loads((folder / ANALYSIS).read_text())


def read_confidence(analysis: Path, method: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(N,) share of resamples in which each scored row is chosen, and whether it is selected; None if nothing was
    drawn."""
    table = pq.read_table(analysis / confidence_file(method))
    if table["share"].null_count:
        return None
    return table["share"].to_numpy(), table["selected"].to_numpy()


def read_picks(selection: Path, analysis: Path, method: str) -> list[Pick]:
    """All picks by rank with their reasons."""
    shares = pq.read_table(analysis / confidence_file(method), columns=["id", "share"]).to_pydict()
    share_of = dict(zip(shares["id"], shares["share"], strict=True))
    near = {
        row["id"]: list(zip(row["neighbours"], row["similarity"], strict=True))
        for row in pq.read_table(analysis / neighbours_file(method)).to_pylist()
    }
    columns = ["id", "source", "target", "task", "utility"]
    rows = pq.read_table(selection / SELECTION, columns=columns).to_pylist()
    return [Pick(**row, share=share_of[row["id"]], neighbours=near.get(row["id"], [])) for row in rows]


def read_conversations(clean: Path, arms: Sequence[Arm]) -> dict[str, Example]:
    """The rows of the cleaned pool that the list of picks can show, by id; the rest of a large pool is not read."""
    wanted = list({pick.id: None for _, _, pick in islice(by_rank(arms), MAX_ROWS)})
    rows = pq.read_table(clean / POOL, filters=[("id", "in", wanted)]).to_pylist() if wanted else []
    return {
        row["id"]: Example(**{**row, "messages": tuple(Message(**turn) for turn in row["messages"])}) for row in rows
    }


def read_report(config: RunConfig, stages: Mapping[str, StageOutput]) -> ReportData:
    """All of a finished run."""
    clean, selections = stages["clean"].path, {m: stages[f"select-{m}"].path for m in config.selection.methods}
    explained = stages["analysis"].path
    analysis = read_analysis(explained)
    arms = []
    for method, folder in selections.items():
        tuned = stages[FINETUNE + method].path
        arms.append(
            Arm(
                name=method,
                shares=read_shares(clean, folder),
                tasks=pq.read_table(folder / SELECTION, columns=["task"])["task"].to_pylist(),
                picks=read_picks(folder, explained, method),
                analysis=analysis["methods"][method],
                confidence=read_confidence(explained, method),
                mixture=read_mixture(tuned),
                losses=read_losses(tuned),
            )
        )
    engine = stages["evaluate"].path / ENGINE
    return ReportData(
        config=config,
        stages=stages,
        arms=arms,
        analysis=analysis,
        trust=json.loads((stages["attribution"].path / TRUST).read_text()),
        comparison=read_results(stages["evaluate"].path),
        engine=json.loads(engine.read_text()) if engine.exists() else {},
        audit=json.loads((stages["encode"].path / AUDIT).read_text()),
        rejected=pq.read_table(stages["ingest"].path / REJECTED).to_pylist(),
        removed=pq.read_table(clean / REMOVED).to_pylist(),
        leaks=read_leaks(stages["evaluate"].path / LEAKS),
        conversations=read_conversations(clean, arms),
        figures=read_figures(stages["figures"].path) if "figures" in stages else {},
        cleaning=json.loads((clean / CLEANING).read_text(encoding="utf-8")),
    )
