"""Prefect artifacts: the report's tables and pictures, where a person looks for them in the UI."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from flows.config import RunConfig
from flows.report import selection_plots, training_plots
from flows.report.data import read_analysis, read_mixture, read_shares
from flows.stages.evaluation import read_results
from flows.store import StageOutput
from train.step_log import totals


def _table(config: RunConfig, name: str, rows: list[dict], description: str) -> None:
    create_table_artifact(rows, key=_key(config, name), description=description)


def _picture(config: RunConfig, name: str, svg: str, description: str) -> None:
    """The figure in the artifact itself: there is no server that could keep a file for it."""
    opaque = svg.replace("<svg ", '<svg style="background: white" ', 1)  # the UI may be dark, the text is
    encoded = base64.b64encode(opaque.encode()).decode()
    create_image_artifact(
        image_url=f"data:image/svg+xml;base64,{encoded}", key=_key(config, f"{name}-picture"), description=description
    )


def _key(config: RunConfig, name: str) -> str:
    """Artifact keys may hold lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9-]+", "-", f"{config.name}-{name}".lower())


def curation(config: RunConfig, outputs: Mapping[str, StageOutput]) -> None:
    """Influence by task; per method the source shares before and after; balance and stability of all methods; the
    pictures of them."""
    clean = outputs["clean"].path
    methods = config.selection.methods
    analysis = read_analysis(outputs["analysis"].path)
    rows = [
        {"source": source, **{task: f"{value:+.2f}" for task, value in tasks.items()}}
        for source, tasks in analysis["influence_by_source"].items()
    ]
    _table(config, "influence", rows, "Mean z-score of every source's rows on every task's targets")
    shares = {method: read_shares(clean, outputs[f"select-{method}"].path) for method in methods}
    for method, found in shares.items():
        rows = [
            {
                "source": share.source,
                "pool": share.pool,
                "pool share": f"{share.pool_share:.1%}",
                "selected": share.selected,
                "selected share": f"{share.selected_share:.1%}",
            }
            for share in found
        ]
        _table(config, f"sources-{method}", rows, f"Sources before and after `{method}`")
    _table(config, "balance", _balance(analysis), "Average influence (z) per task, and how it spreads over the tasks")
    _table(config, "confidence", _stability(analysis), "Of each selection, what is chosen again with other targets")
    _picture(config, "sources", selection_plots.source_shares(shares), "Sources before and after")
    heat_map = selection_plots.influence_heat_map(analysis["influence_by_source"])
    _picture(config, "influence", heat_map, "Mean z-score of every source's rows on every task's targets")
    coverages = {method: analysis["methods"][method]["coverage"] for method in methods}
    recall = selection_plots.coverage(coverages, analysis["tasks"], "recall", "top rows that are in")
    _picture(config, "coverage", recall, "Share of each target's best 1 % of the pool among the rows selected so far")


def _balance(analysis: Mapping) -> list[dict]:
    return [
        {
            "method": method,
            **{task: f"{value:+.3f}" for task, value in found["aid_per_task"].items()},
            "std between tasks": f"{found['aid_between_task_std']:.3f}",
            "strongest in, most : fewest": f"{found['thi_ratio']:.1f}" if found["thi_ratio"] else "a task has none",
        }
        for method, found in analysis["spread"]["methods"].items()
    ]


def _stability(analysis: Mapping) -> list[dict]:
    rows = []
    for method, found in analysis["methods"].items():
        sure, budget = found["confidence"], found["utility"]["suggested"]
        overlap = sure.get("overlap")
        rows.append(
            {
                "method": method,
                "chosen again": f"{overlap['mean']:.0%} ({overlap['low']:.0%} to {overlap['high']:.0%})"
                if overlap
                else sure["reason"],
                "suggested budget": f"{budget['rows']:,}" if budget["rows"] else f"none: {budget['reason']}",
            }
        )
    return rows


def training(config: RunConfig, name: str, output: StageOutput) -> None:
    """What one fine-tuning run was trained on, per source."""
    _table(config, f"mixture-{name}", _mixture(read_mixture(output.path)), f"Mixture over training on `{name}`")


def _mixture(records: Sequence[Mapping[str, Any]]) -> list[dict]:
    """Rows and passes of each source, most trained first; tokens, weight and loss in the first and the second half."""
    halves = {"first half": records[: len(records) // 2], "second half": records[len(records) // 2 :]}
    trained = totals(records, "selected")
    epochs = records[-1]["epochs"]
    rows: dict[str, dict] = {
        source: {"source": source, "rows trained": trained[source], "passes": f"{epochs[source]:.2f}"}
        for source in sorted(epochs, key=lambda source: (-trained[source], source))
    }
    for label, key in (("tokens", "trained_tokens"), ("weight", "weight_mass")):
        for half, part in halves.items():
            total = totals(part, key)
            for source, row in rows.items():
                row[f"{label}, {half}"] = f"{total[source] / (total.total() or 1):.1%}"
    for half, part in halves.items():
        for source, row in rows.items():
            loss = training_plots.mean_loss(part, [source])
            row[f"loss, {half}"] = "" if loss is None else f"{loss:.3f}"
    return list(rows.values())


def evaluation(config: RunConfig, output: StageOutput) -> None:
    """The result tables with their intervals."""
    create_markdown_artifact(
        read_results(output.path).to_markdown(),
        key=_key(config, "evaluation"),
        description="Capabilities with intervals",
    )


def stages(config: RunConfig, outputs: Mapping[str, StageOutput]) -> None:
    """Row flow and time per stage, and where its files are; the last row is the report."""
    rows = [
        {
            "stage": name,
            "rows": ", ".join(f"{key.removeprefix('rows_')} {value}" for key, value in output.rows.items()),
            "seconds": round(output.seconds, 1),
            "from the store": output.cached,
            "folder": str(output.path),
        }
        for name, output in outputs.items()
    ]
    _table(config, "stages", rows, "Rows and time per stage")
