"""Quality, diversity and complexity of the pool and of every selection, as a stage.

Every group is read through a sample of its rows that depends on their ids and the run's seed. A model reads fewer of
them than are counted: the base model for losses and difficulty, the warmed-up model for embeddings. On the demo's four
groups of 256 rows that is about 25 s of one core.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.cleaning.language import detect_languages
from curate.cleaning.quality import cut_off, refusal
from curate.figures import FIGURES, RowFacts, figure_table
from curate.figures.difficulty import answer_losses, first_answer, ifd
from curate.figures.groups import sample
from curate.records import examples_of, rows_with_ids
from curate.similarity.words import conversation_text, words
from flows.config import RunConfig
from flows.stages.data import POOL
from flows.stages.outside import external_digest
from flows.stages.selection import SELECTION
from flows.store import StageOutput, StageStore
from train.encoding import ENCODED_SCHEMA, IGNORED, Encoded
from train.hidden_states import unit_vectors
from train.models import load_adapter, load_base, load_tokenizer
from train.moments import checkpoint_folders

FIGURES_FILE, FIGURES_CSV, LOSSES = "figures.json", "figures.csv", "losses.parquet"
GROUP_OF_ALL = "pool"
LEAST_LETTERS, LEAST_PROBABILITY = 20, 0.5  # a text with less names no language
CUT_OFF_FROM = 200  # characters: a shorter answer may end as it likes
FIGURES_CODE = (
    *("curate/records.py", "curate/figures", "curate/similarity/words.py"),
    *("curate/cleaning/language.py", "curate/cleaning/quality.py"),
    *("train/audit.py", "train/encoding.py", "train/rendering.py"),
    *("train/forward.py", "train/hidden_states.py", "train/losses.py", "train/models.py", "train/moments.py"),
    "flows/stages/figures.py",
)


def figures(
    config: RunConfig,
    store: StageStore,
    cleaned: StageOutput,
    encoded: StageOutput,
    warmed: StageOutput,
    selected: Mapping[str, StageOutput],
) -> StageOutput:
    """`figures.json` and `figures.csv` of all groups, and `losses.parquet` of the rows that the base model read.

    selected: method -> its select stage.
    """
    settings = config.figures

    def build(folder: Path) -> None:
        chosen = {method: _tasks(output.path) for method, output in selected.items()}
        names = pq.read_table(encoded.path / POOL, columns=["id"])["id"].to_pylist()
        groups = {GROUP_OF_ALL: names, **{method: list(tasks) for method, tasks in chosen.items()}}
        counted = {
            group: _sampled(ids, max(settings.text_rows, settings.rows), config.seed) for group, ids in groups.items()
        }
        read = {group: _sampled(ids, settings.rows, config.seed) for group, ids in groups.items()}
        facts = _facts(cleaned.path, encoded.path, set().union(*counted.values(), *read.values()))
        facts |= _read_by_models(config, encoded.path, warmed.path, facts, set().union(*read.values()))
        rows = {group: [facts[name] for name in ids] for group, ids in counted.items()}
        for method, tasks in chosen.items():
            rows[method] = [replace(row, task=tasks[row.id]) for row in rows[method]]
        for group, ids in read.items():  # what another group's sample was read for would make the groups unequal
            mine = set(ids)
            rows[group] = [
                row if row.id in mine else replace(row, loss=None, ifd=None, vector=None) for row in rows[group]
            ]
        table = figure_table(rows, settings.draws, config.seed)
        table["rows"] = {group: {"all": len(groups[group]), "counted": len(counted[group]), "read": len(read[group])}
                         for group in groups}  # fmt: skip
        (folder / FIGURES_FILE).write_text(json.dumps(table, indent=1, allow_nan=False))
        _write_csv(folder / FIGURES_CSV, table["figures"])
        _write_losses(folder / LOSSES, facts)

    return store.run(
        "figures",
        build,
        params={"settings": settings.model_dump(mode="json"), "seed": config.seed},
        inputs={
            "clean": cleaned.key,
            "encode": encoded.key,
            "warmup": warmed.key,
            "model": external_digest(config.model),
            **{f"select-{method}": output.key for method, output in selected.items()},
        },
        code=FIGURES_CODE,
    )


def read_figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / FIGURES_FILE).read_text())


def _tasks(folder: Path) -> dict[str, str | None]:
    """Selected row -> the task that won it."""
    table = pq.read_table(folder / SELECTION, columns=["id", "task"]).to_pydict()
    return dict(zip(table["id"], table["task"], strict=True))


def _sampled(ids: Sequence[str], count: int, seed: int) -> list[str]:
    return [ids[place] for place in sample(ids, count, seed)]


def _facts(cleaned: Path, encoded: Path, wanted: set[str]) -> dict[str, RowFacts]:
    """What the rows themselves tell, by id."""
    examples = examples_of(rows_with_ids(cleaned / POOL, wanted))
    tokens = {row.id: row for row in _encoded(encoded, wanted)}
    languages = detect_languages(examples, min_letters=LEAST_LETTERS, min_probability=LEAST_PROBABILITY)
    facts = {}
    for example in examples:
        row, answers, text = tokens[example.id], example.answers(), conversation_text(example)
        facts[example.id] = RowFacts(
            id=example.id,
            source=example.source,
            text=text,
            words=tuple(words(text)),
            language=languages[example.id],
            prompt_tokens=first_answer(row)[0],
            answer_tokens=sum(label != IGNORED for label in row.labels),
            turns=len(answers),
            truncated=row.truncated,
            refuses=any(map(refusal, answers)),
            cut_off=cut_off(answers[-1], CUT_OFF_FROM) is not None,
        )
    return facts


def _encoded(folder: Path, wanted: Iterable[str]) -> list[Encoded]:
    table = pq.read_table(folder / POOL, schema=ENCODED_SCHEMA, filters=[("id", "in", set(wanted))])
    return [Encoded(**row) for row in table.to_pylist()]


def _read_by_models(
    config: RunConfig, encoded: Path, warmed: Path, facts: Mapping[str, RowFacts], wanted: set[str]
) -> dict[str, RowFacts]:
    """The facts of the rows that models read, with their losses, difficulty and embedding."""
    if not wanted:
        return {}
    rows = _encoded(encoded, wanted)
    tokenizer, base, budget = load_tokenizer(config.model), load_base(config.model), config.influence.tokens_per_batch
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    losses = answer_losses(base, rows, begin, tokenizer.pad_token_id, tokens_per_batch=budget)
    warm = load_adapter(base, checkpoint_folders(warmed)[-1])
    vectors = unit_vectors(warm, rows, tokenizer.pad_token_id, tokens_per_batch=budget)
    return {
        row.id: replace(
            facts[row.id],
            loss=_number(losses[i, 0]),
            ifd=_number(difficulty),
            vector=vectors[i] if np.isfinite(vectors[i]).all() else None,
        )
        for i, (row, difficulty) in enumerate(zip(rows, ifd(losses), strict=True))
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _write_csv(path: Path, table: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("aspect", "figure", "group", "value", "low", "high", "higher_means"))
        for figure in FIGURES:
            for group, numbers in table[figure.name].items():
                writer.writerow((figure.aspect, figure.name, group, *numbers, figure.higher))


def _write_losses(path: Path, facts: Mapping[str, RowFacts]) -> None:
    read = [row for row in facts.values() if row.vector is not None or row.loss is not None]
    schema = pa.schema([("id", pa.string()), ("source", pa.string()), ("loss", pa.float64()), ("ifd", pa.float64())])
    pq.write_table(pa.Table.from_pylist([{k: getattr(row, k) for k in schema.names} for row in read], schema), path)
