"""Score a written answer by mathematical equality with a LaTeX target: 3/2 is 1.5 is \\frac{3}{2}.

The parsing and the algebra are Hugging Face's math-verify (on sympy), which the open leaderboards use. A model's
expression may take for ever to simplify (9^{9^{9^9}}), and sympy cannot be interrupted from within, so the comparison
runs in a process of its own that is ended and replaced when an answer takes too long; such an answer counts as wrong.
Cost: 3 s for the process, then about 10 ms per answer, 20 s at most. Needs the package math-verify.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from eval.errors import EvaluationError
from eval.sandbox import SandboxLimits
from eval.scorers.base import Document, Metrics, Scorer, read_target

_START_SECONDS, _ANSWER_SECONDS, _MEMORY_MB = 120, 20, 4096


def equal(target: str, answer: str) -> bool:
    """Whether an answer's last expression, in a box if there is one, equals a LaTeX target. May take very long."""
    from math_verify import parse, verify

    text = f"${target.strip('$')}$"
    return bool(verify(parse(text, parsing_timeout=5), parse(answer, parsing_timeout=5), timeout_seconds=5))


def _serve() -> None:
    """The process: one JSON pair a line in, true or false a line out."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_MB * 2**20,) * 2)
    import math_verify  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        try:
            verdict = equal(*json.loads(line))
        except Exception:  # whatever a strange expression does to the parser, it is not the target
            verdict = False
        print(json.dumps(verdict), flush=True)


@contextmanager
def _process() -> Iterator[subprocess.Popen[str]]:
    environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-m", "eval.scorers.math"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _line(stream: IO[str], seconds: float) -> str:
    """The next line of a process, or nothing when it takes too long or has ended."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return stream.readline().strip() if poll.poll(seconds * 1000) else ""


def _verdicts(pairs: Sequence[tuple[str, str]]) -> Iterator[bool]:
    """One verdict per pair, over as many processes as get stuck and one more."""
    done = 0
    while done < len(pairs):
        with _process() as process:
            assert process.stdin is not None and process.stdout is not None
            if _line(process.stdout, _START_SECONDS) != "ready":
                raise EvaluationError(f"the process of the scorer math did not start within {_START_SECONDS} s")
            for pair in pairs[done:]:
                try:
                    process.stdin.write(json.dumps(pair) + "\n")
                    process.stdin.flush()
                    said = _line(process.stdout, _ANSWER_SECONDS)
                except BrokenPipeError:
                    said = ""
                done += 1
                yield said == "true"
                if not said:
                    break


def _score_all(docs: Sequence[Document], answers: Sequence[str], sandbox: SandboxLimits | None) -> list[Metrics]:
    if importlib.util.find_spec("math_verify") is None:
        raise EvaluationError("the scorer math needs the package math-verify: `pip install math-verify`")
    pairs = [(read_target(doc, "math"), answer) for doc, answer in zip(docs, answers, strict=True)]
    return [{"exact_match": float(verdict)} for verdict in _verdicts(pairs)]


MATH = Scorer("math", ("exact_match",), _score_all)

if __name__ == "__main__":
    _serve()
