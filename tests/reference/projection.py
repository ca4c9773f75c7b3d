"""Oracle of curate.influence.projection: the hash in Python's own integers, S written out entry by entry."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np

MASK = (1 << 64) - 1


def stream(seed: int, *names: str) -> int:
    return int(hashlib.sha256(json.dumps([seed, *names]).encode()).hexdigest(), 16)


def word(stream: int, index: int) -> int:
    """Word `index` of splitmix64 started at `stream`, unsigned."""
    z = (stream + (index + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def as_signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def sketch_matrix(seed: int, name: str, size: int, d: int) -> np.ndarray:
    """S_name (d, size) float64 with one +-1 in every column."""
    S = np.zeros((d, size))
    words = [word(stream(seed, "sketch", name), i) for i in range(size)]
    window = stream(seed, "sketch window", name) % d
    for start in range(0, size, d):
        run = range(start, min(start + d, size))
        shift = window if len(run) < d else 0
        for place, i in enumerate(sorted(run, key=lambda i: as_signed(words[i]))):
            S[(place + shift) % d, i] = -1 if words[i] & 1 else 1
    return S


def rademacher_matrix(seed: int, name: str, size: int, d: int) -> np.ndarray:
    """S_name (d, size) float64 of +-1/sqrt(d)."""
    per_coordinate = math.ceil(d / 64)
    S = np.zeros((d, size))
    for i in range(size):
        for r in range(d):
            bits = word(stream(seed, "rademacher", name), i * per_coordinate + r // 64)
            S[r, i] = (1 if bits >> (r % 64) & 1 else -1) / math.sqrt(d)
    return S


MATRICES = {"sketch": sketch_matrix, "rademacher": rademacher_matrix}
