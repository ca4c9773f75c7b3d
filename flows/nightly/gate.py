"""Whether an adapter may go live: the decision alone, from the tables that the report shows.

Refused is what is worse on some capability beyond noise: `worse` in the table, that is, the paired difference's
interval lies wholly on the worse side and its p-value survives Holm's correction for the capabilities of that metric
(`eval.compare`). So of nights on which nothing changed at most 1 in 20 per metric is refused by chance. What the
configuration asks to be measured and is not (every item of a capability overlaps what was trained on, say) refuses as
well: silence is no proof. A difference that the intervals cannot tell from zero passes, since fresh data is worth
having by itself; what may have been missed is the far end of the interval, which every record keeps. Bits per token are
the same losses as bits per byte once more and are not asked.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from eval.statistics import Interval, Verdict
from eval.tables import AVERAGE, BITS_PER_TOKEN, Comparison, MetricTable
from flows.nightly.files import Record
from flows.nightly.settings import Require

# metric's name, capability
Asked = tuple[str, str]


class Compared(Record):
    """The candidate's difference to one control on one capability, or on their average."""

    metric: str
    capability: str
    control: str
    higher_is_better: bool
    difference: Interval
    p_adjusted: float
    verdict: Verdict

    @property
    def loss(self) -> float:
        """How much worse than the control it may be at most: the far end of the interval; negative where it is better
        in any case."""
        return -self.difference.low if self.higher_is_better else self.difference.high

    def in_words(self) -> str:
        d = self.difference
        return f"{self.capability}, {self.metric}: {d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}] against {self.control}"


@dataclass(frozen=True)
class Decision:
    """promote: whether it may go live; reasons: in words, what refuses it, or what speaks for it; compared: every
    difference that was looked at, averages last of each metric."""

    promote: bool
    reasons: tuple[str, ...]
    compared: tuple[Compared, ...] = ()


def decide(
    comparison: Comparison,
    candidate: str,
    controls: Sequence[str],
    *,
    asked: Collection[Asked] = (),
    require: Require = "not_worse",
) -> Decision:
    """Whether `candidate` may replace the first of `controls` and be no worse than any of the others.

    controls: names of models in the tables; none: whatever was measured may go live. asked: what must have been
    measured.
    """
    tables = [table for table in comparison.tables if table.metric != BITS_PER_TOKEN]
    refusals = list(_unmeasured(tables, candidate, controls, asked))
    compared: list[Compared] = []
    for table in tables:
        if candidate in table.models:
            compared += [each for c in controls if c in table.controls for each in _differences(table, candidate, c)]
    refusals += [f"{each.in_words()}: not a number" for each in compared if not _is_finite(each)]
    capabilities = [each for each in compared if _is_finite(each) and each.capability != AVERAGE]
    refusals += [f"worse: {each.in_words()}" for each in capabilities if each.verdict == "worse"]
    clear = [
        each
        for each in compared
        if each.capability == AVERAGE and each.control == controls[0] and each.verdict == "better"
    ]
    if require == "better" and controls and not clear:
        refusals.append(f"the average of no metric is clearly better than {controls[0]}, as promotion.require asks")
    if refusals:
        return Decision(False, tuple(refusals), tuple(compared))
    return Decision(True, tuple(_in_favour(capabilities, clear, controls)), tuple(compared))


def _unmeasured(
    tables: Sequence[MetricTable], candidate: str, controls: Sequence[str], asked: Collection[Asked]
) -> Iterator[str]:
    if not tables:
        yield "nothing was measured that could be compared"
    for table in tables:
        if candidate not in table.models:
            yield f"{table.metric.name}: {candidate} was not measured"
        for control in controls:
            if control not in table.controls:
                yield f"{table.metric.name}: nothing was compared with {control}"
        if not table.capabilities:
            yield f"{table.metric.name}: no capability was measured"
    measured = {(table.metric.name, name) for table in tables for name in table.capabilities}
    for metric, capability in sorted(set(asked) - measured):
        yield f"{capability}, {metric}: not measured, so nothing shows that it is not worse"


def _differences(table: MetricTable, candidate: str, control: str) -> list[Compared]:
    found = []
    for row in (*table.capabilities, AVERAGE):
        difference = table.difference(candidate, control, row)
        found.append(
            Compared(
                metric=table.metric.name,
                capability=row,
                control=control,
                higher_is_better=table.metric.higher_is_better,
                difference=difference.interval,
                p_adjusted=difference.p_adjusted,
                verdict=difference.verdict,
            )
        )
    return found


def _is_finite(each: Compared) -> bool:
    d = each.difference
    return all(map(math.isfinite, (d.mean, d.low, d.high, each.p_adjusted)))


def _in_favour(capabilities: Sequence[Compared], clear: Sequence[Compared], controls: Sequence[str]) -> Iterator[str]:
    if not controls:
        yield "nothing is live to be compared with"
        return
    yield from (f"better: {each.in_words()}" for each in clear)
    yield f"no capability is worse than {' or '.join(controls)} beyond noise"
    for metric in dict.fromkeys(each.metric for each in capabilities):
        least = max((each for each in capabilities if each.metric == metric), key=lambda each: each.loss)
        yield f"least certain: {least.in_words()}"
