"""What one example of instruction data is, and what happens to a row that is not one.

Rows are judged once, at the door: every later stage may rely on string turns (empty only where a tool returned
nothing), known roles, a tool's turn only behind the assistant's or another tool's, and a last turn by the assistant;
a row that fails leaves a `Rejected` with its place and one reason instead of vanishing. Column names of
`pool.parquet`, `targets.parquet` and `rejected.parquet` are declared here and nowhere else. Validation is
O(characters).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROLES = ("system", "user", "assistant", "tool")
MAX_CHARACTERS = 200_000
UNKNOWN = "unknown"
EXCERPT_CHARACTERS = 200
BATCH_ROWS, BATCH_CHARACTERS = 8192, 2**25  # of a row group
LONGEST_REASON = 2000  # characters; also of a path

MESSAGES_TYPE = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
POOL_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("license", pa.string()),
        ("domain", pa.string()),
        ("messages", MESSAGES_TYPE),
        ("origin", pa.string()),
    ]
)
TARGETS_SCHEMA = POOL_SCHEMA.append(pa.field("capability", pa.string()))
REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("origin", "id", "reason", "excerpt")])


class DataError(ValueError):
    """Data that a person has to correct; the message names the file, the row, the field and the remedy."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: `role` is one of `ROLES`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One valid conversation. `origin` is where it was read (`Place.of` takes it apart); `capability` is set on targets
    only."""

    id: str
    source: str
    messages: tuple[Message, ...]
    license: str
    domain: str
    origin: str
    capability: str | None = None

    def user_turns(self) -> tuple[str, ...]:
        return tuple(message.content for message in self.messages if message.role == "user")

    def answers(self) -> tuple[str, ...]:
        return tuple(message.content for message in self.messages if message.role == "assistant")

    def text(self) -> str:
        """All turns, a line break between them."""
        return "\n".join(message.content for message in self.messages)


class Place(NamedTuple):
    """Where a row was read: `file` as the user wrote it, or `hub:owner/name@commit/split` of a hub dataset; `row` is
    the line of a text file, else the number of the row; both count from 1."""

    file: str
    row: int

    @classmethod
    def of(cls, origin: str) -> Place:
        """The place behind an example's `origin`; `DataError` if it names none."""
        file, _, row = origin.rpartition(":")
        if not file or not (row.isascii() and row.isdigit()):
            raise DataError(f"{origin[:200]!r} is not the place of a row (file:row); ingest the data again")
        return cls(file, int(row))


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row that is not an example. `id` is empty where the row has none that can be read."""

    origin: str
    id: str
    reason: str
    excerpt: str


def text_problem(text: str) -> str | None:
    """Why `text` cannot be stored and tokenized, or None: null bytes and lone surrogates break both."""
    if "\0" in text:
        return "contains a null byte"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return None


def messages_problem(raw: Any, max_characters: int = MAX_CHARACTERS) -> str | None:
    """The first reason why `raw`, a list of `{role, content}`, is not a conversation to train on, or None."""
    if not isinstance(raw, list | tuple) or not raw:
        return "messages is missing or empty"
    characters = 0
    for position, turn in enumerate(raw):
        where = f"messages[{position}]"
        if not isinstance(turn, dict):
            return f"{where} is not an object with role and content"
        role, content = turn.get("role"), turn.get("content")
        if role not in ROLES:
            return f"{where}.role is {_short(role)}, not one of {', '.join(ROLES)}"
        if not isinstance(content, str):
            return f"{where}.content is {'missing' if content is None else 'not a string'}"
        if role == "tool" and (position == 0 or raw[position - 1]["role"] not in ("assistant", "tool")):
            return f"{where} is a tool's, but no turn of the assistant comes before it"
        if role != "tool" and not content.strip():
            return f"{where}.content is empty"
        if problem := text_problem(content):
            return f"{where}.content {problem}"
        characters += len(content)
    roles = [turn["role"] for turn in raw]
    if "assistant" not in roles:
        return "no assistant turn"
    if "user" not in roles:
        return "no user turn"
    if roles[-1] != "assistant":
        return "the last turn is not the assistant's"
    if characters > max_characters:
        return f"longer than {max_characters} characters"
    return None


def parse_row(
    row: dict[str, Any],
    *,
    origin: str,
    source: str,
    license: str = UNKNOWN,
    domain: str = UNKNOWN,
    capability: str | None = None,
    max_characters: int = MAX_CHARACTERS,
) -> Example | Rejected:
    """One raw row with `messages` and perhaps `id` -> an example, or why it is none.

    A row without an id gets `<source>-<hash of its messages>`, the same in every run and wherever the row stands.
    """
    given = row.get("id")
    problem = messages_problem(row.get("messages"), max_characters) or _id_problem(given)
    for name, value in (("source", source), ("license", license), ("domain", domain), ("capability", capability)):
        if problem is None and value is not None:
            bad = "is not a string" if not isinstance(value, str) else text_problem(value)
            problem = f"{name} {bad}" if bad else None
    if problem:
        return reject(origin, problem, row)
    messages = tuple(Message(turn["role"], turn["content"]) for turn in row["messages"])
    return Example(
        id=str(given) if has_id(row) else f"{source}-{content_hash(messages)}",
        source=source,
        messages=messages,
        license=license,
        domain=domain,
        origin=origin,
        capability=capability,
    )


def has_id(row: dict[str, Any]) -> bool:
    """Whether the row brings its own id; None and blank text do not count."""
    return row.get("id") is not None and str(row["id"]).strip() != ""


def content_hash(messages: Sequence[Message]) -> str:
    """16 hexadecimal digits that depend on roles and contents only."""
    text = json.dumps([[message.role, message.content] for message in messages], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def reject(origin: str, reason: str, raw: Any) -> Rejected:
    """A `Rejected` with an excerpt that is safe to store, whatever `raw` is."""
    row_id = raw.get("id") if isinstance(raw, dict) else None
    return Rejected(
        _storable(origin, LONGEST_REASON),
        "" if row_id is None else _storable(_as_text(row_id)),
        _storable(reason, LONGEST_REASON),
        _storable(_as_text(raw)),
    )


class ExampleWriter:
    """Writes `pool.parquet`, or `targets.parquet` with its `capability` column, a batch at a time, so that memory does
    not grow with the rows. The batches are the file's row groups, which `curate.cleaning.shards` reads one by one.

    rows, characters: of a batch, whichever is reached first.
    """

    def __init__(
        self, path: Path, *, targets: bool = False, rows: int = BATCH_ROWS, characters: int = BATCH_CHARACTERS
    ):
        self._schema = TARGETS_SCHEMA if targets else POOL_SCHEMA
        self._writer = pq.ParquetWriter(path, self._schema)
        self._rows, self._characters = rows, characters
        self._batch: list[Example] = []
        self._size = 0
        self.written = 0

    def __enter__(self) -> ExampleWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, example: Example) -> None:
        self._batch.append(example)
        self._size += sum(len(message.content) for message in example.messages)
        self.written += 1
        if len(self._batch) >= self._rows or self._size >= self._characters:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._batch:
            self._writer.write_table(examples_table(self._batch, self._schema))
            self._batch, self._size = [], 0


def write_examples(path: Path, examples: Iterable[Example], *, targets: bool = False) -> None:
    """`ExampleWriter` for rows that are all there."""
    with ExampleWriter(path, targets=targets) as writer:
        for example in examples:
            writer.write(example)


def examples_table(examples: Sequence[Example], schema: pa.Schema = POOL_SCHEMA) -> pa.Table:
    """Examples as columns."""
    turns = [message for example in examples for message in example.messages]
    ends = list(accumulate((len(example.messages) for example in examples), initial=0))
    pairs = pa.StructArray.from_arrays(
        [pa.array([m.role for m in turns], pa.string()), pa.array([m.content for m in turns], pa.string())],
        fields=list(MESSAGES_TYPE.value_type),
    )
    columns = {
        name: pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pairs)
        if name == "messages"
        else pa.array([getattr(example, name) for example in examples], schema.field(name).type)
        for name in schema.names
    }
    return pa.table(columns, schema=schema)


def read_examples(path: Path) -> list[Example]:
    """Read what `write_examples` wrote, in file order."""
    with pq.ParquetFile(path) as file:
        check_columns(path, file.schema_arrow.names)
        return [
            example for number in range(file.num_row_groups) for example in examples_of(file.read_row_group(number))
        ]


def rows_with_ids(path: Path, ids: Collection[str], columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a Parquet file with these ids, in its order; of the others no more than a row group is in memory.

    columns: `id` among them; None for all.
    """
    wanted = pa.array(sorted(ids), pa.string())
    names = None if columns is None else list(columns)
    with pq.ParquetFile(path) as file:
        groups = (file.read_row_group(number, names) for number in range(file.num_row_groups))
        parts = [group.filter(pc.is_in(group["id"], wanted)) for group in groups]
        schema = file.schema_arrow
        if names is not None:
            schema = pa.schema([schema.field(name) for name in names])
        return pa.concat_tables([schema.empty_table(), *parts])


