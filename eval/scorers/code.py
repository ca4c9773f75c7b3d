"""Score a written program by running it on the item's own tests, in the sandbox.

What a program does is the only fair measure of it. A program passes when the model's code and all tests after it have
run to their end: the last line prints a mark that only this run knows, because an exit code of 0 is also what a program
gives that calls `exit()` before the tests. HumanEval's answers may be the whole function or only its body.
Cost: about 0.1 s of a core per program, and up to the limit of 10 s for those that do not end.
"""

from __future__ import annotations

import re
import secrets
import textwrap
import warnings
from collections.abc import Sequence

from eval.sandbox import SandboxLimits, run_programs
from eval.scorers.base import Document, Metrics, Scorer, read_checks, wrong_item

_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def fenced(answer: str, wanted: str = "") -> str:
    """The first fenced block of an answer that contains `wanted`, else its first block, else all of it.

    A block that was never closed reaches to the end, as in an answer that was cut off.
    """
    blocks = [block.group(1) for block in _FENCE.finditer(answer)]
    return next((block for block in blocks if wanted in block), blocks[0] if blocks else answer)


def _compiles(program: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            compile(program, "program", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _body(answer: str) -> str:
    """The lines of a function's body up to the first that stands outside of it."""
    lines = answer.strip("\n").splitlines()
    for number, line in enumerate(lines[1:], start=1):
        if line.strip() and not line[0].isspace() and any(before.strip() for before in lines[:number]):
            return "\n".join(lines[:number])
    return "\n".join(lines)


def _completed(prompt: str, answer: str, name: str) -> str:
    """A program from the head of a function and an answer that is the whole function or goes on from its head."""
    code = fenced(answer, f"def {name}")
    if re.search(rf"^def {re.escape(name)}\b", code, re.MULTILINE):
        return f"{prompt.rstrip()}\n\n{code}"  # the head alone is a function too: its documentation is its body
    if re.search(rf"^\s+def {re.escape(name)}\b", code, re.MULTILINE):
        return f"{prompt.rstrip()}\n\n{textwrap.dedent(code)}"
    if code.lstrip("\n")[:1].isspace():
        return prompt + _body(code)
    # the blanks before all lines were lost on the way, or those before the first
    attempts = [prompt + textwrap.indent(code, "    "), f"{prompt}    {_body(code)}"]
    return next((program for program in attempts if _compiles(program)), attempts[0])


def build_program(doc: Document, answer: str) -> str:
    """The program that tests an answer: the model's code, then the item's tests; it fails unless the code is right."""
    checks = read_checks(doc, "code", "kind")
    if checks["kind"] == "humaneval":
        checks = read_checks(doc, "code", "test", "entry_point")
        name = checks["entry_point"]
        return f"{_completed(doc['prompt'], answer, name)}\n\n{checks['test']}\n\ncheck({name})\n"
    if checks["kind"] == "mbpp":
        checks = read_checks(doc, "code", "test_list")
        before = [*checks.get("test_imports", []), fenced(answer, "def "), checks.get("test_setup", "")]
        return "\n\n".join([*before, *checks["test_list"]]) + "\n"
    raise wrong_item(doc, "code", f"unknown kind of checks {checks['kind']!r}; known: humaneval, mbpp")


def _score_all(docs: Sequence[Document], answers: Sequence[str], sandbox: SandboxLimits | None) -> list[Metrics]:
    marks = [secrets.token_hex(16) for _ in docs]
    programs = [
        f"{build_program(doc, answer)}\nprint('\\n{mark}', flush=True)\n"
        for doc, answer, mark in zip(docs, answers, marks, strict=True)
    ]
    results = run_programs(programs, sandbox)
    return [
        {"pass@1": float(result.outcome == "passed" and mark in result.output.splitlines())}
        for result, mark in zip(results, marks, strict=True)
    ]


CODE = Scorer("code", ("pass@1",), _score_all, runs_code=True)
