"""`equipoise select`: any score matrix with its tables of labels; a mistake is one message, code 2 and no file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file
from typer.testing import CliRunner

from curate.score_files import read_labelled_scores
from curate.scores import VALUES, write_labels
from curate.selection import METHODS
from curate.selection.constraints import TokenBudget
from flows.cli import app

ROWS, COLUMNS = 60, 6
IDS = [f"row-{number}" for number in range(ROWS)]
TARGETS = [f"target-{number}" for number in range(COLUMNS)]
TASKS = ["math", "code"] * (COLUMNS // 2)
SOURCES = ["web", "books", "forum"] * (ROWS // 3)
TOKENS = list(range(10, 10 + ROWS))
MATRIX = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)


@dataclass(frozen=True)
class Files:
    """One matrix and its tables on disk, rewritten piece by piece."""

    folder: Path
    scores: Path
    rows: Path | None
    columns: Path | None

    @property
    def output(self):
        return self.folder / "selection.parquet"

    def matrix(self, values):
        np.save(self.folder / "other.npy", values)
        return replace(self, scores=self.folder / "other.npy")

    def row_table(self, **columns):
        pq.write_table(pa.table(columns), self.folder / "other_rows.parquet")
        return replace(self, rows=self.folder / "other_rows.parquet")

    def column_table(self, **columns):
        pq.write_table(pa.table(columns), self.folder / "other_columns.parquet")
        return replace(self, columns=self.folder / "other_columns.parquet")

    def select(self, **options):
        """The command; options: `method="less"` for `--method less`."""
        options = {"rows": self.rows, "columns": self.columns, "output": self.output} | options
        arguments = [word for k, v in options.items() if v is not None for word in _words(k, v)]
        return CliRunner().invoke(app, ["select", str(self.scores), *arguments])

    def refused(self, **options):
        """The message of a command that must fail and leave nothing behind."""
        before = sorted(self.folder.iterdir())
        done = self.select(**options)
        assert done.exit_code == 2, done.output
        assert sorted(self.folder.iterdir()) == before
        assert done.stderr.startswith("configuration error: ")
        return done.stderr

    def picked(self, **options):
        """The ids that were selected, best first."""
        done = self.select(**options)
        assert done.exit_code == 0, done.output
        return pq.read_table(self.output)["id"].to_pylist()


def _words(name, value):
    return [f"--{name}"] if value is True else [f"--{name}", str(value)]


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "scores.npy", MATRIX)
    pq.write_table(pa.table({"id": IDS, "source": SOURCES, "tokens": TOKENS}), tmp_path / "rows.parquet")
    pa.csv.write_csv(pa.table({"id": TARGETS, "task": TASKS}), tmp_path / "columns.csv")
    return Files(tmp_path, tmp_path / "scores.npy", tmp_path / "rows.parquet", tmp_path / "columns.csv")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_file_is_the_methods_selection(files, method):
    done = files.select(method=method, budget="0.2", seed=3)
    assert done.exit_code == 0, done.output
    expected = METHODS[method](MATRIX, 0.2, tasks=TASKS, seed=3)
    table = pq.read_table(files.output)
    assert table["id"].to_pylist() == [IDS[row] for row in expected.order]
    assert table["source"].to_pylist() == [SOURCES[row] for row in expected.order]
    assert {"rank", "target", "task", "utility", "math", "code"} <= set(table.column_names)
    tokens = sum(TOKENS[row] for row in expected.order)
    assert f"12 of 60 rows (20.0%), {tokens} of {sum(TOKENS):,} tokens" in done.output
    assert ("rows taken for it" in done.output) == (method != "random")
    assert all(source in done.output for source in set(SOURCES))


def test_the_same_command_gives_the_same_bytes(files):
    assert files.select().exit_code == 0
    first = files.output.read_bytes()
    assert files.select().exit_code == 0
    assert files.output.read_bytes() == first
    assert sorted(path.suffix for path in files.folder.iterdir()) == [".csv", ".npy", ".parquet", ".parquet"]


@pytest.fixture
def expected(files):
    return files.picked()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_npy_of_any_real_type(files, dtype):
    values = np.round(100 * MATRIX).astype(dtype)
    order = METHODS["bids"](values, 0.1, tasks=TASKS).order
    assert files.matrix(values).picked() == [IDS[row] for row in order]


@pytest.mark.parametrize("with_ids", [True, False])
def test_parquet(files, expected, with_ids):
    """A file with ids is matched with the tables by id: both are in another order here."""
    columns = {name: MATRIX[:, k] for k, name in enumerate(TARGETS)}
    scores = files.folder / "scores.parquet"
    pq.write_table(pa.table({"id": IDS} | columns if with_ids else columns), scores)
    shuffled = replace(files, scores=scores)
    if with_ids:
        order = list(reversed(range(ROWS)))
        shuffled = shuffled.row_table(id=[IDS[k] for k in order], source=[SOURCES[k] for k in order])
        shuffled = shuffled.column_table(task=TASKS[::-1], id=TARGETS[::-1])
    assert shuffled.picked() == expected
    table = pq.read_table(files.output)
    assert table["source"].to_pylist() == [SOURCES[IDS.index(one)] for one in expected]
    assert table["task"].to_pylist() == [TASKS[TARGETS.index(one)] for one in table["target"].to_pylist()]
    if with_ids:
        assert replace(shuffled, rows=None).picked() == expected


def test_safetensors(files, expected):
    path = files.folder / "scores.safetensors"
    save_file({"scores": MATRIX, "other": MATRIX[:, :2].copy(), "bias": MATRIX[0]}, path)
    assert replace(files, scores=path).picked() == expected
    save_file({"a": MATRIX, "b": MATRIX}, path)
    assert (
        "has 2 tensors of two dimensions: a, b; keep one, or name it 'scores'" in replace(files, scores=path).refused()
    )


def test_bfloat16_safetensors(files):
    from safetensors.torch import save_file as save_tensors

    path = files.folder / "scores.safetensors"
    rounded = torch.from_numpy(MATRIX).bfloat16()
    save_tensors({"influence": rounded}, path)
    order = METHODS["bids"](rounded.float().numpy(), 0.1, tasks=TASKS).order
    assert replace(files, scores=path).picked() == [IDS[row] for row in order]


def test_a_score_folder_brings_its_labels(files, expected):
    folder = files.folder / "scores"
    folder.mkdir()
    np.save(folder / VALUES, MATRIX)
    write_labels(folder, IDS, TARGETS, TASKS, summary={})
    alone = replace(files, scores=folder, rows=None, columns=None)
    assert alone.picked() == expected
    assert set(pq.read_table(files.output)["source"].to_pylist()) == {"unknown"}
    more = alone.row_table(id=["unscored", *IDS], source=["web", *SOURCES]).select()
    assert "1 rows of the table have no scores in the matrix" in more.stderr
    assert pq.read_table(files.output)["source"].to_pylist() == [SOURCES[IDS.index(one)] for one in expected]
    (folder / "columns.parquet").unlink()
    assert "is not a score folder: it lacks columns.parquet" in alone.refused()


def test_tables_as_csv_and_jsonl(files, expected):
    rows, columns = files.folder / "rows.csv", files.folder / "columns.jsonl"
    rows.write_text(
        "source,id,tokens\n" + "".join(f"{s},{i},{t}\n" for i, s, t in zip(IDS, SOURCES, TOKENS, strict=True))
    )
    columns.write_text("".join(json.dumps({"id": i, "task": t}) + "\n" for i, t in zip(TARGETS, TASKS, strict=True)))
    assert replace(files, rows=rows, columns=columns).picked() == expected


def test_ids_of_a_csv_stay_text(files):
    rows = files.folder / "rows.csv"
    rows.write_text("id\n" + "".join(f"{number:04}\n" for number in range(ROWS)))
    assert all(len(one) == 4 for one in replace(files, rows=rows).picked())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (MATRIX[0], "holds float32 of shape (6,); scores are real numbers in two dimensions, (rows, targets)"),
        (MATRIX.astype(complex), "holds complex128 of shape (60, 6)"),
        (MATRIX.astype(str), "scores are real numbers in two dimensions"),
        (MATRIX.astype(object), "Python objects in dtype"),
        (MATRIX[:0], "is empty: shape (0, 6)"),
        (MATRIX[:50], "rows.parquet has 60 lines for the 50 rows of"),
        (MATRIX[:, :5], "columns.csv has 6 lines for the 5 columns of"),
    ],
    ids=["one dimension", "complex", "text", "objects", "empty", "too few rows", "too few columns"],
)
def test_a_matrix_that_is_none_or_does_not_fit(files, values, message):
    assert message in files.matrix(values).refused()


@pytest.mark.parametrize("name", ["scores.npy", "scores.parquet", "scores.safetensors", "scores.txt"])
def test_a_damaged_or_unknown_file(files, name):
    path = files.folder / name
    path.write_bytes(files.scores.read_bytes()[:100])
    message = replace(files, scores=path).refused()
    assert ("scores are a .npy, .parquet, .safetensors file" if name.endswith("txt") else "cannot be read: ") in message


def test_a_text_column_in_a_parquet_matrix(files):
    path = files.folder / "scores.parquet"
    pq.write_table(pa.table({"id": IDS, "target-0": MATRIX[:, 0], "note": IDS}), path)
    assert "column 'note' is string, not numbers; only `id` may be text" in replace(files, scores=path).refused()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": [*IDS[:-1], IDS[0]]}, "row id 'row-0' stands at 1 and at 60; ids must be unique"),
        ({"id": [*IDS[:-1], None]}, "other_rows.parquet:60: id None is neither a text nor a whole number"),
        ({"id": [*IDS[:-1], ""]}, "other_rows.parquet:60: id '' is neither"),
        ({"ids": IDS}, "has no column 'id', did you mean 'ids'?; it has ids"),
        ({"id": IDS, "source": [*SOURCES[:-1], None]}, "other_rows.parquet:60: source is empty"),
        ({"id": IDS, "tokens": [*TOKENS[:-1], -1]}, "tokens -1 of row 60 is not a whole number of at least 1"),
    ],
    ids=["twice", "missing", "empty", "no id column", "no source", "tokens"],
)
def test_a_row_table_that_cannot_be_used(files, table, message):
    assert message in files.row_table(**table).refused()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": [*TARGETS[:-1], "target-0"], "task": TASKS}, "row id 'target-0' stands at 1 and at 6"),
        ({"id": TARGETS}, "has no column 'task'; it has id"),
        ({"id": TARGETS, "task": [*TASKS[:-1], None]}, "other_columns.parquet:6: task is empty"),
        ({"id": TARGETS, "task": ["utility", *TASKS[1:]]}, "task 'utility' is also a column of selection.parquet"),
    ],
    ids=["twice", "no task column", "no task", "reserved name"],
)
def test_a_column_table_that_cannot_be_used(files, table, message):
    assert message in files.column_table(**table).refused()


def test_ids_that_are_not_those_of_the_matrix(files):
    path = files.folder / "scores.parquet"
    pq.write_table(pa.table({"id": IDS} | {name: MATRIX[:, k] for k, name in enumerate(TARGETS)}), path)
    other = replace(files, scores=path)
    message = other.row_table(id=["x", "y", "z", *IDS[:-4]]).refused()
    assert "4 of the 60 row ids of" in message and "'row-56', 'row-57', 'row-58', ...; the tables" in message
    message = other.column_table(id=[*TARGETS[1:], "x"], task=TASKS).refused()
    assert "1 of the 6 column ids of" in message and "'target-0'; the tables are of different data" in message


def test_tables_that_are_needed(files):
    assert "has no row ids; give --rows" in replace(files, rows=None).refused()
    assert "does not say which task its columns belong to; give --columns" in replace(files, columns=None).refused()


def test_every_mistake_of_the_command_at_once(files):
    wrong = replace(files, scores=files.folder / "score.npy", rows=files.folder / "row.parquet")
    message = wrong.refused(method="bid", budget="1.5", output=files.folder / "no" / "selection.parquet")
    for part in (
        "score.npy, did you mean 'scores.npy'?",
        "row.parquet, did you mean 'rows.parquet'?",
        "--method: unknown method 'bid', did you mean 'bids'?",
        "--budget: '1.5' is neither a whole number above 0 nor a fraction from 0 to 1",
        f"--output: the folder {files.folder / 'no'} does not exist",
    ):
        assert part in message
    assert "is not the name of a .parquet file" in files.refused(output=files.folder / "selection.csv")
    assert "is also an input; choose another name" in files.refused(output=files.rows)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("61", "budget 61 is more than the 60 usable rows (of 60); lower the budget"),
        ("0.01", "budget 0.01 of 60 rows is no row; raise it"),
        *((bad, "is neither a whole number above 0 nor a fraction") for bad in ("0", "-3", "ten", "nan", "2.0")),
    ],
)
def test_a_budget_that_cannot_be_met(files, budget, message):
    assert message in files.refused(budget=budget)


def test_whole_numbers_are_rows_and_one_point_zero_is_everything(files):
    assert len(files.picked(budget="7")) == 7
    assert len(files.picked(budget="1.0")) == ROWS
    assert len(files.picked(budget="1")) == 1


@pytest.mark.parametrize("budget", ["300", "0.125"])
def test_a_budget_in_tokens(files, budget):
    expected = METHODS["bids"](MATRIX, TokenBudget(json.loads(budget), TOKENS), tasks=TASKS)
    assert files.picked(budget=budget, tokens=True) == [IDS[row] for row in expected.order]
    assert 250 <= sum(TOKENS[row] for row in expected.order) <= max(300, sum(TOKENS) / 8)


@pytest.mark.parametrize(
    ("budget", "message"),
    [("3000", "more than the 2370 tokens of all rows"), ("9", "less than the 10 tokens of the shortest row")],
)
def test_a_budget_in_tokens_that_cannot_be_met(files, budget, message):
    assert message in files.refused(budget=budget, tokens=True)
    assert "--tokens needs a column `tokens`" in files.row_table(id=IDS).refused(budget=budget, tokens=True)


def test_a_nan_column_is_named_and_dropped_with_a_warning(files):
    values = MATRIX.copy()
    values[:, 3] = np.nan
    values[:, 4] = 1.5
    done = files.matrix(values).select()
    assert done.exit_code == 0
    assert (
        "2 columns are constant or have no finite score and were dropped: target-3 (code), target-4 (math)"
        in done.stderr
    )
    assert not {"target-3", "target-4"} & set(pq.read_table(files.output)["target"].to_pylist())
    values[:, [1, 5]] = np.nan
    assert "no column is left of code: nothing was selected for it" in files.matrix(values).select().stderr


def test_rows_with_nan_are_named_and_the_column_that_has_them(files):
    values = MATRIX.copy()
    values[5:20, 2] = np.nan
    done = files.matrix(values).select(budget="45")
    assert done.exit_code == 0
    assert "15 rows have NaN or infinity and cannot be selected: row-5, row-6, row-7, row-8, row-9, ..." in done.stderr
    assert "Most gaps are in column target-2: 15 rows; remove it to keep them" in done.stderr
    assert not {f"row-{k}" for k in range(5, 20)} & set(pq.read_table(files.output)["id"].to_pylist())
    files.output.unlink()
    message = files.matrix(values).refused(budget="46")
    assert "more than the 45 usable rows (of 60)" in message and "Most gaps are in column target-2" in message


def test_nothing_usable(files):
    assert "target columns can be used" in files.matrix(np.ones_like(MATRIX)).refused()


def test_a_failed_command_keeps_the_earlier_file(files, expected):
    before = files.output.read_bytes()
    files.matrix(MATRIX[:50]).refused()
    assert files.output.read_bytes() == before


def test_npy_stays_on_disk(files):
    found = read_labelled_scores(files.scores, files.rows, files.columns)
    assert isinstance(found.values, np.memmap)
    assert (found.row_ids, found.column_ids, found.tokens) == (IDS, TARGETS, TOKENS)
