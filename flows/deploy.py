"""Deployments: serve the flows from this machine, started by a schedule, from the UI or through the API.

`equipoise serve` needs a Prefect server that outlives the run and nothing else. For work pools and workers there is
`prefect.yaml` (`prefect deploy --all`). The parameters of a deployment are the whole configuration, so every value can
be changed in the UI's custom run, and the server refuses what the schema does not allow. Relative paths are relative to
the folder that serves.
"""

from __future__ import annotations

from typing import Any, Literal

from flows.config import ConfigError, RunConfig

Scheduled = Literal["pipeline", "nightly"]
TAG = "equipoise"
PIPELINE = "Select, fine-tune, evaluate and report. Stages that the store holds are not done again."
NIGHTLY = "The pipeline on tonight's pool; the adapter goes live unless a capability got worse beyond noise."
CURATE = "Select and export, without fine-tuning. Stages that the store holds are not done again."


def deployment_parameters(config: RunConfig) -> dict[str, Any]:
    """The parameters of the three flows as plain JSON, paths as texts. They are stored in Prefect's database, so they
    name secrets (`execution.secrets`) and never hold them."""
    return {"config": config.model_dump(mode="json")}


def serve_flows(
    config: RunConfig,
    cron: str | None = None,
    timezone: str | None = None,
    limit: int = 1,
    scheduled: Scheduled = "pipeline",
) -> None:
    """Serve `pipeline`, `nightly` (the scheduled one on its schedule, if one is given) and `curate` until interrupted.

    cron: five fields; timezone: in which they are meant, UTC if not told; limit: runs at the same time. Raises
    `ConfigError` without a server (PREFECT_API_URL) or with a schedule that is none.
    """
    from prefect import serve
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.flows import EntrypointType
    from prefect.settings import PREFECT_API_URL

    from flows.nightly.flow import nightly_flow
    from flows.pipeline import curate_flow, pipeline_flow

    try:
        schedule = CronSchedule(cron=cron, timezone=timezone or "UTC") if cron else None
    except ValueError as error:
        raise ConfigError(
            f"--cron {cron!r} (--timezone {timezone or 'UTC'}) is not a schedule; '0 2 * * *' is every night at two"
        ) from error
    if not PREFECT_API_URL.value():
        raise ConfigError(
            "serve needs a running server: start `prefect server start` and set PREFECT_API_URL to its /api address"
        )
    common: dict[str, Any] = {
        "name": config.name,
        "parameters": deployment_parameters(config),
        "tags": [TAG],
        "entrypoint_type": EntrypointType.MODULE_PATH,
    }
    when: dict[str, Any] = {scheduled: schedule}
    serve(
        pipeline_flow.to_deployment(schedule=when.get("pipeline"), description=PIPELINE, **common),  # type: ignore[arg-type]
        nightly_flow.to_deployment(schedule=when.get("nightly"), description=NIGHTLY, **common),  # type: ignore[arg-type]
        curate_flow.to_deployment(description=CURATE, **common),  # type: ignore[arg-type]
        limit=limit,
    )
