"""Programs that are run: the forms an answer takes, answers that only look right, and the sets' own solutions."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from eval.errors import EvaluationError
from eval.sandbox import SandboxLimits
from eval.scorers import SCORERS
from eval.scorers.code import build_program, fenced

pytestmark = pytest.mark.sandbox

ROOT = Path(__file__).parents[3]
CODE = SCORERS["code"]
HEAD = 'from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    """ Sum of xs. """\n'
BODY = "    value = 0\n    for x in xs:\n        value += x\n    return value\n"
TEST = "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n"
HUMANEVAL = {
    "id": "h",
    "prompt": HEAD,
    "checks": json.dumps({"kind": "humaneval", "test": TEST, "entry_point": "total"}),
}
MBPP = {
    "id": "m",
    "prompt": "Sum of a list.",
    "checks": json.dumps(
        {"kind": "mbpp", "test_imports": ["import math"], "test_list": ["assert total([1, 2]) == math.floor(3.5)"]}
    ),
}

HUMANEVAL_ANSWERS = {
    "body": BODY,
    "body without its first blanks": BODY.lstrip(),
    "body without any blanks": textwrap.dedent(BODY),
    "body in a block": f"Sure!\n```\n{BODY}```",
    "body and more that would fail": f"{BODY}\n\nprint(total(1))\nassert False\n",
    "whole": HEAD + BODY,
    "whole without imports": HEAD.partition("\n\n\n")[2] + BODY,
    "whole in a block": f"Here it is:\n\n```python\n{HEAD}{BODY}```\nIt sums.\n```\ntotal(1)\n```",
    "whole in the second block": f"```\npip install x\n```\nthen\n```python\n{HEAD}{BODY}```",
    "whole in a block that never ends": f"```python\n{HEAD}{BODY}",
    "whole in an indented block": "1. So:\n   ```python\n" + textwrap.indent(HEAD + BODY, "   ") + "   ```\n",
}


def test_every_form_of_a_right_answer_passes():
    scores = CODE.score_all([HUMANEVAL] * len(HUMANEVAL_ANSWERS), list(HUMANEVAL_ANSWERS.values()))
    assert dict(zip(HUMANEVAL_ANSWERS, scores, strict=True)) == {name: {"pass@1": 1.0} for name in HUMANEVAL_ANSWERS}


def test_wrong_answers_and_those_that_end_before_the_tests_fail():
    answers = [
        "    return 3\n",
        "",
        "I cannot do that.",
        "    import sys\n    sys.exit(0)\n",
        "    import os\n    os._exit(0)\n",
        HEAD + "    return sum(xs)\n\nraise SystemExit(0)\n",
        "    while True: pass\n",
    ]
    scores = CODE.score_all([HUMANEVAL] * len(answers), answers, SandboxLimits(seconds=2))
    assert [score["pass@1"] for score in scores] == [0.0] * len(answers)


def test_mbpp_answers():
    answers = [
        "def total(xs): return sum(xs)",
        "```python\ndef total(xs):\n    return sum(xs)\n```\nTry:\n```python\nprint(total([1]))\n```",
        "def total(xs): return 4",
        "def other(xs): return sum(xs)",
    ]
    scores = CODE.score_all([MBPP] * len(answers), answers)
    assert [score["pass@1"] for score in scores] == [1.0, 1.0, 0.0, 0.0]
    assert CODE.score(MBPP, answers[0]) == {"pass@1": 1.0}


def test_a_fence_inside_a_line_is_no_block():
    assert fenced("use ```x``` here") == "use ```x``` here"
    assert fenced("~~~\n```py\na\n```\n```\nb\n```", "b") == "b\n"


def test_no_items_are_no_programs():
    assert CODE.score_all([], []) == []
    assert CODE.runs_code
    assert [name for name, scorer in SCORERS.items() if scorer.runs_code] == ["code"]


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        (None, "no JSON text in a column `checks`"),
        ("{", "is no JSON"),
        ("{}", "lacks kind"),
        ('{"kind": "apps"}', "unknown kind of checks 'apps'"),
        ('{"kind": "humaneval"}', "lacks test, entry_point"),
    ],
)
def test_items_that_cannot_be_scored_are_named(checks, message):
    with pytest.raises(EvaluationError, match=rf"item 'x' cannot be scored by code: .*{message}"):
        build_program({"id": "x", "prompt": "", "checks": checks}, "")


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_the_sets_own_solutions_pass_and_empty_answers_fail(name):
    rows = pq.read_table(ROOT / "demo" / "data" / "tasks" / f"{name}.parquet").to_pylist()
    scores = CODE.score_all(rows, [row["target"] for row in rows])
    assert [row["id"] for row, score in zip(rows, scores, strict=True) if score["pass@1"] != 1.0] == []
    assert {score["pass@1"] for score in CODE.score_all(rows[:6], ["    pass"] * 6)} == {0.0}
