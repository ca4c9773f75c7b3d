"""Every score that is put to the test: (n, M), larger where training on the row should lower the target's loss.

`SCORERS` holds them by name. Gradient scores come from the influence engine itself, one pass per variant and
checkpoint, shared by the scorers that need it. `dot` keeps the length of the row's gradient, as the classical influence
function does and a sum over rows presumes; the targets have length one either way, as in a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from study import ENCODED, POOL, TARGETS, Study

from curate.influence.checkpoints import learning_rate_weights, load_checkpoint
from curate.influence.engine import open_engine
from curate.influence.projection import make_projection
from curate.influence.scoring import Engine, score_rows, target_gradients
from curate.influence.settings import CurvatureSettings, GradientJob, InfluenceSettings, Rule
from curate.similarity.bm25 import bm25_scores
from curate.similarity.embeddings import Pooling, embedding_scores
from curate.similarity.words import conversation_text
from train.models import load_adapter, load_base, load_tokenizer
from train.settings import Layers

Scorer = Callable[[Study], np.ndarray]
Product = Literal["cosine", "dot"]


@dataclass(frozen=True)
class Variant:
    """The settings of the influence engine that are varied; what is not here stays the product's default."""

    rule: Rule
    layers: Layers = "all"
    labels: Literal["sampled", "own"] = "sampled"
    damping: float = CurvatureSettings().damping


@dataclass(frozen=True)
class CheckpointScores:
    """One checkpoint's exact scores: cosines (n, M) and the lengths of the rows' gradients (n,)."""

    cosines: np.ndarray
    row_norms: np.ndarray

    def get(self, product: Product) -> np.ndarray:
        return self.cosines if product == "cosine" else self.cosines * self.row_norms[:, None]


@contextmanager
def engine_at(study: Study, variant: Variant, number: int) -> Iterator[Engine]:
    """The engine as a run would open it at checkpoint `number`, 0 the first; curvature is fitted on the whole pool."""
    rows, curvature = study.folder / ENCODED, CurvatureSettings(labels=variant.labels, damping=variant.damping)
    with TemporaryDirectory() as scratch:
        job = GradientJob(
            model=study.settings.model,
            model_digest="",
            max_length=study.settings.max_length,
            seed=study.settings.seed,
            checkpoints=study.checkpoints,
            sample=rows / POOL,
            pool=rows / POOL,
            targets=rows / TARGETS,
            features=Path(scratch),
            output=Path(scratch),
            settings=InfluenceSettings(preconditioner=variant.rule, layers=variant.layers, curvature=curvature),
        )
        checkpoint = load_checkpoint(study.checkpoints[number])
        yield open_engine(job, checkpoint, Path(scratch), "cpu", lambda rows_done: None, lambda: None)


@cache
def exact_at(study: Study, variant: Variant, number: int) -> CheckpointScores:
    with engine_at(study, variant, number) as engine:
        rows = score_rows(engine, study.pool, target_gradients(engine, study.targets))
    assert rows.cosines is not None
    return CheckpointScores(rows.cosines, rows.norms)


def sketched_at(study: Study, variant: Variant, dimension: int, product: Product, number: int) -> np.ndarray:
    """(n, M) scores from sketched gradients; each checkpoint has a sketch of its own, as in a run."""
    projection = make_projection("sketch", dimension, number)
    with engine_at(study, variant, number) as engine:
        targets = score_rows(engine, study.targets, None, projection, as_target=True).features
        rows = score_rows(engine, study.pool, None, projection)
    assert rows.features is not None and targets is not None
    return CheckpointScores(rows.features @ targets.T, rows.norms).get(product)


def exact(study: Study, variant: Variant, product: Product = "cosine") -> np.ndarray:
    return over_checkpoints(study, lambda number: exact_at(study, variant, number).get(product))


def one_checkpoint(study: Study, variant: Variant, number: int, product: Product = "cosine") -> np.ndarray:
    """number: 0 the first, -1 the last."""
    return exact_at(study, variant, range(len(study.checkpoints))[number]).get(product)


def sketch(study: Study, variant: Variant, dimension: int, product: Product = "cosine") -> np.ndarray:
    return over_checkpoints(study, lambda number: sketched_at(study, variant, dimension, product, number))


def over_checkpoints(study: Study, scores_at: Callable[[int], np.ndarray]) -> np.ndarray:
    """(n, M) mean of all checkpoints' scores, weighted by the learning rates used."""
    rates = [load_checkpoint(path, moments=False).learning_rates for path in study.checkpoints]
    parts = np.stack([scores_at(number) for number in range(len(rates))])
    return np.tensordot(learning_rate_weights(rates), parts.astype(np.float64), axes=1)


