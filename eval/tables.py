"""The tables of a comparison: frozen values that go to JSON and back, and their Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from eval.statistics import Interval, Verdict

AVERAGE = "average"
TASK_AVERAGE = "average over tasks"
Kind = Literal["task", "capability", "average"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Metric(_Frozen):
    """What is compared, and which way is up."""

    name: str
    higher_is_better: bool
    unit: str = ""


# what lm-evaluation-harness and our scorers call their values → what a table calls them
METRICS = {
    "acc": Metric(name="accuracy", higher_is_better=True),
    "exact_match": Metric(name="exact match", higher_is_better=True),
    "prompt_strict": Metric(name="instructions followed", higher_is_better=True),
    "prompt_level_strict_acc": Metric(name="instructions followed", higher_is_better=True),
    "pass@1": Metric(name="programs that pass", higher_is_better=True),
}
ACCURACY, EXACT_MATCH = METRICS["acc"], METRICS["exact_match"]
BITS_PER_BYTE = Metric(name="held-out bits per byte", higher_is_better=False, unit="bits/byte")
BITS_PER_TOKEN = Metric(name="held-out bits per token", higher_is_better=False, unit="bits/token")


class Row(_Frozen):
    """A row of a table: a task of a capability with several, a capability, or an average."""

    name: str
    kind: Kind
    capability: str | None = Field(None, description="of a task")


class Cell(_Frozen):
    """A model's mean on a row."""

    model: str
    row: str
    interval: Interval


class Difference(_Frozen):
    """`model - control` on the same items. p_adjusted: for the number of rows of its kind; an average is not adjusted,
    since it is the one claim a table is made for."""

    model: str
    control: str
    row: str
    interval: Interval
    p: float
    p_adjusted: float
    verdict: Verdict


class Extreme(_Frozen):
    """A capability that stands out, and the figure that makes it."""

    capability: str
    interval: Interval


class Balance(_Frozen):
    """How evenly a model serves the capabilities.

    worst: the capability with the worst mean; spread: standard deviation of the capabilities' means; drop: the
    capability that lost most against the base model, in the metric's unit and positive where it lost (None for the base
    itself, and without one).
    """

    model: str
    worst: Extreme
    spread: Interval
    drop: Extreme | None


class MetricTable(_Frozen):
    """One metric: a column per model, a row per task (of capabilities that have several), capability and average."""

    metric: Metric
    models: tuple[str, ...]
    rows: tuple[Row, ...]
    controls: tuple[str, ...]
    cells: tuple[Cell, ...]
    differences: tuple[Difference, ...]
    balance: tuple[Balance, ...]

    @property
    def capabilities(self) -> list[str]:
        return [row.name for row in self.rows if row.kind == "capability"]

    def cell(self, model: str, row: str) -> Interval:
        return next(c.interval for c in self.cells if (c.model, c.row) == (model, row))

    def difference(self, model: str, control: str, row: str) -> Difference:
        return next(d for d in self.differences if (d.model, d.control, d.row) == (model, control, row))

    def balance_of(self, model: str) -> Balance:
        return next(b for b in self.balance if b.model == model)

    def least_gain(self, model: str, control: str) -> Difference:
        """The capability that gained least over the control (or lost most)."""
        sign = 1 if self.metric.higher_is_better else -1
        return min(
            (self.difference(model, control, name) for name in self.capabilities), key=lambda d: sign * d.interval.mean
        )


class Comparison(_Frozen):
    """All tables of a comparison, with how the intervals were made. notes: what a reader must know beside them, such as
    what is in no table."""

    tables: tuple[MetricTable, ...]
    confidence: float
    resamples: int
    seed: int
    notes: tuple[str, ...] = ()

    def to_markdown(self) -> str:
        """The tables as Markdown, differences and balance beneath each, and the notes."""
        notes = ["\n".join(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n\n".join([*(_table_markdown(table, self.confidence) for table in self.tables), *notes]) + "\n"

    def to_csv(self) -> str:
        """Every number in long form: metric, row, kind, model, control, mean, low, high, p, p_adjusted, verdict, items,
        runs; `control` is empty for a model's own mean."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        head = "metric row kind model control mean low high p p_adjusted verdict items runs"
        writer.writerow(head.split())
        for table in self.tables:
            kinds = {row.name: row.kind for row in table.rows}
            for c in table.cells:
                i = c.interval
                own = [table.metric.name, c.row, kinds[c.row], c.model, "", i.mean, i.low, i.high, "", "", ""]
                writer.writerow([*own, i.items, i.runs])
            for d in table.differences:
                i = d.interval
                name = [table.metric.name, d.row, kinds[d.row], d.model, d.control, i.mean, i.low, i.high]
                writer.writerow([*name, d.p, d.p_adjusted, d.verdict, i.items, i.runs])
        return buffer.getvalue()


def compared_pairs(models: Sequence[str], controls: Sequence[str]) -> list[tuple[str, str]]:
    """(model, control) of every difference: a control is itself compared with the controls before it only."""
    pairs = []
    for model in models:
        earlier = controls[: controls.index(model)] if model in controls else controls
        pairs += [(model, control) for control in earlier]
    return pairs


def interval_text(interval: Interval, sign: str = "") -> str:
    return f"{interval.mean:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def markdown_row(cells: Iterable[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _table_markdown(table: MetricTable, confidence: float) -> str:
    better = "higher is better" if table.metric.higher_is_better else "lower is better"
    over = "items and training seeds" if any(c.interval.runs > 1 for c in table.cells) else "items"
    lines = [f"**{table.metric.name}** ({better}; {confidence:.0%} intervals over {over})", ""]
    lines += _grid(
        ["", *table.models],
        [[row.name, *(interval_text(table.cell(m, row.name)) for m in table.models)] for row in table.rows],
    )
    pairs = compared_pairs(table.models, table.controls)
    if pairs:
        found = []
        for row in table.rows:
            each = [table.difference(m, c, row.name) for m, c in pairs]
            found.append([row.name, *(f"{interval_text(d.interval, '+')} {d.verdict}" for d in each)])
        least = [table.least_gain(m, c) for m, c in pairs]
        found.append(["least gain", *(f"{d.row} {d.interval.mean:+.3f}" for d in least)])
        lines += ["", *_grid(["", *(f"{m} − {c}" for m, c in pairs)], found)]
    figures = [
        [
            b.model,
            f"{b.worst.capability} {interval_text(b.worst.interval)}",
            interval_text(b.spread),
            f"{b.drop.capability} {interval_text(b.drop.interval, '+')}" if b.drop else "–",
        ]
        for b in table.balance
    ]
    head = ["balance", "worst capability", "standard deviation", "largest loss against base"]
    return "\n".join([*lines, "", *_grid(head, figures)])


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [markdown_row(head), markdown_row(["---"] * len(head)), *map(markdown_row, rows)]
