"""A parent with the heavy modules loaded that forks the pipeline once for every line on its standard input.

A line is JSON: `config` (of a run), `flow` (pipeline or nightly), `log` (a file), `environment` and `launcher`. The
child is the leader of its own
process group, so that it can be killed with all that it starts. What is left out is what takes seconds and touches no
store: Prefect, whose wrappers are taken off the flows, and, unless `launcher` is true, `accelerate launch` and a new
interpreter, so that the training and gradient processes are forked too. Answers `{"pid": ...}` at once and
`{"code": ...}` at the end.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import runpy
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import datasets  # noqa: F401  (loaded once, for all children)
import peft  # noqa: F401
import typer

from curate.influence.checkpoint_pass import CheckpointPass
from flows import artifacts, pipeline
from flows.cli.base import user_errors
from flows.config import validate
from flows.nightly import flow as nightly
from flows.process import ProcessError
from flows.stages import influence, training
from train.process import as_parent, log_tail, told_error


def _nothing(*arguments: object) -> None:
    pass


def without_prefect() -> None:
    pipeline.run_stage = lambda name, work, *arguments: work(*arguments)
    for name, made in list(vars(artifacts).items()):
        if inspect.isfunction(made) and made.__module__ == artifacts.__name__:
            setattr(artifacts, name, _nothing)
    for name in ("curate_flow", "finetune_flow", "evaluate_flow", "pipeline_flow"):
        setattr(pipeline, name, getattr(pipeline, name).fn)
    nightly.pipeline_flow, nightly.nightly_flow = pipeline.pipeline_flow, nightly.nightly_flow.fn
    nightly.get_run_logger = logging.getLogger


def tell_shards() -> None:
    """A line in the log of the gradient process for every shard that it begins."""
    write = CheckpointPass._write_shard

    def told(self, *arguments):
        print("shard begun", flush=True)
        write(self, *arguments)

    CheckpointPass._write_shard = told


def launch(module: str, job: Path, accelerate_config: Path | None, log: Path, name: str) -> None:
    """`flows.stages.training.launch`, forked: `python -m MODULE JOB` in a process of its own."""
    parent = as_parent()
    child = os.fork()
    if child == 0:
        _write_to(log, os.O_TRUNC)
        os.environ.update(parent)
        sys.argv = [module, str(job)]
        _end(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))
    _, status = os.waitpid(child, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise ProcessError(f"{name}: {told_error(log) or f'ended with {code}: {log_tail(log)}'}")


def _write_to(log: Path, flag: int) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | flag)
    for stream in (1, 2):
        os.dup2(file, stream)


def _end(work: Callable[[], object]) -> NoReturn:
    """Do the work of a forked process and leave with its exit code, without its parent's clean-up."""
    code = 0
    try:
        work()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(told: dict) -> None:
    work = {"pipeline": pipeline.pipeline_flow, "nightly": nightly.nightly_flow}[told["flow"]]
    try:
        with user_errors():
            work(validate(told["config"]))
    except typer.Exit as end:
        raise SystemExit(end.exit_code) from None


def main() -> None:
    without_prefect()
    tell_shards()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.setsid()
            told = json.loads(line)
            os.environ.update(told["environment"])
            _write_to(told["log"], os.O_APPEND)
            if not told["launcher"]:
                training.launch = influence.launch = launch
            _end(partial(run, told))
        print(json.dumps({"pid": child}), file=answers)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), file=answers)


if __name__ == "__main__":
    main()
