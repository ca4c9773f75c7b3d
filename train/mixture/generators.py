"""Private random generators, each named by (seed, label, integers or names).

A draw that depends only on its name can be made again on any rank, in any order and after any interruption, so no
generator state has to be saved and the global generators are never touched. The key is hashed before numpy's
SeedSequence sees it, so that two keys never run together. Cost: tens of microseconds each. Limit: numpy may change a
distribution's stream between versions; the sampler's state records the version.
"""

import hashlib
import json

import numpy as np


def keyed_generator(seed: int, label: str, *key: int | str) -> np.random.Generator:
    """Philox generator for this name; equal arguments give equal streams."""
    words = [int(seed), label, *(k if isinstance(k, str) else int(k) for k in key)]
    digest = hashlib.sha256(json.dumps(words).encode()).digest()
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(int.from_bytes(digest, "big"))))
