"""The report's figures on training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from eval.compare import AVERAGE, MetricTable
from flows.report.figures import COLOURS, GREY, new_figure, short, styled, to_svg


def mixture(records: Sequence[Mapping], losses: Sequence[tuple[int, float]]) -> str:
    """Share of trained tokens per source over training with the temperature, and the loss."""
    with styled():
        figure, (left, right) = new_figure(9, 3.2, 2)
        totals: dict[str, int] = {}
        for record in records:
            for source, tokens in record["trained_tokens"].items():
                totals[source] = totals.get(source, 0) + tokens
        top = sorted(totals, key=lambda s: -totals[s])[: len(COLOURS) - 1]
        window = max(1, len(records) // 20)
        steps, stacks = [], []
        for start in range(0, len(records), window):
            part = records[start : start + window]
            whole = sum(sum(r["trained_tokens"].values()) for r in part) or 1
            shares = [sum(r["trained_tokens"].get(s, 0) for r in part) / whole for s in top]
            steps.append(start + len(part) / 2)
            stacks.append([*shares, 1 - sum(shares)])
        names = [*top, "others"]
        left.stackplot(
            steps, np.array(stacks).T, labels=[short(n, 18) for n in names], colors=[*COLOURS[: len(top)], "#d5d8dc"]
        )
        left.set(xlabel="optimizer step", ylabel="share of trained tokens", ylim=(0, 1), title="Mixture over training")
        left.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        switches = [r["step"] for a, r in pairwise(records) if r["temperature"] != a["temperature"]]
        for step in switches:
            left.axvline(step, color="#222", linewidth=0.8, linestyle="--")
        if losses:
            right.plot(*zip(*losses, strict=True), color=COLOURS[0], linewidth=1.2)
        right.set(xlabel="optimizer step", ylabel="loss (nats per token)", title="Training loss")
        return to_svg(figure)


def evaluation(table: MetricTable) -> str:
    """Means with intervals per capability and model."""
    with styled():
        names = [*table.capabilities, AVERAGE]
        figure, (axis,) = new_figure(8, 0.7 + 0.5 * len(names))
        rows = np.arange(len(names), dtype=float)
        for k, model in enumerate(table.models):
            cells = [table.cell(model, name) for name in names]
            means = np.array([c.mean for c in cells])
            errors = np.array([[c.mean - c.low for c in cells], [c.high - c.mean for c in cells]])
            axis.errorbar(
                means,
                rows + (k - (len(table.models) - 1) / 2) * 0.2,
                xerr=np.maximum(errors, 0),
                fmt="o",
                markersize=4,
                capsize=2,
                linewidth=1.2,
                label=model,
                color=GREY if k == 0 else COLOURS[k - 1],
            )
        axis.set_yticks(rows, names)
        axis.invert_yaxis()
        axis.set_xlabel(f"{table.metric.name} ({'higher' if table.metric.higher_is_better else 'lower'} is better)")
        axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axis.grid(axis="x", color="#e6e8eb", linewidth=0.8)
        axis.set_axisbelow(True)
        return to_svg(figure)
