"""The rows a training job names: read, encoded where they are still chats, and known by a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow.dataset as pads

from train.encoding import ENCODED_SCHEMA, Encoded, encode_all
from train.settings import TrainJob


class DataError(ValueError):
    """A data file that cannot be trained on."""


def load_rows(job: TrainJob, tokenizer: object) -> tuple[list[Encoded], list[tuple[str, str]]]:
    """Encoded rows of `job.data`, and (id, reason) of those left out. A missing source column is read as ""."""
    if not job.data.exists():
        raise DataError(f"no such data file: {job.data}")
    table = pads.dataset(job.data, format="parquet")
    names = table.schema.names
    needed = ["id", "input_ids", "labels"] if "input_ids" in names else ["id", "messages"]
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(
            f"{job.data} lacks {', '.join(missing)}; its columns are {', '.join(names)}. Training needs id, source "
            "(or mixture.domains: clusters) and either messages or input_ids and labels."
        )
    wanted = ENCODED_SCHEMA.names if "input_ids" in names else [*needed, "source"]
    rows = table.to_table(columns=[name for name in wanted if name in names]).to_pylist()
    for row in rows:
        row.setdefault("source", "")
    if "input_ids" in names:
        return [Encoded(**row) for row in rows], []
    return encode_all(rows, tokenizer, job.max_length)


def rows_digest(rows: Sequence[Encoded]) -> str:
    """Changes with any row's id, tokens or labels, and with their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.id, row.source, row.input_ids, row.labels)).encode())
    return digest.hexdigest()
