"""The scores that need no gradients, as a stage: one score folder per kind, for the controls beside influence.

Rows are the encoded ones: a row that the model cannot be trained on must not be selected by a control either. The text
kinds read no model and are keyed without the warmup, so they are computed once for every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from curate.records import read_examples
from curate.similarity import Kind, conversation_text, similarity_matrix, write_similarity
from flows.config import RunConfig
from flows.stages.data import POOL, TARGETS, external_digest
from flows.store import Accounting, StageOutput, StageStore
from train.encoding import Encoded, read_encoded
from train.models import load_adapter, load_base, load_tokenizer
from train.moments import checkpoint_folders

SIMILARITY_CODE = [
    "curate/records.py",
    "curate/scores.py",
    "curate/selection/inputs.py",
    "curate/similarity",
    *("train/audit.py", "train/encoding.py", "train/rendering.py"),
    "train/hidden_states.py",
    "train/models.py",
    "train/moments.py",
    "flows/stages/similarity.py",
]
POOLING: Final = "last"
SMOOTHING: Final = "add_one"
PARAMETERS: dict[Kind, dict[str, str]] = {
    "embeddings": {"pooling": POOLING},
    "bm25": {},
    "ngrams": {"smoothing": SMOOTHING},
}


def similarity(
    config: RunConfig,
    store: StageStore,
    kind: Kind,
    ingested: StageOutput,
    cleaned: StageOutput,
    encoded: StageOutput,
    warmed: StageOutput | None = None,
) -> StageOutput:
    """The score folder of one kind: `embeddings` (RDS), `bm25`, or `ngrams` (DSIR; a column per task and one over all).

    `warmed` is used for `embeddings` only, which come from its last checkpoint. Rows and columns without a score are
    left out of the folder and named with the reason in its summary.
    """
    inputs = {"ingest": ingested.key, "clean": cleaned.key, "encode": encoded.key}
    if kind == "embeddings":
        if warmed is None:
            raise ValueError("embedding scores come from the warmed-up model; pass the warmup stage's output")
        inputs |= {"warmup": warmed.key, "model": external_digest(config.model)}

    def build(folder: Path) -> Accounting:
        pool, targets = read_encoded(encoded.path / POOL), read_encoded(encoded.path / TARGETS)
        capability = {t.id: str(t.capability) for t in read_examples(ingested.path / TARGETS)}
        columns, tasks = [target.id for target in targets], [capability[target.id] for target in targets]
        if kind == "embeddings":
            assert warmed is not None
            values = _embedding_scores(config, warmed.path, pool, targets)
        else:
            texts = _texts(cleaned.path / POOL, pool), _texts(ingested.path / TARGETS, targets)
            if kind == "bm25":
                from curate.similarity.bm25 import bm25_scores

                values = bm25_scores(*texts)
            else:
                from curate.similarity.dsir import log_importance_weights, task_columns

                values = log_importance_weights(*texts, tasks, smoothing=SMOOTHING)
                columns = tasks = task_columns(tasks)
        matrix = similarity_matrix(kind, values, [row.id for row in pool], columns, tasks)
        write_similarity(folder, matrix, PARAMETERS[kind])
        return Accounting(len(pool), len(matrix.row_ids), excluded=len(matrix.excluded_rows))

    return store.run(
        "similarity", build, params={"kind": kind, **PARAMETERS[kind]}, inputs=inputs, code=SIMILARITY_CODE
    )


def _embedding_scores(
    config: RunConfig, warmed: Path, pool: Sequence[Encoded], targets: Sequence[Encoded]
) -> np.ndarray:
    from curate.similarity.embeddings import embedding_scores

    model = load_adapter(load_base(config.model), checkpoint_folders(warmed)[-1])
    with tqdm(total=len(pool), desc="embeddings", unit="row") as bar:

        def advance(count: int) -> None:
            bar.update(count)

        return embedding_scores(
            model,
            pool,
            targets,
            load_tokenizer(config.model).pad_token_id,
            pooling=POOLING,
            tokens_per_batch=config.influence.tokens_per_batch,
            on_batch=advance,
        )


def _texts(path: Path, rows: Sequence[Encoded]) -> list[str]:
    """The conversations of the encoded rows, in their order."""
    text = {example.id: conversation_text(example) for example in read_examples(path)}
    return [text[row.id] for row in rows]
