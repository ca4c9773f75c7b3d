"""Schedules: serve the flows as Prefect deployments from this machine."""

from __future__ import annotations

from flows.config import ConfigError, RunConfig


def serve_pipeline(config: RunConfig, cron: str) -> None:
    """Serve `pipeline` on a schedule until interrupted. Needs a Prefect server that outlives the run
    (PREFECT_API_URL)."""
    from prefect.settings import PREFECT_API_URL

    from flows.pipeline import pipeline_flow

    if not PREFECT_API_URL.value():
        raise ConfigError(
            "serve needs a running server: start `prefect server start` and set PREFECT_API_URL to its /api address"
        )
    try:
        pipeline_flow.serve(name=config.name, cron=cron, parameters={"config": config.model_dump(mode="json")})
    except ValueError as error:
        raise ConfigError(f"--cron {cron!r} is not a cron schedule; '0 2 * * *' is every night at two") from error
