"""The comparison as Markdown for people and as CSV for programs.

Markdown shows what fits a page; the CSV has every number, one a line, so that nothing has to be copied from a table.
Names come from data: in Markdown they cannot become HTML or a cell's end, and control characters become blanks, for it
is printed to terminals.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import combinations

from curate.figures import FIGURES
from curate.figures.table import Figure
from eval.tables import markdown_row
from flows.comparison.values import Overlap, Part, RunComparison, Scope

SHOWN_PARTS = 12  # sources of an arm
SHOWN_PAIRS = 6  # pairs of arms in the tables by source and task
NONE = "–"
AMOUNT = "Figures with * depend on the amount; each run measured its own on samples of one size."
HEAD = ("section", "subject", "against", "name", "measure", "value", "low", "high", "verdict")


def to_markdown(found: RunComparison) -> str:
    """All tables, largest lists cut short with how much was cut."""
    blocks = [f"# Comparison of {', '.join(run.label for run in found.runs)}", *_notes(found), *_runs(found)]
    blocks += [
        *_settings(found),
        *_selections(found),
        *_measured(found),
        *_overlaps(found),
        *_changes(found),
        *_training(found),
    ]
    blocks += _results(found)
    return _harmless("\n\n".join(blocks)) + "\n"


def to_csv(found: RunComparison) -> str:
    """Long form: section, subject, against, name, measure, value, low, high, verdict; empty where a line has none."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEAD)
    writer.writerows([*line, *[""] * (len(HEAD) - len(line))] for line in _lines(found))
    return buffer.getvalue()


def shown_pairs(found: RunComparison) -> dict[Scope, list[tuple[str, str]]]:
    """Pairs of arms to show by source and task: all where they are few, else the same methods of different runs, else
    those with the first arm. By task only pairs of which both look at the targets."""
    arms = list(found.arms)
    pairs = list(combinations(arms, 2))
    if len(pairs) > SHOWN_PAIRS:
        pairs = [(a, b) for a, b in pairs if a.method == b.method] or [(arms[0], b) for b in arms[1:]]
    return {
        "source": [(a.label, b.label) for a, b in pairs[:SHOWN_PAIRS]],
        "task": [
            (a.label, b.label) for a, b in [pair for pair in pairs if pair[0].tasks and pair[1].tasks][:SHOWN_PAIRS]
        ],
    }


def moment(finished: str) -> str:
    """A record's time as people write it; anything else as it is."""
    try:
        return datetime.strptime(finished, "%Y%m%dT%H%M%SZ").strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return finished


def overlap_names(found: RunComparison, scope: Scope) -> list[str]:
    """Sources or tasks that some overlap is told of, those with the most rows first."""
    rows: dict[str, int] = {}
    for each in found.overlaps:
        if each.scope == scope:
            rows[each.name] = max(rows.get(each.name, 0), each.first_rows, each.second_rows)
    return sorted(rows, key=lambda name: (-rows[name], name))


def _notes(found: RunComparison) -> list[str]:
    return ["\n".join(f"- {note}" for note in found.notes)] if found.notes else []


def _runs(found: RunComparison) -> list[str]:
    rows = [[r.label, moment(r.finished), r.model, f"{r.pool:,}", f"{r.seconds:.0f}", r.record] for r in found.runs]
    return ["## Runs", _table(["run", "finished", "model", "rows in the pool", "stage seconds", "record"], rows)]


def _settings(found: RunComparison) -> list[str]:
    if not found.settings:
        alone = "There is one run, so all arms have its settings."
        return ["## Configuration", "No setting differs." if len(found.runs) > 1 else alone]
    rows = [[s.key, *(NONE if value is None else value for value in s.values)] for s in found.settings]
    return ["## Configuration", "Settings that differ:", _table(["setting", *(run.label for run in found.runs)], rows)]