def bm25(study: Study) -> np.ndarray:
    pool, targets = (
        [conversation_text(example) for example in part] for part in (study.pool_examples, study.target_examples)
    )
    return bm25_scores(pool, targets)


def embeddings(study: Study, pooling: Pooling) -> np.ndarray:
    """Hidden states of the warmed-up model, as the pipeline's own control takes them."""
    model = load_adapter(load_base(study.settings.model), study.checkpoints[-1])
    pad_id = load_tokenizer(study.settings.model).pad_token_id
    return embedding_scores(model, study.pool, study.targets, pad_id, pooling=pooling)


def answer_length(study: Study) -> np.ndarray:
    """How many tokens the row trains on, the same for all targets."""
    lengths = np.array([row.trained_tokens for row in study.pool], dtype=np.float64)
    return np.repeat(lengths[:, None], len(study.targets), axis=1)


def same_source(study: Study) -> np.ndarray:
    """1 where row and target come from one source, plus noise far below to break ties."""
    pool, targets = ([example.source for example in part] for part in (study.pool_examples, study.target_examples))
    return np.array([[float(row == target) for target in targets] for row in pool]) + 1e-6 * at_random(study)


def at_random(study: Study) -> np.ndarray:
    rng = np.random.default_rng([study.settings.seed, 9])
    return rng.standard_normal((len(study.pool), len(study.targets)))


LESS, TORCH, SGD, EKFAC = Variant("less"), Variant("torch"), Variant("sgd"), Variant("ekfac")
CONTROL = "BM25"
_settings = InfluenceSettings()
# a rule's bare name is its exact cosine
DEFAULT = _settings.preconditioner if _settings.score == "cosine" else f"{_settings.preconditioner}, dot"
SCORERS: dict[str, Scorer] = {
    "less": partial(exact, variant=LESS),
    "less, dot": partial(exact, variant=LESS, product="dot"),
    "torch": partial(exact, variant=TORCH),
    "torch, dot": partial(exact, variant=TORCH, product="dot"),
    "sgd": partial(exact, variant=SGD),
    "sgd, dot": partial(exact, variant=SGD, product="dot"),
    "sgd, dot, first checkpoint": partial(one_checkpoint, variant=SGD, number=0, product="dot"),
    "sgd, dot, last checkpoint": partial(one_checkpoint, variant=SGD, number=-1, product="dot"),
    "sgd, dot, top half": partial(exact, variant=Variant("sgd", layers="top_half"), product="dot"),
    "sgd, dot, sketch 2048": partial(sketch, variant=SGD, dimension=2048, product="dot"),
    "sgd, dot, sketch 8192": partial(sketch, variant=SGD, dimension=8192, product="dot"),
    "ekfac": partial(exact, variant=EKFAC),
    "ekfac, dot": partial(exact, variant=EKFAC, product="dot"),
    "ekfac, own labels": partial(exact, variant=Variant("ekfac", labels="own")),
    "ekfac, damping 0.01": partial(exact, variant=Variant("ekfac", damping=0.01)),
    "ekfac, damping 1": partial(exact, variant=Variant("ekfac", damping=1.0)),
    "ekfac, dot, damping 1": partial(exact, variant=Variant("ekfac", damping=1.0), product="dot"),
    "less, first checkpoint": partial(one_checkpoint, variant=LESS, number=0),
    "less, last checkpoint": partial(one_checkpoint, variant=LESS, number=-1),
    "sgd, last checkpoint": partial(one_checkpoint, variant=SGD, number=-1),
    "ekfac, first checkpoint": partial(one_checkpoint, variant=EKFAC, number=0),
    "ekfac, last checkpoint": partial(one_checkpoint, variant=EKFAC, number=-1),
    "less, top half": partial(exact, variant=Variant("less", layers="top_half")),
    "ekfac, top half": partial(exact, variant=Variant("ekfac", layers="top_half")),
    "less, sketch 512": partial(sketch, variant=LESS, dimension=512),
    "less, sketch 2048": partial(sketch, variant=LESS, dimension=2048),
    "less, sketch 8192": partial(sketch, variant=LESS, dimension=8192),
    CONTROL: bm25,
    "embedding, last token": partial(embeddings, pooling="last"),
    "embedding, mean": partial(embeddings, pooling="mean"),
    "same source": same_source,
    "answer length": answer_length,
    "random": at_random,
}
