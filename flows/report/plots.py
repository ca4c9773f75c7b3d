"""The report's figures as inline SVG. One style for all: thin axes, direct labels, colours that survive colour
blindness."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from curate.selection.explain import SourceShare
from eval.compare import AVERAGE, MetricTable

# Okabe-Ito: distinguishable with every common colour blindness
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#555555")
GREY = "#8a8f98"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa0a8",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": "#444",
    "ytick.color": "#444",
    "svg.hashsalt": "equipoise",
    "svg.fonttype": "none",
}


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _short(name: str, length: int = 26) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def source_shares(arms: Mapping[str, Sequence[SourceShare]]) -> str:
    """Bars per source: its share of the pool, and of every selection."""
    with matplotlib.rc_context(STYLE):
        first = next(iter(arms.values()))
        names = [share.source for share in first]
        figure, (axis,) = _figure(8, 0.6 + 0.42 * len(names))
        thickness = 0.8 / (len(arms) + 1)
        rows = np.arange(len(names))
        series = [("pool", [s.pool_share for s in first], GREY)]
        series += [
            (arm, [s.selected_share for s in shares], COLOURS[k]) for k, (arm, shares) in enumerate(arms.items())
        ]
        for k, (label, values, colour) in enumerate(series):
            axis.barh(rows + (k - len(arms) / 2) * thickness, values, thickness * 0.9, label=label, color=colour)
        axis.set_yticks(rows, [_short(name) for name in names])
        axis.invert_yaxis()
        axis.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
        axis.set_xlabel("share of rows")
        axis.legend(frameon=False, loc="lower right")
        return _svg(figure)


def influence_heat_map(influence: Mapping[str, Mapping[str, float]]) -> str:
    """Source x task: mean z-score of the source's rows on the task's targets."""
    with matplotlib.rc_context(STYLE):
        sources, tasks = list(influence), list(next(iter(influence.values())))
        values = np.array([[influence[s][t] for t in tasks] for s in sources])
        limit = max(1e-9, float(np.abs(values).max()))
        figure, (axis,) = _figure(2.2 + 1.0 * len(tasks), 0.8 + 0.36 * len(sources))
        image = axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        axis.set_xticks(range(len(tasks)), tasks)
        axis.set_yticks(range(len(sources)), [_short(s) for s in sources])
        for (i, j), value in np.ndenumerate(values):
            axis.text(
                j, i, f"{value:+.1f}", ha="center", va="center", color="white" if abs(value) > 0.6 * limit else "#333"
            )
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        figure.colorbar(image, ax=axis, shrink=0.7, label="mean z-score")
        return _svg(figure)


def utility_curve(utility: Sequence[float], tasks: Sequence[str | None]) -> str:
    """Utility of each pick by rank, and how many picks every task has won so far."""
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = _figure(9, 3.0, 2)
        ranks = np.arange(1, len(utility) + 1)
        left.plot(ranks, utility, color=COLOURS[0], linewidth=1.2)
        left.set(xlabel="rank of the pick", ylabel="utility (z-scores)", title="What each pick adds")
        for k, task in enumerate(sorted({t for t in tasks if t})):
            won = np.cumsum([t == task for t in tasks])
            right.plot(ranks, won, color=COLOURS[k % len(COLOURS)], linewidth=1.2)
            right.annotate(f" {task}", (ranks[-1], won[-1]), color=COLOURS[k % len(COLOURS)], va="center", fontsize=8)
        right.set(xlabel="rank of the pick", ylabel="picks won", title="For which capability rows were picked")
        right.margins(x=0.22)
        return _svg(figure)


def mixture(records: Sequence[Mapping], losses: Sequence[tuple[int, float]]) -> str:
    """Share of trained tokens per source over training with the temperature, and the loss."""
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = _figure(9, 3.2, 2)
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
            steps, np.array(stacks).T, labels=[_short(n, 18) for n in names], colors=[*COLOURS[: len(top)], "#d5d8dc"]
        )
        left.set(xlabel="optimizer step", ylabel="share of trained tokens", ylim=(0, 1), title="Mixture over training")
        left.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        switches = [r["step"] for a, r in pairwise(records) if r["temperature"] != a["temperature"]]
        for step in switches:
            left.axvline(step, color="#222", linewidth=0.8, linestyle="--")
        if losses:
            right.plot(*zip(*losses, strict=True), color=COLOURS[0], linewidth=1.2)
        right.set(xlabel="optimizer step", ylabel="loss (nats per token)", title="Training loss")
        return _svg(figure)


def evaluation(table: MetricTable) -> str:
    """Means with intervals per capability and model."""
    with matplotlib.rc_context(STYLE):
        names = [*table.capabilities, AVERAGE]
        figure, (axis,) = _figure(8, 0.7 + 0.5 * len(names))
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
        return _svg(figure)
