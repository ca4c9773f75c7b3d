"""The way of the rows from the sources to the selections: how many came to each step, what left there and why.

The numbers are the stages' own accounting, and each step must begin with what the one before it left; a flow that does
not add up is an error, never a picture. Methods choose from the same rows, so their ribbons add up to no total; the
page says so. Ribbons are as high as their rows, but never thinner than a line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from curate.selection.inputs import INPUTS
from flows.report.figures import colour, new_figure, short, styled, to_svg
from flows.store import StageOutput, StoreError

IN_AND_OUT = {"rows_in", "rows_out"}
STEPS = {"ingest": "read", "clean": "in the pool", "encode": "cleaned"}  # stage -> what its incoming rows are called
ENCODED = "can be trained on"
REASONS = {
    "rejected": "rejected as unreadable",
    "targets": "targets to steer by",
    "exact_duplicates": "exact duplicates",
    "target_overlap": "same text as a target",
    "word_run_overlap": "overlap a target or test item",
    "near_match": "nearly a target or test item",
    "language": "not in a wanted language",
    "quality": "broken or refused answers",
    "personal_data": "hold personal data",
    "toxicity": "found toxic",
    "near_duplicates": "near-duplicates",
    "semantic_duplicates": "semantic duplicates",
    "excluded": "no answer in the token limit",
    "not_selected": "not selected",
}
UNSCORED = "could not be scored"
DARK, STEM, LOSS = "#0f4c75", "#cfe0ec", "#5f6873"
FOOT, THINNEST = 0.19, 0.02  # inches: from one reason to the next, and the height of a ribbon of few rows


@dataclass(frozen=True)
class Step:
    """`rows` came to this step, called `name`; `left`: (why, rows) of those that went no further."""

    name: str
    rows: int
    left: list[tuple[str, int]]


@dataclass(frozen=True)
class Branch:
    """One method: of `rows` that could be trained on, `left` were not selected or not scored, `exported` are in its
    dataset."""

    method: str
    rows: int
    left: list[tuple[str, int]]
    exported: int


@dataclass(frozen=True)
class RowFlow:
    steps: list[Step]
    branches: list[Branch]


def read_flow(stages: Mapping[str, StageOutput], methods: Sequence[str]) -> RowFlow:
    """The flow of a run's stages; those that it has not are left out. Raises `StoreError` if rows do not add up."""
    steps: list[Step] = []
    rows = None
    for stage, name in STEPS.items():
        if stage not in stages:
            continue
        counts = stages[stage].rows
        steps.append(Step(name, counts["rows_in"], _left(stage, counts, rows)))
        rows = counts["rows_out"]
    if rows is None:
        return RowFlow([], [])
    steps.append(Step(ENCODED if "encode" in stages else "left", rows, []))
    return RowFlow(steps, [_branch(stages, method, rows) for method in methods if f"select-{method}" in stages])


def figure_of(flow: RowFlow) -> str:
    """The stem of rows from left to right, losses falling out of it with their reason, one ribbon per method."""
    with styled():
        stem = max(1.3, 0.38 * len(flow.branches))  # its height in inches: every method has two lines of text
        inch = 1 / stem
        lowest = max((len(step.left) for step in flow.steps), default=0)
        figure, (axis,) = new_figure(9.4, stem + 0.75 + FOOT * (lowest + 0.5))
        scale = 1 / max(1, flow.steps[0].rows)
        last = len(flow.steps) - 1
        for place, step in enumerate(flow.steps):
            _step(axis, place, step, flow.steps[place + 1].rows if place < last else None, scale, inch)
        _branches(axis, last, flow, scale, inch)
        axis.set(xlim=(-0.1, last + 1.95), ylim=(-(0.15 + FOOT * (lowest + 0.5)) * inch, 1.0 + 0.6 * inch))
        axis.axis("off")
        return to_svg(figure)


def _left(stage: str, counts: Mapping[str, int], before: int | None) -> list[tuple[str, int]]:
    """(why, rows) of a stage's losses; checks that it began with the rows before and lost what it says."""
    left = [(name, count) for name, count in counts.items() if name not in IN_AND_OUT]
    if counts["rows_in"] != counts["rows_out"] + sum(count for _, count in left):
        raise StoreError(f"stage {stage} does not add up: {dict(counts)}; please report this as a bug")
    if before not in (None, counts["rows_in"]):
        raise StoreError(
            f"stage {stage} was given {counts['rows_in']} rows and the stage before it left {before}; "
            "please report this as a bug"
        )
    return [(REASONS.get(name, name.replace("_", " ")), count) for name, count in left if count]


