"""Secrets of a run: from Prefect Secret blocks into the environment of its stages, never into what is written down.

Only the names of the blocks are settings. Their values are variables of the environment while a stage works, so that
its processes inherit them and clients in this process (the hub, S3) find them. Lines of processes are masked where they
are read (`train.process`), log records and error messages here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from typing import cast

from prefect.blocks.system import Secret

from flows.config import ConfigError
from flows.process import ProcessError
from train.secrets import LISTED, masker

LOGGERS = ("", "prefect", "prefect.flow_runs", "prefect.task_runs")  # that handlers are attached to
_lock = threading.Lock()
_lent: dict[str, tuple[int, str | None]] = {}  # variable -> stages that use it now, its value before


@contextlib.contextmanager
def lent(blocks: Mapping[str, str]) -> Iterator[None]:
    """Variable -> block name: the variables are set in here. Stages may work side by side; the last one clears up."""
    values = {variable: _read(variable, block) for variable, block in blocks.items()}
    if values:
        listed = filter(None, [os.environ.get(LISTED, ""), *values])
        values[LISTED] = ",".join(dict.fromkeys(",".join(listed).split(",")))
    with _lock:
        for variable, value in values.items():
            users, before = _lent.get(variable, (0, os.environ.get(variable)))
            _lent[variable] = users + 1, before
            os.environ[variable] = value
    try:
        yield
    finally:
        with _lock:
            for variable in values:
                users, before = _lent.pop(variable)
                if users > 1:
                    _lent[variable] = users - 1, before
                elif before is None:
                    del os.environ[variable]
                else:
                    os.environ[variable] = before


def _read(variable: str, block: str) -> str:
    try:
        value = cast("Secret", Secret.load(block)).get()
    except ValueError as error:
        raise ConfigError(
            f"execution.secrets.{variable}: the Prefect server has no Secret block {block!r}; create it in the UI "
            f"(Blocks, Secret) or with Secret(value=...).save({block!r})"
        ) from error
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"execution.secrets.{variable}: the Secret block {block!r} holds no text")
    return value.strip()


@contextlib.contextmanager
def masked_errors() -> Iterator[None]:
    """An error whose message holds a secret is raised again without it."""
    try:
        yield
    except Exception as error:
        told = str(error)
        masked = masker()(told)
        if masked == told:
            raise
        raise ProcessError(masked) from None


def mask_logs() -> None:
    """Have every log handler that Prefect writes through mask secrets. Repeated calls change nothing."""
    for name in LOGGERS:
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_mask_record)


def _mask_record(record: logging.LogRecord) -> bool:
    mask = masker()
    told = record.getMessage()
    masked = mask(told)
    if masked != told:
        record.msg, record.args = masked, None
    if record.exc_info and not record.exc_text:
        record.exc_text = mask(logging.Formatter().formatException(record.exc_info))
    return True