def _selections(found: RunComparison) -> list[str]:
    rows = [
        [
            arm.label,
            f"{arm.rows:,}",
            NONE if arm.tokens is None else f"{arm.tokens:,}",
            _shares([part for part in arm.sources if part.rows]),
            _shares(arm.tasks) or NONE,
        ]
        for arm in found.arms
    ]
    return ["## Selected data", _table(["arm", "rows", "tokens", "sources", "winning tasks"], rows)]


def measured_rows(found: RunComparison) -> tuple[list[str], list[tuple[Figure, list[str]]]]:
    """Labels of pools and arms, and for every figure that one of them has its values with intervals as text."""
    labels = list(dict.fromkeys(each.label for each in found.measured))
    told = {(m.figure, m.label): (m.value, m.low, m.high) for m in found.measured}
    rows = []
    for figure in FIGURES:
        values = [told.get((figure.name, label)) for label in labels]
        if any(values):
            rows.append((figure, [NONE if v is None else figure.shown_with_interval(*v) for v in values]))
    return labels, rows


def _measured(found: RunComparison) -> list[str]:
    labels, rows = measured_rows(found)
    if not rows:
        return []
    lines = [[f"{figure.title}{'*' * figure.drawn}", *values] for figure, values in rows]
    return ["### Quality, diversity, complexity", _table(["figure", *labels], lines), AMOUNT]


def _shares(parts: Sequence[Part]) -> str:
    told = [f"{part.name} {part.share:.1%}" for part in parts[:SHOWN_PARTS]]
    rest = len(parts) - SHOWN_PARTS
    return ", ".join([*told, f"{rest} more"] if rest > 0 else told)


def _overlaps(found: RunComparison) -> list[str]:
    whole = [each for each in found.overlaps if each.scope == "all"]
    rows = [[f"{o.first} ∩ {o.second}", f"{o.common:,}", _ratio(o), f"{o.expected:.1f}"] for o in whole]
    blocks = ["### Rows in common", _table(["arms", "rows in common", "Jaccard", "expected by chance"], rows)]
    pairs = shown_pairs(found)
    scopes: tuple[tuple[Scope, str], ...] = (("source", "per source"), ("task", "won by the same task"))
    for scope, title in scopes:
        names = overlap_names(found, scope)
        if shown := pairs[scope]:
            rows = [[name, *(_of(found.overlap(*pair, scope, name)) for pair in shown)] for name in names[:SHOWN_PARTS]]
            blocks += [
                f"Rows in common {title} (Jaccard; expected by chance):",
                _table([scope, *(f"{a} ∩ {b}" for a, b in shown)], rows),
            ]
            if len(names) > SHOWN_PARTS:
                blocks.append(f"and {len(names) - SHOWN_PARTS} more in the CSV")
    return blocks


def _of(overlap: Overlap | None) -> str:
    return NONE if overlap is None else f"{overlap.common:,} ({_ratio(overlap)}; {overlap.expected:.1f})"


def _ratio(overlap: Overlap) -> str:
    return NONE if overlap.jaccard is None else f"{overlap.jaccard:.2f}"


def _changes(found: RunComparison) -> list[str]:
    if not found.changes:
        return []
    rows = [
        [f"{c.first} → {c.other}", f"{c.kept:,}", f"{c.added_rows:,}", f"{c.dropped_rows:,}"] for c in found.changes
    ]
    blocks = ["### Rows that came and went", _table(["method", "kept", "added", "dropped"], rows)]
    for change in found.changes:
        lists = (("added", change.added, change.added_rows), ("dropped", change.dropped, change.dropped_rows))
        examples = [[what, row.id, row.source, row.task or NONE] for what, of, _ in lists for row in of]
        if examples:
            cut = ", ".join(f"{len(of)} of {count:,} {what}" for what, of, count in lists)
            title = f"{change.first} → {change.other}, the first by rank ({cut}):"
            blocks += [title, _table(["", "row", "source", "task"], examples)]
    return blocks


