"""Raw rows out of one file, one at a time, each with the place it came from.

Parquet is read in batches, JSONL and CSV line by line, so that a file larger than memory streams; a JSON list is loaded
whole (its syntax allows nothing else). A line that is no row costs that line, not the file: it becomes a `Rejected`
with its place. Places are `path:row`; rows count from 1 (in JSONL and CSV lines of the file; a CSV row is named by its
last line), paths are as the user wrote them.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from curate.records import Rejected, reject
from curate.sources.errors import SourceError, first_line
from curate.sources.json_text import JsonError, JsonReader
from curate.sources.opening import DataFile, open_file
from curate.sources.shapes import SHAPE_FIELDS

ROWS_PER_BATCH = 1024
MAX_LINE_BYTES = 64 * 2**20
MAX_JSON_BYTES = 2 * 2**30
PROVENANCE_FIELDS = frozenset(("id", "source", "license", "domain", "capability"))
RawRow = tuple[str, dict[str, Any]]
_BOM = b"\xef\xbb\xbf"


def read_rows(file: DataFile) -> Iterator[RawRow | Rejected]:
    """Every row of a file as `(origin, fields)`, or as the `Rejected` it becomes; `SourceError` if it is damaged."""
    with open_file(file) as stream:
        yield from _READERS[file.format](file.name, stream)


def known_columns(names: list[str]) -> list[str] | None:
    """The columns worth decoding, None for all: those that no shape uses (embeddings, images) are left alone, unless
    they are all there is to name."""
    known = [name for name in names if name in SHAPE_FIELDS | PROVENANCE_FIELDS]
    return known if SHAPE_FIELDS.intersection(known) else None


def _parquet(name: str, stream: BinaryIO) -> Iterator[RawRow | Rejected]:
    try:
        with pq.ParquetFile(stream) as file:
            _refuse_twice(name, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(ROWS_PER_BATCH, columns=known_columns(file.schema_arrow.names)):
                for row in _batch_rows(batch):
                    number += 1
                    origin = f"{name}:{number}"
                    yield (origin, row) if isinstance(row, dict) else reject(origin, row, "")
    # Damaged pages surface as Arrow's errors, as OSError, or as the ValueError of a field it cannot decode.
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{name}: not a readable Parquet file ({first_line(error)}); write it again") from error


def _batch_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """Rows as dicts; the reason in place of a row that Python cannot hold: text that is not UTF-8, a date of year 0."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        for position in range(batch.num_rows):
            try:
                yield batch.slice(position, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield "a field is not UTF-8"
            except (ValueError, OverflowError, pa.ArrowException):
                yield "a field holds a value that cannot be read"
    else:
        yield from rows


def _jsonl(name: str, stream: BinaryIO) -> Iterator[RawRow | Rejected]:
    json = JsonReader()
    for number, line in enumerate(_lines(stream), start=1):
        origin = f"{name}:{number}"
        if line is None:
            yield reject(origin, f"the line is longer than {MAX_LINE_BYTES} bytes", "")
            continue
        if number == 1:
            line = line.removeprefix(_BOM)
        if line.strip():
            yield _json_line(json, origin, line)


def _lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Lines, with None for one over `MAX_LINE_BYTES`, which is passed over without being held in memory."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        if len(line) <= MAX_LINE_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES)
        yield None


def _json_line(json: JsonReader, origin: str, line: bytes) -> RawRow | Rejected:
    try:
        value = json.value(line.decode("utf-8"))
    except UnicodeDecodeError:
        return reject(origin, "the line is not UTF-8", line.decode("utf-8", "replace"))
    except JsonError as error:
        reason = "the line is not valid JSON" if str(error) == "not valid JSON" else str(error)
        return reject(origin, reason, line.decode("utf-8"))
    return (origin, value) if isinstance(value, dict) else reject(origin, "the line is not a JSON object", value)


def _json(name: str, stream: BinaryIO) -> Iterator[RawRow | Rejected]:
    if _first_character(stream) == b"{":  # many published .json files hold JSON lines
        yield from _jsonl(name, stream)
        return
    content = stream.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise SourceError(f"{name}: a JSON list of more than {MAX_JSON_BYTES} bytes; write it as .jsonl, which streams")
    try:
        for number, value in enumerate(JsonReader().entries(content.decode("utf-8-sig")), start=1):
            origin = f"{name}:{number}"
            if isinstance(value, JsonError):
                yield reject(origin, str(value), "")
            elif isinstance(value, dict):
                yield origin, value
            else:
                yield reject(origin, "the entry is not a JSON object", value)
    except ValueError as error:
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else first_line(error)
        raise SourceError(f"{name}: {what}; write a list of objects, or .jsonl to lose one row, not all") from error


def _first_character(stream: BinaryIO) -> bytes:
    head = stream.peek(4096) if isinstance(stream, io.BufferedReader) else b""
    return head.removeprefix(_BOM).lstrip()[:1]


def _csv(name: str, stream: BinaryIO) -> Iterator[RawRow | Rejected]:
    csv.field_size_limit(MAX_LINE_BYTES)  # a long answer is judged by max_characters, not by csv's 131,072
    # Bytes that are not UTF-8 become lone surrogates, which the row's own validation then names.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(_csv_lines(text), strict=True)
    try:
        header = next(reader, [])
        _refuse_twice(name, header)
        for fields in reader:
            origin = f"{name}:{reader.line_num}"
            row = dict(zip(header, fields, strict=False))
            if len(fields) == len(header):
                yield origin, row
            elif fields:
                amount = "more" if len(fields) > len(header) else "fewer"
                yield reject(origin, f"{amount} fields than the header has", row)
    except csv.Error as error:
        raise SourceError(
            f"{name}:{reader.line_num}: not valid CSV ({error}); quote fields that hold commas or line breaks"
        ) from error
    finally:
        text.detach()  # the stream belongs to who opened it


def _csv_lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES:
            raise csv.Error(f"a line of {MAX_LINE_BYTES} characters or more")
        yield line


def _refuse_twice(name: str, columns: list[str]) -> None:
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise SourceError(f"{name}: the column {repr(twice[0])[:80]} stands twice in the header; rename one of them")


_READERS: dict[str, Callable[[str, BinaryIO], Iterator[RawRow | Rejected]]] = {
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
}
