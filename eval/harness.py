"""Start an evaluation process, show what it says, and read its answer.

vLLM does not share a process well: it takes memory that it never gives back whole, sets environment variables and
patches libraries. So the boundary is a process with JSON in and JSON out; `python` may be that of another environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from eval.request import EvaluationError, EvaluationRequest, EvaluationResponse, check_paths, write_json

REQUEST_FILE, RESPONSE_FILE, LOG_FILE = "request.json", "response.json", "evaluation.log"
LOG_TAIL_LINES = 15
CURSOR_UP = "\x1b[A"  # how nested progress bars redraw


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
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if code == 2 and told:
        return EvaluationError(f"{told[-1]} (log: {log})")
    why = f"killed by signal {-code}, often for want of memory" if code < 0 else f"exit code {code}"
    tail = "\n".join(lines[-LOG_TAIL_LINES:])
    return EvaluationError(f"the evaluation process failed ({why}); the end of its log {log}:\n{tail}")


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

    process = subprocess.Popen(
        [python, "-m", "eval", str(folder / REQUEST_FILE), str(answer)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_command_environment(),
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdout is not None
    try:
        with log.open("w", encoding="utf-8") as written:
            for line in process.stdout:  # universal newlines: a progress bar's carriage return ends a line too
                line = line.replace(CURSOR_UP, "")
                written.write(line)
                written.flush()
                if on_line is not None and line.strip():
                    on_line(line.rstrip("\n"))
        code = process.wait()
    finally:
        if process.poll() is None:  # we were interrupted: do not leave it running
            process.kill()
            process.wait()
    if code != 0:
        raise _failure(code, log)
    return EvaluationResponse.model_validate_json(answer.read_text(encoding="utf-8"))
