"""Which process trains which rows of a step: longest first onto the least loaded process.

A step ends when its slowest process does, so the split goes by tokens, not by turns: turns over a core that lists small
sources first would also train them on one process only. Pure arithmetic on lengths that every process knows; nothing is
sent. One process keeps the order it is given. Cost: O(n log n).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def share_by_tokens(tokens: Sequence[int], processes: int, *, equal_counts: bool = False) -> list[NDArray[np.int64]]:
    """Positions of each process's rows, ascending; every process gets at least one when there are enough.

    tokens: (n,) length of each row. Ties: the lower position, the lower process. equal_counts: no process gets more
    than ceil(n / processes) rows. Source: coreset spec, section 7, step 6.
    """
    count = len(tokens)
    most = -(-count // processes) if equal_counts else count
    load = [0] * processes
    mine: list[list[int]] = [[] for _ in range(processes)]
    for done, position in enumerate(np.argsort(-np.asarray(tokens), kind="stable").tolist()):
        empty = [p for p in range(processes) if not mine[p]]
        must_fill = empty if count - done <= len(empty) else range(processes)
        chosen = min((p for p in must_fill if len(mine[p]) < most), key=lambda p: (load[p], p))
        mine[chosen].append(position)
        load[chosen] += int(tokens[position])
    return [np.array(sorted(each), dtype=np.int64) for each in mine]