def _training(found: RunComparison) -> list[str]:
    rows = [
        [
            t.label,
            str(t.seed),
            f"{t.steps:,}",
            f"{t.rows:,}",
            f"{t.tokens:,}",
            f"{t.passes:.2f}",
            NONE if t.first_loss is None else f"{t.first_loss:.3f}",
            NONE if t.last_loss is None else f"{t.last_loss:.3f}",
            f"{t.seconds:.0f}",
        ]
        for t in found.training
    ]
    head = ["arm", "seed", "steps", "rows trained", "tokens trained", "passes", "first loss", "last loss", "seconds"]
    return ["## Training", _table(head, rows)]


def _results(found: RunComparison) -> list[str]:
    rows = [[i.metric, f"{i.common:,}", f"{i.excluded:,}", f"{i.unshared:,}", f"{i.lonely:,}"] for i in found.items]
    head = ["metric", "items compared", "left out: overlap training or targets", "not scored in all", "alone in a task"]
    tables = [found.results.to_markdown().rstrip("\n")] if found.results.tables else []
    return ["## Results", _table(head, rows), *tables]


def _lines(found: RunComparison) -> Iterable[Sequence[object]]:
    for note in found.notes:
        yield "note", "", "", "", "", note
    for run in found.runs:
        yield "run", run.label, "", run.record, "finished", run.finished
        yield "run", run.label, "", run.record, "pool rows", run.pool
    for setting in found.settings:
        for run, value in zip(found.runs, setting.values, strict=True):
            yield "configuration", run.label, "", setting.key, "value", "" if value is None else value
    for arm in found.arms:
        yield "selection", arm.label, "", "", "rows", arm.rows
        yield "selection", arm.label, "", "", "tokens", "" if arm.tokens is None else arm.tokens
        for scope, parts in (("source", arm.sources), ("task", arm.tasks)):
            for part in parts:
                yield "selection", arm.label, "", part.name, f"{scope} rows", part.rows
                yield "selection", arm.label, "", part.name, f"{scope} share", part.share
                if part.pool is not None:
                    yield "selection", arm.label, "", part.name, "share of the pool", part.pool
    for m in found.measured:
        yield "selection", m.label, "", "", m.figure, m.value, m.low, m.high
    for o in found.overlaps:
        scope = "" if o.scope == "all" else f"{o.scope} "
        yield "overlap", o.first, o.second, o.name, f"{scope}rows in common", o.common
        yield "overlap", o.first, o.second, o.name, f"{scope}Jaccard", "" if o.jaccard is None else o.jaccard
        yield "overlap", o.first, o.second, o.name, f"{scope}expected", o.expected
    for c in found.changes:
        yield "change", c.other, c.first, c.method, "kept", c.kept
        yield "change", c.other, c.first, c.method, "added", c.added_rows
        yield "change", c.other, c.first, c.method, "dropped", c.dropped_rows
        for measure, rows in (("added row", c.added), ("dropped row", c.dropped)):
            for row in rows:
                yield "change", c.other, c.first, c.method, measure, row.id
    for t in found.training:
        for measure in ("steps", "rows", "tokens", "passes", "first_loss", "last_loss", "seconds"):
            value = getattr(t, measure)
            yield "training", t.label, "", f"seed {t.seed}", measure, "" if value is None else value
    for i in found.items:
        for measure in ("common", "excluded", "unshared", "lonely"):
            yield "items", "", "", i.metric, measure, getattr(i, measure)
    for table in found.results.tables:
        for cell in table.cells:
            own = cell.interval
            yield "result", cell.model, "", cell.row, table.metric.name, own.mean, own.low, own.high
        for d in table.differences:
            own = d.interval
            yield "result", d.model, d.control, d.row, table.metric.name, own.mean, own.low, own.high, d.verdict


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([markdown_row(head), markdown_row(["---"] * len(head)), *map(markdown_row, rows)])


def _harmless(text: str) -> str:
    shown = "".join(each if each == "\n" or each.isprintable() else " " for each in text)
    return shown.replace("&", "&amp;").replace("<", "&lt;")
