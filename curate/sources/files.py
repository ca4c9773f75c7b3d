"""Raw rows out of local files, one at a time, each with the place it came from.

Parquet is read in batches and JSONL line by line, so that a file larger than memory streams; a JSON list is loaded
whole (its syntax allows nothing else). A line that is no row costs that line, not the file: it becomes a `Rejected`
with its place. A file that cannot be opened at all is a `SourceError`. Places are `path:row`; rows count from 1 (in
JSONL and CSV lines of the file; a CSV row is named by its last line), paths are as the user wrote them.
"""

from __future__ import annotations

import csv
import difflib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.records import DataError, Rejected, reject
from curate.sources.shapes import SHAPE_FIELDS

ROWS_PER_BATCH = 1024
PROVENANCE_FIELDS = frozenset(("id", "source", "license", "domain", "capability"))
RawRow = tuple[str, dict[str, Any]]


class SourceError(DataError):
    """A source that cannot be read at all; names the path or id and the remedy."""


def read_rows(path: Path) -> Iterator[RawRow | Rejected]:
    """Every row of a file, or of all files below a folder in sorted order, as `(origin, fields)`."""
    if path.is_dir():
        for file in data_files(path):
            yield from _READERS[file.suffix.lower()](file)
        return
    if not path.is_file():
        raise missing_file(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise SourceError(f"{path}: unknown file type {path.suffix!r}; convert it to one of {', '.join(SUPPORTED)}")
    yield from reader(path)


def data_files(folder: Path) -> list[Path]:
    """Supported files below `folder`, sorted; hidden ones (and what lies in hidden folders) are left out."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUPPORTED
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise SourceError(
            f"{folder}: no {', '.join(SUPPORTED)} file in this folder; give the folder that holds the data"
        )
    return files


def missing_file(path: Path) -> SourceError:
    """The error for a path that is not there, with the nearest name that is."""
    nearest = nearest_path(path)
    hint = f"; did you mean {nearest}?" if nearest else ""
    return SourceError(f"{path}: no such file or folder{hint} (correct `path`, or give a hub id as owner/name)")


def nearest_path(path: Path) -> Path | None:
    """The existing path most like `path`, looked for at the first part of it that does not exist."""
    while not path.parent.exists() and path.parent != path:
        path = path.parent
    if not path.parent.is_dir():
        return None
    names = sorted(entry.name for entry in path.parent.iterdir())
    close = difflib.get_close_matches(path.name, names, n=1)
    return path.parent / close[0] if close else None


def _parquet(path: Path) -> Iterator[RawRow | Rejected]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            known = [name for name in names if name in SHAPE_FIELDS | PROVENANCE_FIELDS]
            # Columns that no shape uses (embeddings, images) are not decoded, unless they are all there is to name.
            columns = known if SHAPE_FIELDS.intersection(known) else None
            number = 0
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=columns):
                for row in _batch_rows(batch):
                    number += 1
                    origin = f"{path.as_posix()}:{number}"
                    yield (origin, row) if isinstance(row, dict) else reject(origin, row, "")
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path}: not a readable Parquet file ({_first_line(error)}); write it again") from error


def _batch_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for position in range(batch.num_rows):
            try:
                yield batch.slice(position, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield "a field is not UTF-8"


def _jsonl(path: Path) -> Iterator[RawRow | Rejected]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield _json_line(f"{path.as_posix()}:{number}", line)


def _json_line(origin: str, line: bytes) -> RawRow | Rejected:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return reject(origin, "the line is not UTF-8", line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return reject(origin, "the line is not valid JSON", line.decode("utf-8"))
    return (origin, value) if isinstance(value, dict) else reject(origin, "the line is not a JSON object", value)


def _json(path: Path) -> Iterator[RawRow | Rejected]:
    if _first_character(path) == b"{":  # many published .json files hold JSON lines
        yield from _jsonl(path)
        return
    try:
        values = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{path}: not valid JSON ({_first_line(error)}); write it as .jsonl to lose one row, not all"
        ) from error
    if not isinstance(values, list):
        raise SourceError(f"{path}: holds {type(values).__name__}, not a list of objects; write a list, or .jsonl")
    for number, value in enumerate(values, start=1):
        origin = f"{path.as_posix()}:{number}"
        yield (origin, value) if isinstance(value, dict) else reject(origin, "the entry is not a JSON object", value)


def _first_character(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _csv(path: Path) -> Iterator[RawRow | Rejected]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a long answer is judged by max_characters, not by csv's 131,072
    # Bytes that are not UTF-8 become lone surrogates, which the row's own validation then names.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                origin = f"{path.as_posix()}:{reader.line_num}"
                if None in row:
                    yield reject(origin, "more fields than the header has", dict(row))
                else:
                    yield origin, dict(row)
        except csv.Error as error:
            raise SourceError(
                f"{path}:{reader.line_num}: not valid CSV ({error}); quote fields that hold commas or line breaks"
            ) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


_READERS: dict[str, Callable[[Path], Iterator[RawRow | Rejected]]] = {
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
}
SUPPORTED = tuple(_READERS)
