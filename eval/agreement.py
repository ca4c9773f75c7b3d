"""Whether two engines compute the same model: the same choices, log-likelihoods apart by no more than rounding.

vLLM's kernels sum in another order than transformers', and in bfloat16 each logit keeps 8 bits, so equal numbers cannot
be asked. What can: no difference per token beyond what the type rounds away, and no other choice but between answers
that lie within that distance of each other. Everything else is a disagreement and listed. Cost: none to speak of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eval.errors import EvaluationError
from eval.request import EvaluationResponse, ItemResult

# nats per token that may lie between two engines. bfloat16: logits of size 10 are off by up to 0.04, and both engines
# round; float32: 2**-24 of the same logits, over a few hundred sums
TOLERANCE = {"bfloat16": 0.1, "float16": 0.02, "float32": 1e-3}


@dataclass(frozen=True)
class Disagreement:
    """An item that the engines answer differently. margin: nats between the two choices, the larger of both engines',
    None of a written answer; rounding: whether that is within what rounding allows."""

    task: str
    item_id: str
    first: str
    second: str
    margin: float | None
    rounding: bool


@dataclass(frozen=True)
class Agreement:
    """Two engines on the same items. largest: largest difference of two log-likelihoods, nats per token, None where
    nothing was scored that way."""

    items: int
    same: int
    largest: float | None
    mean: float | None
    tolerance: float
    disagreements: tuple[Disagreement, ...]

    @property
    def within_rounding(self) -> bool:
        """No log-likelihood further apart than rounding, and no other choice that rounding does not explain. Written
        answers are not judged: one token that rounding turned changes all that follow."""
        close = self.largest is None or self.largest <= self.tolerance
        return close and all(d.rounding for d in self.disagreements if d.margin is not None)


def agreement(
    first: EvaluationResponse, second: EvaluationResponse, tokens: Mapping[tuple[str, str], tuple[int, ...]]
) -> Agreement:
    """Compare the answers of two engines to the same request. tokens: (task, item id) → tokens of each choice.

    The tolerance is that of the coarser type of the two. Raises `EvaluationError` when they answered other items.
    """
    theirs = {(i.model, i.task, i.item_id): i for i in second.items}
    ours = {(i.model, i.task, i.item_id): i for i in first.items}
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())[0]
        raise EvaluationError(f"the engines answered other items ({len(ours)} and {len(theirs)}; for one, {odd})")
    tolerance = max(TOLERANCE.get(r.engine.dtype, TOLERANCE["bfloat16"]) for r in (first, second))
    distances: list[float] = []
    found = []
    for key, item in ours.items():
        other = theirs[key]
        if item.log_likelihoods is None or other.log_likelihoods is None:
            if item.answer != other.answer:
                found.append(Disagreement(item.task, item.item_id, str(item.answer), str(other.answer), None, False))
            continue
        counts = np.array(tokens[item.task, item.item_id])
        apart = np.abs(np.subtract(item.log_likelihoods, other.log_likelihoods)) / counts
        distances += apart.tolist()
        if disagreement := _choice(item, other, tolerance * counts):
            found.append(disagreement)
    return Agreement(
        items=len(ours),
        same=len(ours) - len(found),
        largest=max(distances) if distances else None,
        mean=float(np.mean(distances)) if distances else None,
        tolerance=tolerance,
        disagreements=tuple(found),
    )


def _choice(item: ItemResult, other: ItemResult, allowed: np.ndarray) -> Disagreement | None:
    assert item.log_likelihoods is not None and other.log_likelihoods is not None
    a, b = int(np.argmax(item.log_likelihoods)), int(np.argmax(other.log_likelihoods))
    if a == b:
        return None
    margin = max(item.log_likelihoods[a] - item.log_likelihoods[b], other.log_likelihoods[b] - other.log_likelihoods[a])
    return Disagreement(
        item.task, item.item_id, f"choice {a}", f"choice {b}", margin, margin <= allowed[a] + allowed[b]
    )