def _branch(stages: Mapping[str, StageOutput], method: str, rows: int) -> Branch:
    kind = INPUTS[method]
    scored = stages.get("attribution" if kind == "influence" else f"similarity-{kind}")
    left, scored_rows = [], rows
    if scored is not None:
        left = [(UNSCORED, count) for _, count in _left(scored.stage, scored.rows, rows)]
        scored_rows = scored.rows["rows_out"]
    selected = stages[f"select-{method}"].rows
    left += _left(f"select-{method}", selected, scored_rows)
    chosen = selected["rows_out"]
    exported = stages.get(f"export-{method}")
    if exported is not None:
        left += _left(exported.stage, exported.rows, chosen)
        chosen = exported.rows["rows_out"]
    return Branch(method, rows, left, chosen)


def _step(axis: Axes, place: int, step: Step, after: int | None, scale: float, inch: float) -> None:
    """One length of the stem with its number above; the stem's top is level, what leaves falls from its lower edge."""
    axis.add_patch(_box(place - 0.05, place + 0.05, 1.0, step.rows * scale, DARK))
    axis.text(place - 0.05, 1.0 + 0.26 * inch, f"{step.rows:,}", fontsize=13, fontweight="bold", color="#1f2328")
    axis.text(place - 0.05, 1.0 + 0.08 * inch, step.name, fontsize=9, color="#57606a")
    if after is None:
        return
    axis.add_patch(_box(place + 0.05, place + 0.95, 1.0, after * scale, STEM))
    upper = 1.0 - after * scale
    for number, (why, count) in enumerate(step.left):
        thick = max(count * scale, THINNEST * inch)
        foot = -(0.15 + FOOT * number) * inch
        end = min(thick, 0.7 * FOOT * inch)  # a large loss narrows to the line of its reason
        axis.add_patch(_ribbon((place + 0.05, upper), (place + 0.22, foot + end / 2), thick, LOSS, end))
        axis.text(place + 0.25, foot, f"−{count:,} {short(why, 32)}", fontsize=8, color="#444", va="center")
        upper -= count * scale


def _branches(axis: Axes, place: int, flow: RowFlow, scale: float, inch: float) -> None:
    """Ribbons from the last step to the selections, spread over the stem's height."""
    rows = flow.steps[-1].rows
    many = len(flow.branches)
    for number, branch in enumerate(flow.branches):
        thick = max(branch.exported * scale, THINNEST * inch)
        start, end = (1.0 - height * (number + 0.5) / many + thick / 2 for height in (rows * scale, 1.0))
        shade = colour(number)
        axis.add_patch(_ribbon((place + 0.05, start), (place + 0.8, end), thick, shade))
        axis.add_patch(_box(place + 0.8, place + 0.86, end, thick, shade))
        share = branch.exported / branch.rows if branch.rows else 0.0
        texts = (
            (short(branch.method, 24), 0.08, "#1f2328"),
            (f"{branch.exported:,} exported ({share:.1%})", -0.08, "#57606a"),
        )
        for text, above, ink in texts:
            axis.text(place + 0.9, end - thick / 2 + above * inch, text, fontsize=8.5, color=ink, va="center")


def _box(left: float, right: float, top: float, height: float, shade: str) -> PathPatch:
    corners = [(left, top), (right, top), (right, top - height), (left, top - height), (left, top)]
    return PathPatch(Path(corners, closed=True), facecolor=shade, linewidth=0)


def _ribbon(
    start: tuple[float, float], end: tuple[float, float], thick: float, shade: str, thick_end: float | None = None
) -> PathPatch:
    """An S curve between two upper corners, as thick at its end as at its start if not told otherwise."""
    low = thick if thick_end is None else thick_end
    (x0, y0), (x1, y1) = start, end
    middle = (x0 + x1) / 2
    there = [(x0, y0), (middle, y0), (middle, y1), (x1, y1)]
    back = [(x1, y1 - low), (middle, y1 - low), (middle, y0 - thick), (x0, y0 - thick), (x0, y0)]
    curve = [Path.CURVE4] * 3
    path = Path([*there, *back], [Path.MOVETO, *curve, Path.LINETO, *curve, Path.CLOSEPOLY])
    return PathPatch(path, facecolor=shade, alpha=0.5, linewidth=0)