def examples_of(table: pa.Table) -> list[Example]:
    """The rows of a table with the columns of `POOL_SCHEMA`, and `capability` if it has that; others are left alone.

    Columns by columns, which takes a third of the time that rows as dictionaries would.
    """
    found: list[Example] = []
    plain = [name for name in TARGETS_SCHEMA.names if name != "messages" and name in table.schema.names]
    for batch in table.to_batches():
        messages = batch.column("messages")
        turns = messages.flatten()
        said = [Message(*pair) for pair in zip(*(part.to_pylist() for part in turns.flatten()), strict=True)]
        starts = list(accumulate(messages.value_lengths().to_pylist(), initial=0))
        columns = {name: batch.column(name).to_pylist() for name in plain}
        for row, (start, end) in enumerate(pairwise(starts)):
            values = {name: column[row] for name, column in columns.items()}
            found.append(Example(messages=tuple(said[start:end]), **values))
    return found


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    """Write `rejected.parquet`; an empty one has the same columns."""
    write_rows(path, rejected, REJECTED_SCHEMA)


def read_rejected(path: Path) -> list[Rejected]:
    table = pq.read_table(path)
    check_columns(path, table.schema.names, REJECTED_SCHEMA.names)
    return [Rejected(**row) for row in table.to_pylist()]


