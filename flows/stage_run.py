"""One stage as one Prefect task: its name, states, retries, time limit, log and progress.

A stage that was found in the store ends as `Cached`, one that was made as `Completed`. A failed one raises, so the flow
that called it fails too: a failed future that nobody reads would leave the flow Completed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.utilities.timeout import timeout

from flows.artifacts import artifact_key
from flows.config import RunConfig
from flows.execution import StageTimeoutError, retry_condition
from flows.process import listening
from flows.progress import StageVoice
from flows.secrets import lent, mask_logs, masked_errors
from flows.store import StageOutput

CACHED, COMPLETED = "Cached", "Completed"


def run_stage(name: str, work: Callable[..., StageOutput], config: RunConfig, *args: Any) -> StageOutput:
    """Run `work(config, *args)` as the task `name`; raises what it raises once its retries are used up."""
    settings = config.execution
    attempt = _stage.with_options(
        retries=settings.retries,
        retry_delay_seconds=settings.retry_delays(),
        retry_condition_fn=retry_condition,
    )
    state: Any = attempt(name, work, config, *args, return_state=True)
    return state.result()


@task(name="stage", task_run_name="{name}", cache_policy=NO_CACHE)
def _stage(name: str, work: Callable[..., StageOutput], config: RunConfig, *args: Any) -> State[Any]:
    mask_logs()
    logger = get_run_logger()
    voice = StageVoice(name, logger, artifact_key(config, f"{name}-progress"))
    try:
        with (
            lent(config.execution.secrets),
            masked_errors(),
            _limited(name, config.execution.stage_timeout),
            listening(voice),
        ):
            output = work(config, *args)
    except Exception:
        voice.close(done=False)
        raise
    voice.close(done=True)
    rows = ", ".join(f"{key} {value}" for key, value in output.rows.items())
    did = "found in the store, nothing to do" if output.cached else f"done in {output.seconds:.1f} s"
    told = f"{did}{f' ({rows})' if rows else ''}"
    logger.info("%s: %s; %s", name, told, output.path)
    return Completed(name=CACHED if output.cached else COMPLETED, message=told, data=output)


@contextlib.contextmanager
def _limited(stage: str, hours: float | None) -> Iterator[None]:
    """End what is done in here after so many hours: the exception unwinds the stage, which ends its processes."""
    try:
        with timeout(None if hours is None else hours * 3600, timeout_exc_type=_OutOfTimeError):
            yield
    except _OutOfTimeError:
        assert hours is not None
        raise StageTimeoutError(stage, hours) from None


class _OutOfTimeError(TimeoutError):
    """The limit of this stage, and no other time-out that happened in it."""
