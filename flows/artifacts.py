"""Prefect artifacts: the report's tables and pictures, where a person looks for them in the UI."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from curate.figures import FIGURES
from eval.tables import Comparison
from flows.config import RunConfig
from flows.report import selection_plots, training_plots
from flows.report.data import SourceShare, read_analysis, read_mixture, read_shares
from flows.report.page import REPORT_FILE
from flows.report.row_flow import figure_of, read_flow
from flows.stages.evaluation import read_results
from flows.stages.figures import read_figures
from flows.stages.selection import SELECTION
from flows.store import StageOutput
from train.step_log import totals


def _table(config: RunConfig, name: str, rows: list[dict], description: str) -> None:
    create_table_artifact(rows, key=artifact_key(config, name), description=description)


def _text(config: RunConfig, name: str, markdown: str, description: str) -> None:
    create_markdown_artifact(markdown, key=artifact_key(config, name), description=description)


def _picture(config: RunConfig, name: str, svg: str, description: str) -> None:
    _text(config, f"{name}-picture", _embedded(svg, description), description)


def _embedded(svg: str, name: str) -> str:
    """The figure in the text itself: there is no server that could keep a file for it, and an image artifact would show
    its whole content as an address below it."""
    opaque = svg.replace("<svg ", '<svg style="background: white" ', 1)  # the UI may be dark, the text is
    return f"![{name}](data:image/svg+xml;base64,{base64.b64encode(opaque.encode()).decode()})"


def artifact_key(config: RunConfig, name: str) -> str:
    """Artifact keys may hold lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9-]+", "-", f"{config.name}-{name}".lower())


def curation(config: RunConfig, outputs: Mapping[str, StageOutput]) -> None:
    """What became of the rows; what each method selected; influence by task; per method the source shares before and
    after; balance and stability of all methods; quality, diversity, complexity; the pictures of them."""
    clean = outputs["clean"].path
    methods = config.selection.methods
    analysis = read_analysis(outputs["analysis"].path)
    _text(config, "rows", _rows(outputs, methods), "What became of the rows, step by step, and why")
    rows = [
        {"source": source, **{task: f"{value:+.2f}" for task, value in tasks.items()}}
        for source, tasks in analysis["influence_by_source"].items()
    ]
    _table(config, "influence", rows, "Mean z-score of every source's rows on every task's targets")
    shares = {method: read_shares(clean, outputs[f"select-{method}"].path) for method in methods}
    _table(config, "selection", _selection(outputs, shares), "What each method selected")
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
    measured = _measured(read_figures(outputs["figures"].path))
    _table(
        config, "figures", measured, "Quality, diversity and complexity of the pool and every selection, with intervals"
    )
    _picture(config, "sources", selection_plots.source_shares(shares), "Sources before and after")
    heat_map = selection_plots.influence_heat_map(analysis["influence_by_source"])
    _picture(config, "influence", heat_map, "Mean z-score of every source's rows on every task's targets")
    coverages = {method: analysis["methods"][method]["coverage"] for method in methods}
    recall = selection_plots.coverage(coverages, analysis["tasks"], "recall", "top rows that are in")
    _picture(config, "coverage", recall, "Share of each target's best 1 % of the pool among the rows selected so far")


def _rows(outputs: Mapping[str, StageOutput], methods: Sequence[str]) -> str:
    """The picture of the rows' way; then a line per step and reason, and one per method and reason: rows, what they
    lost, and why."""
    flow = read_flow(outputs, methods)
    lines = [_embedded(figure_of(flow), "what became of the rows"), ""]
    lines += ["| step | rows | left out | why |", "| --- | ---: | ---: | --- |"]
    named = [(step.name, step.rows, step.left) for step in flow.steps]
    named += [(f"selected by {branch.method}", branch.exported, branch.left) for branch in flow.branches]
    for name, rows, left in named:
        for number, (why, count) in enumerate(left or [("", 0)]):
            first = number == 0
            told = f"{count:,}" if count else ""
            lines.append(f"| {name if first else ''} | {f'{rows:,}' if first else ''} | {told} | {why} |")
    return "\n".join(lines)


