"""How much there is to do: rows and tokens, from file headers, line counts and a sample put through the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from curate.records import rows_to_encode
from curate.selection import resolve_budget
from curate.sources import SourceSpec
from curate.sources.opening import DataFile, file_kind, find_files, is_there, is_url
from eval.prompts import is_local
from eval.tasks import TaskSpec, local_files
from flows.checks import Findings
from flows.config import RunConfig
from train.encoding import Encoded, encode_all

COUNTED_BYTES = 2 << 30  # of text files, whose lines are counted; larger ones are measured by their first lines
FIRST_BYTES = 16 << 20
UNKNOWN_ITEMS = 1000  # of a task whose data is not in a local file
CHOICES = 4
ANSWER_TOKENS = 128  # generated for an item of a task that generates


@dataclass(frozen=True)
class Workload:
    """rows: of the pool; tokens: of the whole pool after the cut; sample: encoded pool rows; targets, items: how many;
    task_tokens: read or generated per model by the tasks; selected: share of the pool that is trained on, 0 to 1;
    parameters: of the model; uncounted: sources whose rows cannot be counted without reading them."""

    rows: int
    tokens: float
    sample: list[Encoded]
    targets: int
    items: int
    task_tokens: float
    selected: float
    parameters: int
    uncounted: tuple[str, ...]

    def padding(self, batch: int) -> float:
        """Tokens of batches that are padded to their longest row, over those of their rows: 1 or more."""
        lengths = [len(row.input_ids) for row in self.sample]
        batches = [lengths[i : i + batch] for i in range(0, len(lengths), batch)]
        return sum(max(each) * len(each) for each in batches) / max(sum(lengths), 1) if lengths else 1.0


def measure_workload(config: RunConfig, found: Findings) -> Workload:
    """found: what the checks have opened, without problems."""
    rows, uncounted, per_source, sample = 0, [], [], []
    for spec, examples in zip(config.data.pool, found.samples, strict=True):
        encoded, _ = encode_all(rows_to_encode(examples), found.tokenizer, config.max_length)
        sample += encoded
        count = len(examples) if len(examples) == spec.limit else count_rows(spec)
        if count is None:
            uncounted.append(spec.path)
            continue
        rows += count
        per_source.append(count * _mean([len(row.input_ids) for row in encoded]))
    tokens = sum(per_source)
    return Workload(
        rows=rows,
        tokens=tokens,
        sample=sample,
        targets=len(found.targets),
        items=len(found.items),
        task_tokens=sum(_task_tokens(task, config) for task in found.tasks),
        selected=_selected_share(config, rows, tokens),
        parameters=sum(parameter.numel() for parameter in found.model.parameters()),
        uncounted=tuple(uncounted),
    )


def count_rows(spec: SourceSpec) -> int | None:
    """Rows of a source; None where only reading it would tell: a hub dataset, a URL, a compressed or a JSON file."""
    if is_url(spec.path) or not is_there(spec.path):
        return None
    counts = [_rows_of(file) for file in find_files(spec.path)]
    if any(count is None for count in counts):
        return None
    total = sum(count for count in counts if count is not None)
    return min(total, spec.limit or total)


def _rows_of(file: DataFile) -> int | None:
    path = Path(file.path)
    if file.compression is not None:
        return None
    if file.format == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    if file.format == ".json":
        return None
    size = path.stat().st_size
    with path.open("rb") as stream:
        if size <= COUNTED_BYTES:
            lines = sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
        else:
            lines = round(stream.read(FIRST_BYTES).count(b"\n") * size / FIRST_BYTES)
    return max(lines - (file.format == ".csv"), 1)


def _selected_share(config: RunConfig, rows: int, tokens: float) -> float:
    settings = config.selection
    whole, budget = (tokens, settings.budget_tokens) if settings.budget_tokens is not None else (rows, settings.budget)
    return min(1.0, resolve_budget(budget, round(whole)) / max(whole, 1))


def _task_tokens(task: TaskSpec, config: RunConfig) -> float:
    """Tokens that one model reads and writes for a task; a written one counts as a read one, since it is batched."""
    items = _items_of(task)
    per_item = CHOICES * config.max_length / 2
    if isinstance(task.source, dict) and str(task.source.get("output_type", "")).startswith("generate"):
        per_item = config.max_length / 2 + ANSWER_TOKENS
    return min(items, config.evaluation.limit or items) * per_item


def _items_of(task: TaskSpec) -> int:
    files = [path for path in local_files(task) if path.is_file() and file_kind(path.name)] if is_local(task) else []
    counts = [_rows_of(file) for path in files for file in find_files(str(path))]
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(local_files(task)) else UNKNOWN_ITEMS


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
