"""Start an evaluation process, show what it says, and read its answer.

vLLM does not share a process well: it takes memory that it never gives back whole, sets environment variables and
patches libraries. So the boundary is a process with JSON in and JSON out; `python` may be that of another environment.
An engine that dies in the middle loses the task at hand only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from eval.errors import EngineDiedError, EvaluationError
from eval.parts import FOLDER, finished, under_way
from eval.request import EvaluationRequest, EvaluationResponse, check_paths, write_json
from train.process import log_tail, run_process, told_error, told_to_pass

REQUEST_FILE, RESPONSE_FILE, LOG_FILE, LOCK_FILE = "request.json", "response.json", "evaluation.log", ".lock"
WRONG_REQUEST = 2  # exit code of a request that the caller can mend


def _command_environment() -> dict[str, str]:
    """This process's environment with our packages importable, whatever the child's Python and folder."""
    root = str(Path(__file__).resolve().parent.parent)
    others = os.environ.get("PYTHONPATH")
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TQDM_MININTERVAL": "2", "PYTHONWARNINGS": "ignore::FutureWarning"}
    return {
        **quiet,
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, others] if others else [root]),
        "PYTHONUNBUFFERED": "1",
    }


def run_evaluation(
    request: EvaluationRequest,
    work_dir: str | Path,
    python: str = sys.executable,
    on_line: Callable[[str], None] | None = None,
) -> EvaluationResponse:
    """Evaluate in a process of its own; its request, response, log and finished parts stay in `work_dir`.

    python: the interpreter to run, which needs lm-eval, pydantic and the engine. on_line: called with every line the
    process writes (each redraw of a progress bar is a line). A process that dies is started again as long as each one
    finishes another task; what was finished is kept, here and for a later call. Raises `EvaluationError` with the model
    and task at hand, the log's tail and its path, and when another evaluation is at work in the folder.
    """
    check_paths(request)
    folder = Path(work_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            return _run(request, folder, python, on_line)
    except Timeout as error:
        raise EvaluationError(
            f"another evaluation is at work in {folder}, and each would take the other's answer for its own; wait for "
            "its end, or give another folder"
        ) from error


def _run(
    request: EvaluationRequest, folder: Path, python: str, on_line: Callable[[str], None] | None
) -> EvaluationResponse:
    answer, log = folder / RESPONSE_FILE, folder / LOG_FILE
    answer.unlink(missing_ok=True)  # an old answer must not pass for this one
    write_json(request, folder / REQUEST_FILE)

    command = [python, "-m", "eval", str(folder / REQUEST_FILE), str(answer)]
    while True:
        before = finished(folder)
        code = run_process(command, log, on_line, _command_environment())
        if code == 0:
            return EvaluationResponse.model_validate_json(answer.read_text(encoding="utf-8"))
        told = told_error(log)
        if code == WRONG_REQUEST and told:
            raise (EngineDiedError if told_to_pass(log) else EvaluationError)(f"{told} (log: {log})")
        done = finished(folder) - before
        if done == 0:
            raise EngineDiedError(_died(code, folder, log))
        log.replace(log.with_name(f"{log.stem}-{finished(folder)}.log"))
        if on_line is not None:
            on_line(f"the engine {_how(code)}{_where(folder)}; {done} results are kept, going on with what is left")


def _how(code: int) -> str:
    return f"was killed by signal {-code}, often for want of memory" if code < 0 else f"failed with exit code {code}"


def _where(folder: Path) -> str:
    at = under_way(folder)
    return f" at model {at[0]}, task {at[1]}" if at else ""


def _died(code: int, folder: Path, log: Path) -> str:
    kept = finished(folder)
    kept_text = (
        f"; {kept} finished results are kept in {folder / FOLDER}, the same command goes on there" if kept else ""
    )
    return f"the evaluation process {_how(code)}{_where(folder)}{kept_text}; the end of its log {log}:\n{log_tail(log)}"
