"""How a run is carried out: retries, time limits and secrets of its stages. Nothing here changes a result, so none of
it enters a stage's key.

Only what may pass by itself is tried again: the network, a busy or restarting service, a process that was killed. A
wrong setting or bad data fails at once, however many retries are allowed.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from train.settings import Settings
from train.transient import is_transient

LONGEST_DELAY = 3600.0  # seconds


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is not a name of an environment variable, such as HF_TOKEN")
    return name


def _block(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise ValueError(
            "give the name of a Prefect Secret block (small letters, digits, dashes), not the secret itself"
        )
    return name


class WorkerRequest(Settings):
    """What Ray sets aside for one worker of a stage."""

    cpus: float = Field(1, gt=0, description="CPUs of one worker, and the threads it computes with")
    gpus: float | None = Field(
        None, ge=0, description="GPUs of one worker; null: one where the cluster has any, otherwise none"
    )


class StageRequests(Settings):
    """Per stage that runs on a cluster."""

    cleaning: WorkerRequest = WorkerRequest(gpus=0)
    gradients: WorkerRequest = WorkerRequest()
    evaluation: WorkerRequest = WorkerRequest()


class ExecutionSettings(Settings):
    """How stages are run; the same results come out whatever is set here."""

    engine: Literal["local", "ray"] = Field(
        "local",
        description="where cleaning, gradients and evaluation run: on this machine, or on a Ray cluster",
    )
    address: str | None = Field(
        None,
        description="of a running Ray cluster, such as 10.0.0.1:6379 (ray only); null: one of this machine's own",
    )
    requests: StageRequests = Field(StageRequests(), description="what one worker of each stage needs (ray only)")

    retries: int = Field(
        2, ge=0, le=20, description="further attempts of a stage after a network error or a killed process"
    )
    retry_delay_seconds: float = Field(
        10.0, ge=0, le=LONGEST_DELAY, description="wait before the first retry; doubled before each further one"
    )
    stage_timeout: float | None = Field(
        None, gt=0, description="hours a single stage may take before it is ended and the run fails; null: no limit"
    )
    secrets: dict[Annotated[str, AfterValidator(_variable)], Annotated[str, AfterValidator(_block)]] = Field(
        {}, description="environment variable -> name of the Prefect Secret block that holds its value"
    )

    def retry_delays(self) -> list[float]:
        """Seconds before each retry."""
        return [min(self.retry_delay_seconds * 2**number, LONGEST_DELAY) for number in range(self.retries)]

    @model_validator(mode="after")
    def _engine_is_there(self) -> ExecutionSettings:
        if self.engine == "local" and self.address is not None:
            raise ValueError("`address` is that of a Ray cluster; set engine: ray too, or leave it out")
        missing = [name for name in ("ray", "prefect_ray") if self.engine == "ray" and not find_spec(name)]
        if missing:
            raise ValueError(
                f"engine ray needs the package {missing[0].replace('_', '-')}, which is not installed: "
                "pip install 'equipoise[ray]' here and on every node"
            )
        return self


class StageTimeoutError(TimeoutError):
    """A stage that was ended because it took longer than it may."""

    def __init__(self, stage: str, hours: float) -> None:
        super().__init__(
            f"stage {stage} took longer than execution.stage_timeout = {hours:g} hours and was ended with all its "
            "processes; what it had finished is kept: run again to go on there, or allow more time"
        )


def retry_condition(_task: Any, _run: Any, state: Any) -> bool:
    """`may_retry` of what a Prefect task failed with, as `retry_condition_fn` asks it."""
    return isinstance(state.data, BaseException) and may_retry(state.data)


def may_retry(error: BaseException) -> bool:
    """Whether another attempt of the stage may succeed without anybody mending anything."""
    # imported late: these import the configuration, which imports this file
    from eval.errors import EngineDiedError
    from flows.config import ConfigError
    from flows.process import ProcessError

    if isinstance(error, ConfigError | StageTimeoutError):
        return False
    if isinstance(error, ProcessError):
        return error.may_pass
    return isinstance(error, EngineDiedError) or is_transient(error)
