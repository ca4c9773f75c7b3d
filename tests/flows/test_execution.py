"""What is tried again, after how long, and how a stage ends: with Prefect's engine, without a server of its own."""

from __future__ import annotations

import errno
import json
from urllib.error import HTTPError

import httpx
import pytest
from huggingface_hub import HfApi
from pydantic import ValidationError

from curate.sources import SourceError
from eval.errors import EngineDiedError, EvaluationError
from flows.config import ConfigError
from flows.execution import ExecutionSettings, StageTimeoutError, may_retry
from flows.process import ProcessError


def caused(error, cause):
    error.__cause__ = cause
    return error


def status(code):
    request = httpx.Request("GET", "http://127.0.0.1")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(code, request=request))


def lost_hub():
    """What the hub's client says where nobody answers."""
    try:
        HfApi(endpoint="http://127.0.0.1:9").repo_info("nobody/nothing")
    except Exception as error:
        return error


def decoding():
    try:
        json.loads("{")
    except ValueError as error:
        return error


PASSING = [
    ConnectionResetError(),
    TimeoutError(),
    OSError(errno.ENETUNREACH, "no route"),
    OSError(errno.ESTALE, "stale file handle"),
    httpx.ConnectError("refused"),
    lost_hub(),
    status(503),
    status(429),
    HTTPError("http://127.0.0.1", 502, "bad gateway", None, None),
    caused(SourceError("hub/data: could not be loaded"), httpx.ReadTimeout("slow")),
    ProcessError("training: killed", may_pass=True),
    EngineDiedError("the evaluation process was killed"),
]
LASTING = [
    ConfigError("unknown key"),
    caused(ConfigError("unknown key"), ConnectionResetError()),
    SourceError("row 3 has no answer"),
    decoding(),
    FileNotFoundError(errno.ENOENT, "gone"),
    OSError(errno.ENOSPC, "full"),
    PermissionError(errno.EACCES, "no"),
    status(404),
    status(401),
    HTTPError("http://127.0.0.1", 403, "forbidden", None, None),
    ProcessError("training: row 3 has no answer"),
    EvaluationError("no such task"),
    StageTimeoutError("warmup", 1.0),
    MemoryError(),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_may_pass_is_tried_again(error):
    assert may_retry(error)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_lasts_is_not(error):
    assert not may_retry(error)


def test_delays_double_up_to_an_hour():
    assert ExecutionSettings(retries=4, retry_delay_seconds=3).retry_delays() == [3, 6, 12, 24]
    assert ExecutionSettings(retries=3, retry_delay_seconds=3000).retry_delays() == [3000, 3600, 3600]
    assert ExecutionSettings(retries=0).retry_delays() == []


@pytest.mark.parametrize("secrets", [{"HF TOKEN": "hub"}, {"HF_TOKEN": "hf_AbCdEf"}])
def test_a_secret_itself_is_no_setting(secrets):
    with pytest.raises(ValidationError, match=r"not the secret itself|name of an environment variable"):
        ExecutionSettings(secrets=secrets)
