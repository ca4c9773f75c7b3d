"""The first three stages: read the sources, remove what must not be trained on, turn the rest into tokens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from curate import cleaning
from curate.records import read_examples, rows_to_encode, write_examples, write_rejected
from curate.sources import TooManyRejectedError, read_pool, read_targets
from eval.items import read_items
from flows.config import RunConfig
from flows.store import Accounting, StageOutput, StageStore, path_digest
from train.encoding import Encoded, encode_all, write_encoded
from train.models import load_tokenizer

POOL, TARGETS, REJECTED, REMOVED = "pool.parquet", "targets.parquet", "rejected.parquet", "removed.parquet"
EXCLUDED, AUDIT = "excluded.json", "audit.json"


def external_digest(path: str) -> str:
    """Content hash of a local file or folder; a hub id stands for itself."""
    return path_digest(Path(path)) if Path(path).exists() else path


def ingest(config: RunConfig, store: StageStore) -> StageOutput:
    """Read every source; bad rows go to rejected.parquet with a reason."""

    def build(folder: Path) -> Accounting:
        try:
            pool, rejected = read_pool(config.data.pool, max_rejected=config.data.max_rejected)
            targets, bad_targets = read_targets(config.data.targets, max_rejected=config.data.max_rejected)
        except TooManyRejectedError as error:
            write_rejected(folder / REJECTED, error.rejected)
            raise TooManyRejectedError(f"{error}. All of them: {folder / REJECTED}", error.rejected) from error
        write_examples(folder / POOL, pool)
        write_examples(folder / TARGETS, targets, targets=True)
        write_rejected(folder / REJECTED, [*rejected, *bad_targets])
        return Accounting(
            len(pool) + len(rejected) + len(targets) + len(bad_targets),
            len(pool),
            targets=len(targets),
            rejected=len(rejected) + len(bad_targets),
        )

    specs = [*config.data.pool, *config.data.targets]
    return store.run(
        "ingest",
        build,
        params={"data": config.data.model_dump(mode="json")},
        inputs={f"{k}": external_digest(spec.path) for k, spec in enumerate(specs)},
        code=["curate/records.py", "curate/sources", "flows/stages/data.py"],
    )


def clean(config: RunConfig, store: StageStore, ingested: StageOutput) -> StageOutput:
    """Remove exact duplicates, and pool rows that overlap a target or an evaluation item."""

    def build(folder: Path) -> Accounting:
        pool = read_examples(ingested.path / POOL)
        references = [cleaning.Reference.of(target) for target in read_examples(ingested.path / TARGETS)]
        references += [cleaning.Reference(item.id, (item.prompt,)) for item in read_items(config.evaluation.items)]
        filters: list[cleaning.Filter] = [
            cleaning.ExactDuplicates(),
            cleaning.TargetOverlap(references),
            cleaning.WordRunOverlap(references),
        ]
        kept, removed = cleaning.clean(pool, filters)
        write_examples(folder / POOL, kept)
        cleaning.write_removed(folder / REMOVED, removed)
        return Accounting(len(pool), len(kept), **Counter(row.filter for row in removed))

    return store.run(
        "clean",
        build,
        params={},
        inputs={"ingest": ingested.key, **{f"{k}": path_digest(p) for k, p in enumerate(config.evaluation.items)}},
        code=["curate/records.py", "curate/cleaning", "eval/items.py", "flows/stages/data.py"],
    )


def encode(config: RunConfig, store: StageStore, ingested: StageOutput, cleaned: StageOutput) -> StageOutput:
    """Pool and targets as tokens and labels, with an audit of masks and truncation."""

    def build(folder: Path) -> Accounting:
        tokenizer = load_tokenizer(config.model)
        audit: dict[str, dict] = {}
        counts = Accounting(0, 0)
        for name, path in ((POOL, cleaned.path / POOL), (TARGETS, ingested.path / TARGETS)):
            examples = read_examples(path)
            encoded, excluded = encode_all(rows_to_encode(examples), tokenizer, config.max_length)
            if not encoded:
                raise ValueError(
                    f"no row of the {Path(name).stem} can be trained on; the first: {': '.join(excluded[0])}"
                )
            write_encoded(folder / name, encoded)
            audit[Path(name).stem] = _audit(encoded, excluded, config.max_length)
            if name == POOL:
                counts = Accounting(len(examples), len(encoded), excluded=len(excluded))
        (folder / EXCLUDED).write_text(
            json.dumps({name: part.pop("excluded") for name, part in audit.items()}, indent=1)
        )
        (folder / AUDIT).write_text(json.dumps(audit, indent=1))
        return counts

    return store.run(
        "encode",
        build,
        params={"max_length": config.max_length},
        inputs={"ingest": ingested.key, "clean": cleaned.key, "model": external_digest(config.model)},
        code=["curate/records.py", "train/encoding.py", "train/models.py", "flows/stages/data.py"],
    )


def _audit(encoded: Sequence[Encoded], excluded: Sequence[tuple[str, str]], max_length: int) -> dict:
    tokens = sum(len(row.input_ids) for row in encoded)
    trained = sum(row.trained_tokens for row in encoded)
    return {
        "rows": len(encoded),
        "tokens": tokens,
        "trained_tokens": trained,
        "trained_share": trained / tokens,
        "truncated_rows": sum(row.truncated for row in encoded),
        "max_length": max_length,
        "excluded": dict(excluded),
    }
