"""The rows as tokens and labels, and the audit that stops a run which would train on too few of them.

The limits are looked at after the stage is stored: a changed limit costs no second encoding and changes no later key.
"""

from __future__ import annotations

import json
from pathlib import Path

from curate.records import read_examples, rows_to_encode
from flows.config import RunConfig
from flows.log import logger
from flows.stages.data import POOL, TARGETS
from flows.stages.outside import external_digest
from flows.store import Accounting, StageOutput, StageStore
from train.audit import check, in_words, summary, worth_telling, write_audit
from train.encoding import encode_audited, write_encoded
from train.models import load_tokenizer

EXCLUDED, AUDIT, AUDITED_ROWS = "excluded.json", "audit.json", "audit.parquet"


def encode(config: RunConfig, store: StageStore, ingested: StageOutput, cleaned: StageOutput) -> StageOutput:
    """Pool and targets as tokens and labels, with an audit of masks and truncation by source and by row.

    Raises `AuditError` when less is left than `audit` of the configuration allows.
    """

    def build(folder: Path) -> Accounting:
        tokenizer = load_tokenizer(config.model)
        parts = {}
        for file, path in ((POOL, cleaned.path / POOL), (TARGETS, ingested.path / TARGETS)):
            rows, audited = encode_audited(rows_to_encode(read_examples(path)), tokenizer, config.max_length)
            write_encoded(folder / file, rows)
            parts[Path(file).stem] = audited
        write_audit(folder / AUDITED_ROWS, parts)
        excluded = {name: {row.id: row.excluded for row in part if row.excluded} for name, part in parts.items()}
        (folder / EXCLUDED).write_text(json.dumps(excluded, indent=1))
        sums = {name: {"max_length": config.max_length, **summary(part)} for name, part in parts.items()}
        (folder / AUDIT).write_text(json.dumps(sums, indent=1))
        pool = sums[Path(POOL).stem]
        return Accounting(pool["rows_in"], pool["rows"], excluded=pool["excluded_rows"])

    output = store.run(
        "encode",
        build,
        params={"max_length": config.max_length},
        inputs={"ingest": ingested.key, "clean": cleaned.key, "model": external_digest(config.model)},
        code=[
            "curate/records.py",
            "train/audit.py",
            "train/encoding.py",
            "train/models.py",
            "train/rendering.py",
            "flows/stages/encoding.py",
        ],
    )
    audit = json.loads((output.path / AUDIT).read_text())
    check(audit, config.audit, config.max_length, output.path / AUDITED_ROWS)
    for name, part in audit.items():
        for source, sums in part["sources"].items():
            if worth_telling(sums):
                logger.warning("encoding of the %s, %s: %s", name, source, in_words(sums))
    return output
