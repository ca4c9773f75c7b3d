"""The record of one finished night: what was decided and why, what it cost, what changed in the selection.

It names no stage by its key, so that `equipoise gc` keeps what is live and not what every night ever made.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flows.nightly.files import Record
from flows.nightly.gate import Compared

FORMAT = 1
Outcome = Literal["promoted", "refused", "unchanged"]
Departure = Literal["vanished", "rejected", "removed", "not encoded", "not scored", "outranked"]
Arrival = Literal["new", "returned", "risen"]


class Warmth(Record):
    """kept: whether the warmup of an earlier night was used; why: in words."""

    kept: bool
    why: str


class PoolChange(Record):
    """Rows read, by id, against those that were read for what is live."""

    rows: int
    new: int
    vanished: int


class GradientCost(Record):
    """Pool rows whose gradient was computed, and found, at each checkpoint; all are found where the whole stage is."""

    computed: tuple[int, ...]
    found: tuple[int, ...]


class Entered(Record):
    """A row that is selected and was not. rank: from 0; utility: None where the method has none."""

    id: str
    source: str
    rank: int
    utility: float | None
    why: Arrival
    told: str


class Left(Record):
    """A row that was selected and is not any more. rank, utility: what they were; gap: what BIDS says it would add at
    the end of tonight's selection, last: what the last row there added; None where that is not known."""

    id: str
    source: str
    rank: int
    utility: float | None
    why: Departure
    told: str
    gap: float | None = None
    last: float | None = None


class SelectionChange(Record):
    """Tonight's selection beside the live one. rewritten: ids of kept rows whose text is another now."""

    rows: int
    kept: int
    added: tuple[Entered, ...]
    dropped: tuple[Left, ...]
    rewritten: tuple[str, ...] = ()


class Night(Record):
    """number: its place among the nights of that name; run: what `equipoise report` and `compare` call its run;
    against: the night that was live before, None where nothing was; live: the night that is live after it."""

    format: int = FORMAT
    number: int = Field(ge=1)
    name: str
    finished: str
    run: str
    method: str
    outcome: Outcome
    against: int | None
    live: int | None
    reasons: tuple[str, ...]
    compared: tuple[Compared, ...]
    warmup: Warmth
    pool: PoolChange
    gradients: GradientCost
    selection: SelectionChange
