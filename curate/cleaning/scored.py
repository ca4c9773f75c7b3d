"""Filters that score every row: one rule for which of them go, by threshold or at the same rate in every group.

A threshold is the same for all and its removal rate is not; `equalise` keeps the rate over all rows and gives it to
every group (`balance.equalised`). Its price: rows under the threshold go where a group has few over it, and rows over
it stay where a group has many.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from curate.cleaning.balance import equalised
from curate.cleaning.contract import Gone, Removed
from curate.records import Example

DECIMALS = 4  # of what models say: float32 sums of another batch differ from the sixth on


@dataclass(frozen=True)
class Verdict:
    """One row's score (higher is worse, NaN: none), whether it is past the threshold, and why."""

    score: float
    over: bool
    reason: str


@dataclass(frozen=True)
class Equal:
    """The grouping whose groups shall lose the same share: its name and the group of a row."""

    by: str
    group_of: Callable[[Example], str]


class ScoredFilter(ABC):
    """A filter that gives every row a `Verdict`; alone, or over the sketches of a whole pool."""

    name: ClassVar[str]
    _equal: Equal | None

    @abstractmethod
    def _verdicts(self, examples: Sequence[Example]) -> list[Verdict]: ...

    def __call__(self, examples: Sequence[Example]) -> tuple[list[Example], list[Removed]]:
        """The rows that are kept and removed, of rows that are judged alone or are all there."""
        gone = {each.row: each for each in self.decide([self.sketch(examples)])}
        removed = [
            Removed(examples[row].id, examples[row].source, self.name, each.reason, "") for row, each in gone.items()
        ]
        return [example for row, example in enumerate(examples) if row not in gone], removed

    def sketch(self, examples: Sequence[Example]) -> pa.Table:
        """What `decide` needs to know of the rows."""
        verdicts = self._verdicts(examples)
        judged = {
            "score": pa.array([verdict.score for verdict in verdicts], pa.float64()),
            "over": pa.array([verdict.over for verdict in verdicts], pa.bool_()),
            "reason": pa.array([verdict.reason for verdict in verdicts], pa.string()),
        }
        return pa.table(judged | keys(examples, self._equal))

    def decide(self, sketches: Sequence[pa.Table]) -> list[Gone]:
        """The rows past the threshold or, with groups that shall be equal, as many of each; in order."""
        judged = pa.concat_tables(sketches)
        over = judged["over"].to_numpy()
        gone = rows_over(judged["score"].to_numpy(), over, judged, self._equal)
        reasons = judged["reason"].take(pa.array(gone)).to_pylist()
        more = why_equal(judged, gone, over, self._equal)
        return [Gone(row, -1, why + also) for row, why, also in zip(gone.tolist(), reasons, more, strict=True)]


def keys(examples: Sequence[Example], equal: Equal | None) -> dict[str, Any]:
    """Columns: the group of every row, and the id that breaks ties; nothing where no groups shall be equal."""
    if equal is None:
        return {}
    groups = [equal.group_of(example) for example in examples]
    ids = [example.id for example in examples]
    return {"group": pa.array(groups, pa.string()), "id": pa.array(ids, pa.string())}


def rows_over(scores: np.ndarray, over: np.ndarray, judged: pa.Table, equal: Equal | None) -> np.ndarray:
    """(n,) int64 places of the rows that go. judged: has the columns of `keys`."""
    if equal is None:
        return np.flatnonzero(over)
    return np.flatnonzero(equalised(scores, over, judged["group"].to_pylist(), judged["id"].to_pylist()))


def why_equal(judged: pa.Table, gone: np.ndarray, over: np.ndarray, equal: Equal | None) -> list[str]:
    """What the reason of each of these rows says besides, where groups shall be equal."""
    if equal is None:
        return [""] * gone.size
    groups = judged["group"].take(pa.array(gone)).to_pylist()
    return [
        f"; among the highest scores of {equal.by} {group}, as many as {over.mean():.1%} of all" for group in groups
    ]
