"""Start an evaluation process, show what it says, and read its answer.

vLLM does not share a process well: it takes memory that it never gives back whole, sets environment variables and
patches libraries. So the boundary is a process with JSON in and JSON out; `python` may be that of another environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from eval.request import EvaluationError, EvaluationRequest, EvaluationResponse, check_paths, write_json
from train.process import log_tail, run_process, told_error

REQUEST_FILE, RESPONSE_FILE, LOG_FILE = "request.json", "response.json", "evaluation.log"


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


def _failure(code: int, log: Path) -> EvaluationError:
    told = told_error(log)
    if code == 2 and told:
        return EvaluationError(f"{told} (log: {log})")
    why = f"killed by signal {-code}, often for want of memory" if code < 0 else f"exit code {code}"
    return EvaluationError(f"the evaluation process failed ({why}); the end of its log {log}:\n{log_tail(log)}")


def run_evaluation(
    request: EvaluationRequest,
    work_dir: str | Path,
    python: str = sys.executable,
    on_line: Callable[[str], None] | None = None,
) -> EvaluationResponse:
    """Evaluate in a process of its own; its request, response and log stay in `work_dir`.

    python: the interpreter to run, which needs lm-eval, pydantic and the engine. on_line: called with every line the
    process writes (each redraw of a progress bar is a line). Raises `EvaluationError` with the log's tail and path when
    the process fails.
    """
    check_paths(request)
    folder = Path(work_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    answer, log = folder / RESPONSE_FILE, folder / LOG_FILE
    answer.unlink(missing_ok=True)  # an old answer must not pass for this one
    write_json(request, folder / REQUEST_FILE)

    command = [python, "-m", "eval", str(folder / REQUEST_FILE), str(answer)]
    code = run_process(command, log, on_line, _command_environment())
    if code != 0:
        raise _failure(code, log)
    return EvaluationResponse.model_validate_json(answer.read_text(encoding="utf-8"))
