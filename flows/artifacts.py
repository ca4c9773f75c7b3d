"""Prefect artifacts: the tables of a run where a person looks for them in the UI."""

from __future__ import annotations

import re
from collections.abc import Mapping

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.config import RunConfig
from flows.report.data import read_shares
from flows.stages.evaluation import read_results
from flows.store import StageOutput


def _key(config: RunConfig, name: str) -> str:
    """Artifact keys may hold lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9-]+", "-", f"{config.name}-{name}".lower())


def curation(config: RunConfig, outputs: Mapping[str, StageOutput]) -> None:
    """Source shares before and after, per method."""
    for method in config.selection.methods:
        shares = read_shares(outputs["clean"].path, outputs[f"select-{method}"].path)
        rows = [
            {
                "source": share.source,
                "pool": share.pool,
                "pool share": f"{share.pool_share:.1%}",
                "selected": share.selected,
                "selected share": f"{share.selected_share:.1%}",
            }
            for share in shares
        ]
        create_table_artifact(
            rows, key=_key(config, f"sources-{method}"), description=f"Sources before and after `{method}`"
        )


def evaluation(config: RunConfig, output: StageOutput) -> None:
    """The result tables with their intervals."""
    create_markdown_artifact(
        read_results(output.path).to_markdown(),
        key=_key(config, "evaluation"),
        description="Capabilities with intervals",
    )


def stages(config: RunConfig, outputs: Mapping[str, StageOutput]) -> None:
    """Row flow and time per stage, and where the report is."""
    rows = [
        {
            "stage": name,
            "rows": ", ".join(f"{key} {value}" for key, value in output.rows.items()),
            "seconds": round(output.seconds, 1),
            "from the store": output.cached,
            "folder": str(output.path),
        }
        for name, output in outputs.items()
    ]
    create_table_artifact(rows, key=_key(config, "stages"), description="Rows and time per stage")
