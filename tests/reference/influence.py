"""Oracle of curate.influence: every pair of pool row and target on its own, float64, the formulas as printed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from curate.influence.checkpoints import Checkpoint
from tests.reference.per_example import gradient
from train.encoding import Encoded


def feature(g: float, m: float, v: float, step: int, rule: str, b1: float, b2: float, eps: float) -> float:
    """One coordinate of U (influence spec, section 4)."""
    if rule == "sgd":
        return g
    m_new = b1 * m + (1 - b1) * g
    v_new = b2 * v + (1 - b2) * g * g
    if rule == "less":
        return m_new / math.sqrt(v_new + eps)
    return (m_new / (1 - b1 ** (step + 1))) / (math.sqrt(v_new / (1 - b2 ** (step + 1))) + eps)


def _flat(parts: dict, names: list[str]) -> np.ndarray:
    return np.concatenate([parts[name].detach().double().numpy() for name in names])


def cosines(model: Any, checkpoint: Checkpoint, pool: list[Encoded], targets: list[Encoded], rule: str) -> np.ndarray:
    """(N, M) float64."""
    names = sorted(checkpoint.m)
    m, v = _flat(checkpoint.m, names), _flat(checkpoint.v, names)
    values = np.empty((len(pool), len(targets)))
    for j, target in enumerate(targets):
        wanted = _flat(gradient(model, target), names)
        for i, row in enumerate(pool):
            g = _flat(gradient(model, row), names)
            u = np.array(
                [
                    feature(*one, checkpoint.step, rule, *checkpoint.betas, checkpoint.eps)
                    for one in zip(g, m, v, strict=True)
                ]
            )
            values[i, j] = u @ wanted / math.sqrt((u @ u) * (wanted @ wanted))
    return values