def write_rows(path: Path, records: Iterable[Any], schema: pa.Schema) -> None:
    """Write flat frozen records whose fields are the columns of `schema`."""
    rows = [{name: getattr(record, name) for name in schema.names} for record in records]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def messages_as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The form that chat templates and the JSON and Parquet files take."""
    return [{"role": message.role, "content": message.content} for message in messages]


def rows_to_encode(examples: Iterable[Example]) -> list[dict[str, Any]]:
    """What `train.encoding.encode_all` reads of examples."""
    return [{"id": e.id, "source": e.source, "messages": messages_as_dicts(e.messages)} for e in examples]


def check_columns(path: Path, names: Sequence[str], required: Sequence[str] = POOL_SCHEMA.names) -> None:
    """Raises `DataError` for a file without one of the required columns."""
    if missing := [name for name in required if name not in names]:
        raise DataError(f"{path} lacks the column(s) {', '.join(missing)}; write it again with this version")


def _id_problem(given: Any) -> str | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, str | int):
        return "id is neither a string nor an integer"
    problem = text_problem(str(given))
    return f"id {problem}" if problem else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _as_text(raw: Any) -> str:
    if isinstance(raw, str):
        return raw
    try:
        return json.dumps(raw, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):  # circular, a key that is no text, too deep
        return f"({type(raw).__name__})"


def _storable(text: str, limit: int = EXCERPT_CHARACTERS) -> str:
    return text[:limit].encode("utf-8", "replace").decode("utf-8").replace("\0", "\\0")
