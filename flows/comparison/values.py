"""What a comparison of runs says, as frozen values that go to JSON and back.

Text, CSV and page are all made from these and read nothing else, so that they cannot disagree. Rows are told by count
and a few examples, never as a whole: the value stays small however large the pools are.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from eval.tables import Comparison

Scope = Literal["all", "source", "task"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ComparedRun(_Frozen):
    """A run by the name it has in this comparison. pool: rows left after cleaning; seconds: of all its stages."""

    label: str
    name: str
    finished: str
    record: str
    model: str
    pool: int
    seconds: float


class Setting(_Frozen):
    """A configuration key that differs, with its value in every run as text; None where a run does not have it."""

    key: str
    values: tuple[str | None, ...]


class Part(_Frozen):
    """Rows of an arm that share a source or a winning task. pool: share of the run's pool, for a source."""

    name: str
    rows: int
    share: float
    pool: float | None = None


class SelectedArm(_Frozen):
    """What a run selected by one method. tokens: of the encoded rows, None where the run's encoding is gone; tasks:
    empty for a method that does not look at the targets."""

    label: str
    run: str
    method: str
    rows: int
    tokens: int | None
    sources: tuple[Part, ...]
    tasks: tuple[Part, ...]


class Measured(_Frozen):
    """One figure of quality, diversity or complexity (`curate.figures.FIGURES`) of a run's pool, whose label is
    `run:pool`, or of an arm, with its 95 % interval."""

    label: str
    figure: str
    value: float
    low: float
    high: float


class Overlap(_Frozen):
    """Rows that two arms have in common: of all, of one source, or won by one task in both.

    expected: rows that two random draws of these sizes from the rows that both could select would share; jaccard: None
    where neither arm has such a row.
    """

    first: str
    second: str
    scope: Scope
    name: str
    first_rows: int
    second_rows: int
    common: int
    jaccard: float | None
    expected: float


class RowOf(_Frozen):
    """A row with its source and the task that won it."""

    id: str
    source: str
    task: str | None


class Change(_Frozen):
    """From an arm of the first run to the same method's arm of another. added, dropped: the first few, by rank."""

    method: str
    first: str
    other: str
    kept: int
    added_rows: int
    dropped_rows: int
    added: tuple[RowOf, ...]
    dropped: tuple[RowOf, ...]


class Training(_Frozen):
    """One training run of an arm. rows, tokens: trained on, repeats counted; passes: rows over the arm's rows; losses:
    mean loss per row, not reweighted, over the first and the last tenth of the steps; None where no loss was finite."""

    label: str
    seed: int
    steps: int
    rows: int
    tokens: int
    passes: float
    first_loss: float | None
    last_loss: float | None
    seconds: float


class ScoredItems(_Frozen):
    """Which items a metric's table is made of. excluded: overlap a target or training row of one of the runs; unshared:
    not scored in all; lonely: the only one of their task that is left, of which no interval can be made."""

    metric: str
    common: int
    excluded: int
    unshared: int
    lonely: int

    @property
    def left_out(self) -> int:
        return self.excluded + self.unshared + self.lonely


class RunComparison(_Frozen):
    """All of it. notes: what the tables alone would not say; controls: what the arms are compared with, last one in the
    figures."""

    runs: tuple[ComparedRun, ...]
    notes: tuple[str, ...]
    settings: tuple[Setting, ...]
    arms: tuple[SelectedArm, ...]
    measured: tuple[Measured, ...]
    overlaps: tuple[Overlap, ...]
    changes: tuple[Change, ...]
    training: tuple[Training, ...]
    items: tuple[ScoredItems, ...]
    results: Comparison

    def overlap(self, first: str, second: str, scope: Scope = "all", name: str = "") -> Overlap | None:
        """Of two arms in either order; None where they have no row of that source or task."""
        pair = {first, second}
        return next(
            (o for o in self.overlaps if {o.first, o.second} == pair and (o.scope, o.name) == (scope, name)), None
        )
