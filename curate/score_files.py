"""A score matrix that someone else computed, with its tables of rows and columns, checked before anything is selected.

A matrix alone is positions; a selection is ids. So every row must be known by one id and every column by an id and a
task, and a table that does not fit is an error, never a guess. A file that carries ids itself (Parquet, a score
folder) is matched with the tables by id, any other by order. `.npy` is memory-mapped; the others are read whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from curate.records import UNKNOWN, DataError
from curate.scores import COLUMNS, ROWS, VALUES, read_scores
from train.names import nearest

MATRIX_SUFFIXES = (".npy", ".parquet", ".safetensors")
TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
TENSOR = "scores"  # the tensor that is read where a .safetensors file has several matrices
SHOWN = 3


class ScoreFileError(DataError):
    """A matrix or a table that cannot be read, or tables that do not fit the matrix."""


@dataclass(frozen=True, eq=False)
class LabelledScores:
    """values: (N, M) real array or memory map; row_ids, sources, tokens (None where not given): (N,); column_ids,
    tasks: (M,); unscored_rows, unscored_columns: lines of the tables that the matrix does not have."""

    values: np.ndarray
    row_ids: list[str]
    sources: list[str]
    tokens: list[int] | None
    column_ids: list[str]
    tasks: list[str]
    unscored_rows: int = 0
    unscored_columns: int = 0


@dataclass(frozen=True, eq=False)
class _Matrix:
    """values (N, M) with the labels that the file itself brings, if any."""

    values: np.ndarray
    row_ids: list[str] | None = None
    column_ids: list[str] | None = None
    tasks: list[str] | None = None


def read_labelled_scores(scores: Path, rows: Path | None = None, columns: Path | None = None) -> LabelledScores:
    """The matrix at `scores` (`.npy`, `.parquet`, `.safetensors` or a score folder) with its labels.

    rows: table with `id`, optionally `source` and `tokens`; columns: table with `id` and `task`; each Parquet, CSV or
    JSONL. Needed unless the matrix brings the labels itself. Raises `ScoreFileError`.
    """
    matrix = _read_matrix(scores)
    row_ids, row_table, unscored_rows = matrix.row_ids, {}, 0
    if rows is not None:
        row_table = _read_table(rows, ["id"])
        row_ids, row_table, unscored_rows = _fit(row_table, matrix.row_ids, len(matrix.values), rows, scores, "row")
    elif row_ids is None:
        raise ScoreFileError(f"{scores} has no row ids; give --rows, a table with `id`, one line per row in its order")
    column_ids, tasks, unscored_columns = matrix.column_ids, matrix.tasks, 0
    if columns is not None:
        table = _read_table(columns, ["id", "task"])
        width = matrix.values.shape[1]
        column_ids, table, unscored_columns = _fit(table, column_ids, width, columns, scores, "column")
        tasks = table["task"]
    if column_ids is None or tasks is None:
        raise ScoreFileError(f"{scores} does not say which task its columns belong to; give --columns with id and task")
    _unique(row_ids, rows or scores, "row")
    _unique(column_ids, columns or scores, "column")
    return LabelledScores(
        values=matrix.values,
        row_ids=row_ids,
        sources=row_table.get("source") or [UNKNOWN] * len(row_ids),
        tokens=_tokens(row_table.get("tokens"), rows),
        column_ids=column_ids,
        tasks=tasks,
        unscored_rows=unscored_rows,
        unscored_columns=unscored_columns,
    )


def _read_matrix(path: Path) -> _Matrix:
    readers = {".npy": _read_npy, ".parquet": _read_parquet, ".safetensors": _read_safetensors}
    if path.is_dir():
        reader = _read_folder
    elif path.suffix in readers:
        reader = readers[path.suffix]
    else:
        raise ScoreFileError(f"{path}: scores are a {', '.join(readers)} file or a score folder")
    try:
        matrix = reader(path)
    except ScoreFileError:
        raise
    # what damaged files raise differs by reader, from struct errors to EOFError
    except Exception as error:
        raise ScoreFileError(f"{path} cannot be read: {' '.join(str(error).split())}; write it again") from error
    shape = matrix.values.shape
    if matrix.values.ndim != 2 or matrix.values.dtype.kind not in "fiu":
        raise ScoreFileError(
            f"{path} holds {matrix.values.dtype} of shape {shape}; scores are real numbers in two dimensions, (rows, "
            "targets)"
        )
    if not all(shape):
        raise ScoreFileError(f"{path} is empty: shape {shape}")
    return matrix


def _read_folder(path: Path) -> _Matrix:
    missing = [name for name in (VALUES, ROWS, COLUMNS) if not (path / name).is_file()]
    if missing:
        raise ScoreFileError(f"{path} is not a score folder: it lacks {', '.join(missing)}")
    found = read_scores(path)
    sides = (found.row_ids, found.column_ids)
    if found.values.ndim == 2 and found.values.shape != tuple(map(len, sides)):
        raise ScoreFileError(f"{path}: {VALUES} is {found.values.shape}, its tables name {tuple(map(len, sides))}")
    return _Matrix(found.values, found.row_ids, found.column_ids, found.tasks)


def _read_npy(path: Path) -> _Matrix:
    return _Matrix(np.load(path, mmap_mode="r", allow_pickle=False))


def _read_parquet(path: Path) -> _Matrix:
    """Every column but `id` is a target; nulls become NaN."""
    table = pq.read_table(path)
    names = [name for name in table.column_names if name != "id"]
    for name in names:
        kind = table.schema.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise ScoreFileError(f"{path}: column {name!r} is {kind}, not numbers; only `id` may be text")
    _unique(names, path, "column")
    wide = any(pa.types.is_float64(table.schema.field(name).type) for name in names)
    # column by column in memory too, as the selection methods read it
    values = np.empty((table.num_rows, len(names)), dtype=np.float64 if wide else np.float32, order="F")
    for position, name in enumerate(names):
        values[:, position] = table[name].to_numpy()
    ids = _ids(table["id"].to_pylist(), path) if "id" in table.column_names else None
    return _Matrix(values, ids, names)


def _read_safetensors(path: Path) -> _Matrix:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        matrices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        matrices = {name: part for name, part in matrices.items() if len(part.get_shape()) == 2}
        name = TENSOR if TENSOR in matrices else next(iter(matrices), None)
        if name is None or (len(matrices) > 1 and name != TENSOR):
            raise ScoreFileError(
                f"{path} has {len(matrices)} tensors of two dimensions{': ' if matrices else ''}{', '.join(matrices)}; "
                f"keep one, or name it {TENSOR!r}"
            )
        if matrices[name].get_dtype() != "BF16":
            return _Matrix(file.get_tensor(name))
    with safe_open(path, "pt") as file:  # NumPy has no bfloat16
        return _Matrix(file.get_tensor(name).float().numpy())


def _read_table(path: Path, required: Sequence[str]) -> dict[str, list]:
    """`id` as unique strings, and `task`, `source` and `tokens` where the table has them."""
    known = ("id", "task", "source", "tokens")
    try:
        if path.suffix == ".parquet":
            names = pq.read_schema(path).names
            table = pq.read_table(path, columns=[name for name in known if name in names]).to_pydict()
        elif path.suffix == ".csv":
            texts = pa.csv.ConvertOptions(column_types={name: pa.string() for name in known if name != "tokens"})
            whole = pa.csv.read_csv(path, convert_options=texts)
            names, table = whole.column_names, {n: whole[n].to_pylist() for n in whole.column_names if n in known}
        elif path.suffix == ".jsonl":
            names, table = _read_jsonl(path, known)
        else:
            raise ScoreFileError(f"{path}: a table is one of {', '.join(TABLE_SUFFIXES)}")
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ScoreFileError(f"{path} cannot be read: {' '.join(str(error).split())}; write it again") from error
    for name in required:
        if name not in table:
            raise ScoreFileError(f"{path} has no column {name!r}{nearest(name, names)}; it has {', '.join(names)}")
    table["id"] = _ids(table["id"], path)
    for name in ("task", "source"):
        if name in table:
            gap = next((k for k, value in enumerate(table[name]) if value is None or str(value) == ""), None)
            if gap is not None:
                raise ScoreFileError(f"{path}:{gap + 1}: {name} is empty; fill it in, or remove the column")
            table[name] = [str(value) for value in table[name]]
    _unique(table["id"], path, "row")
    return table


def _read_jsonl(path: Path, known: Sequence[str]) -> tuple[list[str], dict[str, list]]:
    found = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ScoreFileError(f"{path}:{number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ScoreFileError(f"{path}:{number}: not an object with named fields")
            found.append(row)
    names = list(dict.fromkeys(name for row in found for name in row))
    return names, {name: [row.get(name) for row in found] for name in known if name in names}


def _ids(values: Sequence[Any], path: Path) -> list[str]:
    for number, value in enumerate(values, start=1):
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise ScoreFileError(f"{path}:{number}: id {value!r} is neither a text nor a whole number")
    return [str(value) for value in values]


def _unique(ids: Sequence[str], path: Path, what: str) -> None:
    if len(set(ids)) == len(ids):
        return
    first: dict[str, int] = {}
    for number, one in enumerate(ids, start=1):
        if one in first:
            raise ScoreFileError(
                f"{path}: {what} id {one!r} stands at {first[one]} and at {number}; ids must be unique"
            )
        first[one] = number


def _fit(
    table: Mapping[str, list], ids: list[str] | None, count: int, path: Path, scores: Path, what: str
) -> tuple[list[str], dict[str, list], int]:
    """Ids and table in the matrix's order, and how many lines of the table the matrix does not have."""
    if ids is None:
        if len(table["id"]) != count:
            raise ScoreFileError(
                f"{path} has {len(table['id'])} lines for the {count} {what}s of {scores}; give one per {what}, in its "
                "order"
            )
        return table["id"], dict(table), 0
    position = {one: k for k, one in enumerate(table["id"])}
    missing = [one for one in ids if one not in position]
    if missing:
        shown = ", ".join(map(repr, missing[:SHOWN])) + (", ..." if len(missing) > SHOWN else "")
        raise ScoreFileError(
            f"{len(missing)} of the {count} {what} ids of {scores} are not in {path}: {shown}; the tables are of "
            "different data"
        )
    order = [position[one] for one in ids]
    return ids, {name: [values[k] for k in order] for name, values in table.items()}, len(position) - len(order)


def _tokens(values: list | None, path: Path | None) -> list[int] | None:
    if values is None:
        return None
    for number, value in enumerate(values, start=1):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ScoreFileError(f"{path}: tokens {value!r} of row {number} is not a whole number of at least 1")
    return values
