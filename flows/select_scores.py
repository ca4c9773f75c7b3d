"""`equipoise select`: a selection from any score matrix and its tables of ids and tasks, without a model or a run.

Everything that can be wrong is asked before the first score is read, all of it at once; the output appears under its
name only when it is whole.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from curate.score_files import LabelledScores, ScoreFileError, read_labelled_scores
from curate.selection import METHODS, Selection, SelectionError, SelectionWarning, resolve_budget
from curate.selection.constraints import Budget, TokenBudget
from curate.selection.explain import selection_table, source_shares
from flows.config import ConfigError
from train.names import nearest

ROWS_PER_BLOCK = 4096
SHOWN_IDS = 5
SHOWN_SOURCES = 20


@dataclass(frozen=True, eq=False)
class SelectedScores:
    """What `select_scores` did. table: `selection.parquet` as written; notes: what was left out and why, to be told."""

    labelled: LabelledScores
    selection: Selection
    table: pa.Table
    notes: list[str]


def select_scores(
    scores: Path,
    *,
    output: Path,
    rows: Path | None = None,
    columns: Path | None = None,
    method: str = "bids",
    budget: str = "0.1",
    tokens: bool = False,
    seed: int = 0,
) -> SelectedScores:
    """Select from `scores` (a matrix file or a score folder) and write `output`.

    rows, columns: tables of the labels (`read_labelled_scores`); budget: a whole number of rows, or a fraction of
    them; tokens: the budget counts the row table's tokens instead. Raises `ConfigError` for whatever the caller can
    mend; `output` is then untouched.
    """
    size = _check(scores, output, {"--rows": rows, "--columns": columns}, method, budget)
    try:
        labelled = read_labelled_scores(scores, rows, columns)
        selection, notes = _select(labelled, method, _budget(labelled, size, tokens), seed)
        table = selection_table(
            selection,
            labelled.values,
            ids=labelled.row_ids,
            sources=labelled.sources,
            targets=labelled.column_ids,
            tasks=labelled.tasks,
        )
    except (ScoreFileError, SelectionError) as error:
        raise ConfigError(str(error)) from error
    _write(table, output)
    return SelectedScores(labelled, selection, table, notes)


def show_selected(selected: SelectedScores, console: Console) -> None:
    """What was selected, by winning task and by source."""
    labelled, table = selected.labelled, selected.table
    total = len(labelled.row_ids)
    line = f"{table.num_rows:,} of {total:,} rows ({table.num_rows / total:.1%})"
    if labelled.tokens is not None:
        taken = sum(labelled.tokens[row] for row in selected.selection.order.tolist())
        line += f", {taken:,} of {sum(labelled.tokens):,} tokens ({taken / max(1, sum(labelled.tokens)):.1%})"
    console.print(line, highlight=False)
    won = Counter(task for task in table["task"].to_pylist() if task is not None)
    if won:
        grid = Table("task", "targets", "rows taken for it", title="Tasks", title_justify="left")
        for task, count in Counter(labelled.tasks).items():
            grid.add_row(task, f"{count:,}", f"{won[task]:,} ({won[task] / table.num_rows:.1%})")
        console.print(grid)
    shares = source_shares(labelled.sources, selected.selection.order.tolist())
    if len(shares) > 1:
        grid = Table("source", "pool", "selected", "share before", "after", title="Sources", title_justify="left")
        for share in shares[:SHOWN_SOURCES]:
            counts = f"{share.pool:,}", f"{share.selected:,}"
            grid.add_row(share.source, *counts, f"{share.pool_share:.1%}", f"{share.selected_share:.1%}")
        if rest := shares[SHOWN_SOURCES:]:
            grid.add_row(f"{len(rest)} more", f"{sum(s.pool for s in rest):,}", f"{sum(s.selected for s in rest):,}")
        console.print(grid)


def _check(scores: Path, output: Path, tables: dict[str, Path | None], method: str, budget: str) -> int | float:
    """The budget as a number; `ConfigError` with everything that is wrong before a file is opened."""
    problems = []
    for name, path in (("scores", scores), *tables.items()):
        if path is not None and not path.exists():
            siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            problems.append(f"{name}: no such file or folder: {path}{nearest(path.name, siblings)}")
    if method not in METHODS:
        problems.append(f"--method: unknown method {method!r}{nearest(method, METHODS)}; methods: {', '.join(METHODS)}")
    if output.suffix != ".parquet" or output.is_dir():
        problems.append(f"--output: {output} is not the name of a .parquet file")
    elif not output.parent.is_dir():
        problems.append(f"--output: the folder {output.parent} does not exist; create it")
    elif output.exists() and any(
        path and path.exists() and output.samefile(path) for path in (scores, *tables.values())
    ):
        problems.append(f"--output: {output} is also an input; choose another name")
    size = _number(budget)
    if size is None:
        problems.append(f"--budget: {budget!r} is neither a whole number above 0 nor a fraction from 0 to 1")
    if size is None or problems:
        raise ConfigError("\n".join(problems))
    return size


def _number(budget: str) -> int | float | None:
    """`500` is a count, `0.1` and `1.0` are fractions."""
    try:
        size = int(budget)
    except ValueError:
        try:
            fraction = float(budget)
        except ValueError:
            return None
        return fraction if 0 < fraction <= 1 else None
    return size if size > 0 else None


def _budget(labelled: LabelledScores, size: int | float, tokens: bool) -> Budget:
    """The budget as the methods take it; `SelectionError` if it is no row at all, or more tokens than there are."""
    if not tokens:
        if resolve_budget(size, len(labelled.row_ids)) == 0:
            raise SelectionError(f"budget {size} of {len(labelled.row_ids)} rows is no row; raise it")
        return size
    if labelled.tokens is None:
        raise SelectionError("--tokens needs a column `tokens` in the table of --rows")
    total = sum(labelled.tokens)
    if size > total:
        raise SelectionError(f"budget {size} is more than the {total} tokens of all rows; lower the budget")
    if resolve_budget(size, total) < min(labelled.tokens):
        raise SelectionError(
            f"budget {size} is less than the {min(labelled.tokens)} tokens of the shortest row; raise it"
        )
    return TokenBudget(size, labelled.tokens)


def _select(labelled: LabelledScores, method: str, budget: Budget, seed: int) -> tuple[Selection, list[str]]:
    """The selection, and what the user must know about it with names instead of positions."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SelectionWarning)
        # told below by id
        warnings.filterwarnings("ignore", r"\d+ .*(excluded|dropped): ", SelectionWarning)
        try:
            selection = METHODS[method](labelled.values, budget, tasks=labelled.tasks, seed=seed)
        except SelectionError as error:
            where = _gaps(labelled)
            raise SelectionError(f"{error}. {where}" if where else str(error)) from error
    notes = [str(warning.message) for warning in caught if issubclass(warning.category, SelectionWarning)]
    if dropped := selection.dropped_columns:
        names = _listed([f"{labelled.column_ids[k]} ({labelled.tasks[k]})" for k in dropped])
        notes.append(f"{len(dropped)} columns are constant or have no finite score and were dropped: {names}")
        left = {task for column, task in enumerate(labelled.tasks) if column not in set(dropped)}
        if unserved := [task for task in dict.fromkeys(labelled.tasks) if task not in left]:
            notes.append(f"no column is left of {_listed(unserved)}: nothing was selected for it")
    if excluded := selection.excluded_rows:
        names = _listed([labelled.row_ids[k] for k in excluded])
        notes.append(f"{len(excluded)} rows have NaN or infinity and cannot be selected: {names}. {_gaps(labelled)}")
    for count, what in ((labelled.unscored_rows, "rows"), (labelled.unscored_columns, "columns")):
        if count:
            notes.append(f"{count} {what} of the table have no scores in the matrix")
    return selection, notes


def _gaps(labelled: LabelledScores) -> str:
    """The column with the most NaN or infinity, leaving out those without any score; '' when there is none."""
    counts = np.zeros(len(labelled.column_ids), dtype=np.int64)
    for start in range(0, len(labelled.row_ids), ROWS_PER_BLOCK):
        counts += (~np.isfinite(labelled.values[start : start + ROWS_PER_BLOCK])).sum(axis=0)
    counts[counts == len(labelled.row_ids)] = 0
    if not counts.any():
        return ""
    worst = int(counts.argmax())
    return f"Most gaps are in column {labelled.column_ids[worst]}: {counts[worst]:,} rows; remove it to keep them"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN_IDS]) + (", ..." if len(names) > SHOWN_IDS else "")


def _write(table: pa.Table, output: Path) -> None:
    """All of it or nothing: written beside its place, then renamed."""
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        pq.write_table(table, partial)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
