"""What a scorer is: from items and a model's answers to metrics per item.

lm-evaluation-harness scores by a mean over a task; we need each item's own value, and programs must run many at a time,
so a scorer here takes whole lists. A task names its scorer by the key `scorer:` of its YAML file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.errors import EvaluationError
from eval.sandbox import SandboxLimits

Document = Mapping[str, Any]  # a row of a task's items
Metrics = dict[str, float]
Batch = Callable[[Sequence[Document], Sequence[str], SandboxLimits | None], list[Metrics]]


@dataclass(frozen=True, slots=True)
class Scorer:
    """A way to score written answers; all metrics are shares between 0 and 1, higher is better."""

    name: str
    metrics: tuple[str, ...]
    batch: Batch
    runs_code: bool = False  # whether programs that the model wrote are run, in `eval.sandbox`

    def score_all(
        self, docs: Sequence[Document], answers: Sequence[str], sandbox: SandboxLimits | None = None
    ) -> list[Metrics]:
        """Metrics of each answer, in the order given. sandbox: limits for programs; unset: the defaults.

        Raises `EvaluationError` for an item that lacks what this scorer compares with, or an optional package.
        """
        if len(docs) != len(answers):
            raise EvaluationError(f"scorer {self.name}: {len(docs)} items but {len(answers)} answers")
        return self.batch(docs, answers, sandbox)

    def score(self, doc: Document, answer: str) -> Metrics:
        """Metrics of one answer."""
        return self.score_all([doc], [answer])[0]


def each(one: Callable[[Document, str], Metrics]) -> Batch:
    """A batch scorer out of one that looks at an answer by itself."""
    return lambda docs, answers, sandbox: [one(doc, answer) for doc, answer in zip(docs, answers, strict=True)]


def wrong_item(doc: Document, scorer: str, problem: str) -> EvaluationError:
    return EvaluationError(f"item {doc.get('id', '?')!r} cannot be scored by {scorer}: {problem}")


def read_target(doc: Document, scorer: str) -> str:
    """The item's reference answer."""
    target = doc.get("target")
    if not isinstance(target, str) or not target.strip():
        raise wrong_item(doc, scorer, "its column `target` holds no text")
    return target


def read_checks(doc: Document, scorer: str, *needed: str) -> dict[str, Any]:
    """The object in the item's JSON column `checks`, which must have the keys `needed`."""
    text = doc.get("checks")
    if not isinstance(text, str):
        raise wrong_item(doc, scorer, "it has no JSON text in a column `checks`")
    try:
        checks = json.loads(text)
    except json.JSONDecodeError as error:
        raise wrong_item(doc, scorer, f"its column `checks` is no JSON: {error}") from error
    missing = [key for key in needed if not isinstance(checks, dict) or key not in checks]
    if missing:
        raise wrong_item(doc, scorer, f"its column `checks` lacks {', '.join(missing)}")
    return checks