def _selection(outputs: Mapping[str, StageOutput], shares: Mapping[str, Sequence[SourceShare]]) -> list[dict]:
    """Per method: how many rows, from how many sources, for which tasks, and the source that fills most of it."""
    rows = []
    for method, found in shares.items():
        picked = pq.read_table(outputs[f"select-{method}"].path / SELECTION, columns=["task"])["task"].to_pylist()
        tasks = Counter(task for task in picked if task)
        most = max(found, key=lambda share: (share.selected, share.source))
        rows.append(
            {
                "method": method,
                "rows": len(picked),
                "share of the pool": f"{len(picked) / max(1, sum(share.pool for share in found)):.1%}",
                "sources": f"{sum(share.selected > 0 for share in found)} of {len(found)}",
                "largest source": f"{most.source}: {most.selected_share:.1%} (in the pool {most.pool_share:.1%})",
                "rows per task": ", ".join(f"{task} {count}" for task, count in sorted(tasks.items())) or "no target",
            }
        )
    return rows


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


def _measured(found: Mapping[str, Any]) -> list[dict]:
    """A line per figure that was measured, a column per group."""
    return [
        {
            "figure": figure.title,
            "higher means": figure.higher,
            **{group: figure.shown_with_interval(*values[group]) if group in values else "" for group in found["rows"]},
        }
        for figure in FIGURES
        if (values := found["figures"][figure.name])
    ]


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
    _text(config, "evaluation", read_results(output.path).to_markdown(), "Results with intervals, beside the controls")


def overview(config: RunConfig, outputs: Mapping[str, StageOutput]) -> None:
    """What a person looks for first, on the page of the whole run: the results, what became of the rows, the report."""
    parts = [
        f"The report: `{(outputs['report'].path / REPORT_FILE).resolve()}`",
        "## Results",
        _results(read_results(outputs["evaluate"].path)),
        "## Rows",
        _rows(outputs, config.selection.methods),
    ]
    _text(config, "overview", "\n\n".join(parts), "Results, rows and where the report is")


def _results(comparison: Comparison) -> str:
    """A line per row and model, compared with the last control only: the UI cuts off wider tables, such as those in
    `evaluation`."""
    parts = []
    for table in comparison.tables:
        way = "higher is better" if table.metric.higher_is_better else "lower is better"
        control = table.controls[-1] if table.controls else None
        lines = [f"|  | model | mean | {f'against {control}' if control else ''} |", "| --- | --- | --- | --- |"]
        for row in table.rows:
            for number, model in enumerate(table.models):
                score, told = table.cell(model, row.name), ""
                if control and model not in table.controls:
                    found = table.difference(model, control, row.name)
                    told = f"{found.interval.mean:+.3f} [{found.interval.low:+.3f}, {found.interval.high:+.3f}] "
                    told += found.verdict
                name = "" if number else row.name
                lines.append(f"| {name} | {model} | {score.mean:.3f} [{score.low:.3f}, {score.high:.3f}] | {told} |")
        parts += [f"**{table.metric.name}** ({way}; {comparison.confidence:.0%} intervals)", "\n".join(lines)]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in comparison.notes)])


def report_link(config: RunConfig, output: StageOutput) -> None:
    """Where the report is. A browser opens a file from a server's page only when its address is copied into it."""
    path = (output.path / REPORT_FILE).resolve()
    told = f"The report of this run, one page: `{path}`. If the link does not open, copy it into the address bar."
    create_link_artifact(path.as_uri(), link_text=str(path), key=artifact_key(config, "report"), description=told)


def night(config: RunConfig, text: str) -> None:
    """What a nightly run decided and what changed in the selection. text: Markdown."""
    _text(config, "night", text, "Promotion, and changes of the selection")


def stages(config: RunConfig, outputs: Mapping[str, StageOutput]) -> None:
    """Rows and time per stage, and where its files are; the last row is the report."""
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
