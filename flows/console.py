"""What the command line prints at the end of a run: stage times, result tables, where things are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.tables import Comparison, MetricTable
from flows.stages.evaluation import read_results
from flows.store import StageOutput
from flows.store.errors import in_words

if TYPE_CHECKING:
    from flows.config import RunConfig
    from flows.estimate import Estimate
    from flows.pipeline import PipelineResult
    from flows.trace import Traced

SHOWN_TEXT = 60
console = Console()
VERDICTS = {"better": "better", "worse": "worse", "no clear difference": "unclear"}


def show_stages(stages: Mapping[str, StageOutput]) -> None:
    table = Table("stage", "rows", "seconds", "", title="Stages", title_justify="left")
    for name, output in stages.items():
        rows = ", ".join(f"{key.removeprefix('rows_')} {value:,}" for key, value in output.rows.items())
        table.add_row(name, rows, f"{output.seconds:.1f}", "from the store" if output.cached else "computed")
    console.print(table)
    computed = sum(not output.cached for output in stages.values())
    if computed:
        seconds = sum(output.seconds for output in stages.values() if not output.cached)
        console.print(f"{computed} of {len(stages)} stages computed in {seconds:.0f} s.")
    else:
        console.print(f"Nothing was recomputed: all {len(stages)} stages were in the store.")


def show_estimate(config: RunConfig, found: Estimate) -> None:
    """What a run will cost, and how that was found."""
    work, speed, costs = found.work, found.speed, found.costs
    print(f"pool: {work.rows:,} rows, about {work.tokens:,.0f} tokens; model: {work.parameters:,} parameters")
    chosen = f"{work.selected:.0%} of the pool by each of {', '.join(config.selection.methods)}"
    print(f"selection: {chosen}; {work.targets} targets, {work.items} evaluation items")
    for source in work.uncounted:
        print(f"not counted, since only reading it would tell how many rows it has: {source}")
    way = "a step of the model itself" if speed.tried else "a matrix product, as the model is too large to try"
    print(
        f"speed on {speed.device}: {1 / speed.seconds_per_token:,.0f} tokens/s of training, padding included, by {way}"
    )
    table = Table("stage", "time", "memory", "disk", title="Estimate, within a factor of two", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for cost in costs:
        table.add_row(cost.stage, _duration(cost.seconds), in_words(cost.memory), in_words(cost.disk))
    most, disk = max(cost.memory for cost in costs), sum(cost.disk for cost in costs)
    table.add_section()
    table.add_row("whole run", _duration(sum(cost.seconds for cost in costs)), in_words(most), in_words(disk))
    console.print(table)
    print(f"Stages found in {config.store} cost nothing; these figures are for an empty store.")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def show_traced(found: Sequence[Traced]) -> None:
    """Per example its rows, best first, each with the beginning of its answer."""
    table = Table("example", "#", "score", "pool row", "source", "answer", title="Influence", title_justify="left")
    for each in found:
        example = each.example if each.rank == 1 else ""
        text = " ".join(each.text.split())
        table.add_row(example, str(each.rank), f"{each.score:+.3f}", each.row, each.source, escape(text[:SHOWN_TEXT]))
    console.print(table)


def show_metric(table: MetricTable, confidence: float) -> None:
    """Means with intervals per model; beside them the verdict against random, where there is a random selection."""
    way = "higher is better" if table.metric.higher_is_better else "lower is better"
    control = table.controls[-1] if table.controls else None
    judged = [m for m in table.models if control and m not in table.controls]
    grid = Table(
        "capability",
        *table.models,
        *(f"{m} − {control}" for m in judged),
        title=f"{table.metric.name} ({way}; {confidence:.0%} intervals)",
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
        collapse_padding=True,
        caption="unclear: the interval contains zero, or not after the correction for many rows" if judged else None,
        caption_justify="left",
    )
    for at, row in enumerate(table.rows):
        cells = [f"{i.mean:.3f}\n[{i.low:.3f}, {i.high:.3f}]" for i in (table.cell(m, row.name) for m in table.models)]
        found = [table.difference(m, str(control), row.name) for m in judged]
        cells += [
            f"{d.interval.mean:+.3f} {VERDICTS[d.verdict]}\n[{d.interval.low:+.3f}, {d.interval.high:+.3f}]"
            for d in found
        ]
        last = at + 1 == len(table.rows) or (row.kind != "average" and table.rows[at + 1].kind == "average")
        grid.add_row(f"  {row.name}" if row.kind == "task" else row.name, *cells, end_section=last)
    console.print(grid)


def show_comparison(comparison: Comparison) -> None:
    for table in comparison.tables:
        show_metric(table, comparison.confidence)
    for note in comparison.notes:
        console.print(f"note: {note}", markup=False, highlight=False)


def show_paths(paths: Mapping[str, str]) -> None:
    width = max(map(len, paths), default=0)
    for name, path in paths.items():
        console.print(f"{name:<{width}}  {path}", soft_wrap=True, highlight=False)


def show_result(result: PipelineResult) -> None:
    show_stages(result.stages)
    show_comparison(read_results(Path(result.results).parent))
    paths = {f"dataset {name}": path for name, path in result.datasets.items()}
    paths |= {f"adapter {name}": path for name, path in result.adapters.items()}
    show_paths(paths | {"report": result.report} | ({"run": result.run} if result.run else {}))
