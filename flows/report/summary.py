"""The head of the report: one sentence on the run and its key figures.

A figure on the outcome is the average difference of the first method to its last control with the interval, and it is
coloured only where the interval leaves zero out: what is not clear must not look like a win.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.tables import AVERAGE, Comparison, MetricTable
from flows.report.data import ReportData

NO_CLEAR_DIFFERENCE = "no clear difference"
SHOWN_OUTCOMES = 2


@dataclass(frozen=True)
class KeyFigure:
    """A number with what it is and a line beneath it; tone: `better`, `worse`, `unclear` or empty."""

    name: str
    value: str
    detail: str
    tone: str = ""


def sentence(data: ReportData) -> str:
    """What was chosen from what, for what, and what it was compared with."""
    first, *others = data.arms
    pool, chosen = _rows(data)
    told = (
        f"{chosen:,} of {pool:,} conversations selected by {first.name} to serve {_listed(data.analysis['tasks'])}"
        if pool
        else f"Conversations selected by {first.name} to serve {_listed(data.analysis['tasks'])}"
    )
    return f"{told}, beside {_listed([arm.name for arm in others])} with the same budget." if others else f"{told}."


def key_figures(data: ReportData) -> list[KeyFigure]:
    pool, chosen = _rows(data)
    sources = sum(share.pool > 0 for share in data.arms[0].shares)
    share = f"{chosen / pool:.1%} of the pool, by {data.arms[0].name}" if pool else f"by {data.arms[0].name}"
    return [
        KeyFigure("rows in the pool", f"{pool:,}", f"from {sources} source{'s' * (sources != 1)}, after cleaning"),
        KeyFigure("rows selected", f"{chosen:,}", share),
        KeyFigure("methods", str(len(data.arms)), ", ".join(arm.name for arm in data.arms)),
        *outcomes(data.comparison, data.arms[0].name),
    ]


def outcomes(comparison: Comparison, model: str) -> list[KeyFigure]:
    """The average of each metric against the last control, the tables' order kept; accuracy first where there are more
    tables than are shown."""
    tables = [table for table in comparison.tables if _control(table, model)]
    ordered = sorted(tables, key=lambda table: not table.metric.higher_is_better)[:SHOWN_OUTCOMES]
    return [_outcome(table, model, comparison.confidence) for table in ordered]


def _outcome(table: MetricTable, model: str, confidence: float) -> KeyFigure:
    control = str(_control(table, model))
    found = table.difference(model, control, AVERAGE)
    clear = found.verdict != NO_CLEAR_DIFFERENCE
    better = "higher" if table.metric.higher_is_better else "lower"
    return KeyFigure(
        name=f"{model} against {control}: {table.metric.name} ({better} is better)",
        value=_signed(found.interval.mean),
        detail=f"{found.verdict}: average of {len(table.capabilities)} capabilities, {confidence:.0%} interval "
        f"{_signed(found.interval.low)} to {_signed(found.interval.high)}",
        tone=found.verdict if clear else "unclear",
    )


def _control(table: MetricTable, model: str) -> str | None:
    """The last control that the model was compared with; None for a control itself."""
    if model not in table.models or model in table.controls or not table.controls:
        return None
    return table.controls[-1]


def _rows(data: ReportData) -> tuple[int, int]:
    """Rows in the cleaned pool and in the first method's selection."""
    shares = data.arms[0].shares
    return sum(share.pool for share in shares), sum(share.selected for share in shares)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
