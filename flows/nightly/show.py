"""How nights are told: a line in the log, Markdown in the Prefect UI, tables on the terminal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.tables import interval_text, markdown_row
from flows.nightly.night import GradientCost, Night

SHOWN_ROWS = 20  # of each list in Markdown; the record has all of them


def in_a_line(night: Night) -> str:
    more = f" (and {len(night.reasons) - 1} more)" if len(night.reasons) > 1 else ""
    return f"night {night.number} of {night.name}: {night.outcome}; {night.reasons[0]}{more}; {_live(night)}"


def as_json(nights: Sequence[Night]) -> str:
    return json.dumps([night.model_dump(mode="json") for night in nights], indent=1, ensure_ascii=False)


def markdown(night: Night) -> str:
    """The whole night: decision, cost, differences, and the first rows that left and entered."""
    parts = [
        f"**Night {night.number}: {night.outcome}** ({night.finished}, selection `{night.method}`); {_live(night)}",
        "\n".join(f"- {reason}" for reason in night.reasons),
        _grid(["", ""], [[name, text] for name, text in _facts(night)]),
    ]
    if night.compared:
        head = ["metric", "capability", "against", "difference", "p (Holm)", ""]
        rows = [
            [c.metric, c.capability, c.control, interval_text(c.difference, "+"), f"{c.p_adjusted:.3f}", c.verdict]
            for c in night.compared
        ]
        parts.append(_grid(head, rows))
    for title, changed in (("Dropped", night.selection.dropped), ("Added", night.selection.added)):
        if changed and night.against is not None:
            rows = [[f"`{row.id}`", row.source, row.told] for row in changed[:SHOWN_ROWS]]
            rows += [["…", "", f"{len(changed) - SHOWN_ROWS} more"]] if len(changed) > SHOWN_ROWS else []
            parts.append(f"**{title}**\n\n" + _grid(["row", "source", "why"], rows))
    return "\n\n".join(parts) + "\n"


def show_nights(nights: Sequence[Night], console: Console) -> None:
    """A line per night, the first first."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("night", "ended", "outcome", "live", "pool", "gradients", "selection"):
        table.add_column(column, no_wrap=True)
    table.add_column("because", overflow="fold")
    for night in nights:
        table.add_row(
            str(night.number),
            night.finished[:10],
            night.outcome,
            "–" if night.live is None else str(night.live),
            f"{night.pool.rows:,} +{night.pool.new:,} −{night.pool.vanished:,}",
            f"{max(night.gradients.computed, default=0):,}",
            f"{night.selection.rows:,} +{len(night.selection.added):,} −{len(night.selection.dropped):,}",
            escape(night.reasons[0]) + (f" (and {len(night.reasons) - 1} more)" if len(night.reasons) > 1 else ""),
        )
    console.print(table)


def show_night(night: Night, console: Console) -> None:
    """Everything of one night."""
    console.print(f"[bold]Night {night.number} of {escape(night.name)}: {night.outcome}[/bold]; {_live(night)}")
    for reason in night.reasons:
        console.print(f"  {escape(reason)}", highlight=False)
    facts = Table(box=None, show_header=False, pad_edge=False)
    for name, text in _facts(night):
        facts.add_row(name, escape(text))
    console.print(facts)
    for title, changed in (("dropped", night.selection.dropped), ("added", night.selection.added)):
        table = Table(title=title, title_justify="left", box=box.SIMPLE)
        for column in ("row", "source", "why"):
            table.add_column(column, overflow="fold")
        for row in changed:
            table.add_row(escape(row.id), escape(row.source), escape(row.told))
        if changed:
            console.print(table)


def _facts(night: Night) -> list[tuple[str, str]]:
    selection = night.selection
    left: Counter[str] = Counter(row.why for row in selection.dropped)
    come: Counter[str] = Counter(row.why for row in selection.added)
    facts = [
        ("pool", f"{night.pool.rows:,} rows, {night.pool.new:,} new, {night.pool.vanished:,} vanished"),
        ("warmup", f"{'kept' if night.warmup.kept else 'trained'}: {night.warmup.why}"),
        ("gradients", _gradients(night.gradients)),
        ("selection", f"{selection.rows:,} rows, {selection.kept:,} kept"),
        ("dropped", _counted(left)),
        ("added", _counted(come)),
    ]
    if selection.rewritten:
        facts.append(("rewritten", f"{len(selection.rewritten):,} kept rows have another text"))
    return [*facts, ("run", night.run)]


def _counted(reasons: Counter[str]) -> str:
    told = ", ".join(f"{count:,} {why}" for why, count in reasons.most_common())
    return f"{reasons.total():,}" + (f" ({told})" if told else "")


def _gradients(cost: GradientCost) -> str:
    passes = len(cost.computed)
    if not any(cost.computed):
        return f"none computed, all found at {passes} checkpoints"
    if len(set(cost.computed)) == 1:
        return f"{cost.computed[0]:,} rows computed at {passes} checkpoints, {cost.found[0]:,} found"
    return f"rows computed at each checkpoint: {', '.join(f'{count:,}' for count in cost.computed)}"


def _live(night: Night) -> str:
    if night.live is None:
        return "nothing is live"
    return "live from now on" if night.live == night.number else f"live is still night {night.live}"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([markdown_row(head), markdown_row(["---"] * len(head)), *map(markdown_row, rows)])
