"""A story for the terminal, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.lineage.story import Story


def as_json(told: Sequence[Story]) -> str:
    return json.dumps([asdict(story) for story in told], indent=1, ensure_ascii=False)


def show(told: Sequence[Story], console: Console) -> None:
    """Per story its head, a line per event, and its end."""
    for story in told:
        console.print(f"[bold]{escape(story.id or '(no id)')}[/bold]  {story.kind}, {escape(story.origin)}")
        console.print(f"  {escape(story.text)}", highlight=False)
        table = Table(box=box.SIMPLE, show_header=False, pad_edge=False, collapse_padding=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        stage = None
        for event in story.events:
            table.add_row("" if event.stage == stage else escape(event.stage), escape(event.told))
            stage = event.stage
        console.print(table)
        console.print(f"  end: [bold]{story.end}[/bold]\n")
