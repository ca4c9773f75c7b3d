"""Small stores for the tests of this folder."""

from __future__ import annotations

import hashlib

import numpy as np

from curate.influence.features import FeatureIdentity, FeatureStore

WIDTH = 5


def identity(**changes) -> FeatureIdentity:
    fields = {
        "kind": "sketch",
        "width": WIDTH,
        "seed": 7,
        "dtype": "float32",
        "model": "m",
        "checkpoint": "c",
        "template": "t",
        "max_length": 128,
        "preconditioner": "less",
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "step": 10,
        "parameters": "p",
        "targets": None,
        "precision": "float32",
    }
    return FeatureIdentity(**(fields | changes))


def keys(*numbers: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in numbers]


def values(*numbers: int, width: int = WIDTH) -> np.ndarray:
    """Unit rows that depend on the row's number alone, as real features do."""
    rows = [np.random.default_rng(number).standard_normal(width) for number in numbers]
    return np.array([row / np.linalg.norm(row) for row in rows], dtype=np.float32).reshape(len(numbers), width)


def write(store: FeatureStore, *numbers: int) -> None:
    norms = np.array(numbers, dtype=np.float32) + 0.5
    store.write(keys(*numbers), values(*numbers, width=store.identity.width), norms, np.array(numbers), {})
