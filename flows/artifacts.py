"""Prefect artifacts: the report's tables, where a person looks for them in the UI."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.config import RunConfig
from flows.report.data import read_influence, read_mixture, read_shares
from flows.stages.evaluation import read_results
from flows.stages.selection import ANALYSIS
from flows.store import StageOutput


def _table(config: RunConfig, name: str, rows: list[dict], description: str) -> None:
    create_table_artifact(rows, key=_key(config, name), description=description)


def _key(config: RunConfig, name: str) -> str:
    """Artifact keys may hold lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9-]+", "-", f"{config.name}-{name}".lower())


def curation(config: RunConfig, outputs: Mapping[str, StageOutput]) -> None:
    """Influence by task; per method the source shares before and after, and the selection's balance."""
    clean = outputs["clean"].path
    influence = read_influence(clean, outputs["attribution"].path)
    rows = [
        {"source": source, **{task: f"{value:+.2f}" for task, value in tasks.items()}}
        for source, tasks in influence.items()
    ]
    _table(config, "influence", rows, "Mean z-score of every source's rows on every task's targets")
    for method in config.selection.methods:
        selected = outputs[f"select-{method}"].path
        shares = [
            {
                "source": share.source,
                "pool": share.pool,
                "pool share": f"{share.pool_share:.1%}",
                "selected": share.selected,
                "selected share": f"{share.selected_share:.1%}",
            }
            for share in read_shares(clean, selected)
        ]
        _table(config, f"sources-{method}", shares, f"Sources before and after `{method}`")
        analysis = json.loads((selected / ANALYSIS).read_text())
        balance = [
            {"task": task, "average influence (z)": f"{value:+.3f}", "strongest in": analysis["thi_instance"][task]}
            for task, value in analysis["aid_per_task"].items()
        ]
        _table(config, f"selection-{method}", balance, f"Balance of the selection by `{method}`")


def training(config: RunConfig, name: str, output: StageOutput) -> None:
    """What one fine-tuning run was trained on: rows and tokens per source, in the first and the second half."""
    records = read_mixture(output.path)
    halves = (records[: len(records) // 2], records[len(records) // 2 :])
    tokens = [sum((Counter(record["trained_tokens"]) for record in half), Counter()) for half in halves]
    drawn = sum((Counter(record["trained"]) for record in records), Counter())
    rows = [
        {
            "source": source,
            "rows trained": count,
            "tokens, first half": f"{tokens[0][source] / max(1, tokens[0].total()):.1%}",
            "tokens, second half": f"{tokens[1][source] / max(1, tokens[1].total()):.1%}",
        }
        for source, count in drawn.most_common()
    ]
    _table(config, f"mixture-{name}", rows, f"Mixture over training on `{name}`")


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
