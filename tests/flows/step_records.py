"""A step log as the trainer writes it, for the tests of report and artifacts."""

from __future__ import annotations

from typing import Any

import numpy as np

from train.step_log import TrainedStep


def step_records(count: int, source: str = "forum", *, coreset: bool = False, **changes: Any) -> list[dict[str, Any]]:
    """`count` steps over two domains, hot in the first half; reweighted after the first step."""
    records = []
    for step in range(count):
        parts: dict[str, Any] = {
            "step": step,
            "temperature": 5.0 if step < count // 2 else 1.0,
            "probabilities": np.array([0.6, 0.4]),
            "epochs": np.array([0.1, 1.5]) * (step + 1),
            "names": (source, "maths & more"),
            "pool_domains": np.array([0, 0, 0, 1, 1, 0, 0, 0]),
            "domains": np.array([0, 0, 1, 1]),
            "tokens": np.array([10, 12, 5, 9]),
            "weights": np.ones(4) if step == 0 else np.array([0.5, 0.9, 1.3, 1.3]),
            "losses": np.array([2.0, 2.2, 3.0, 3.4]) - 0.05 * step,
            "weighted_loss": 2.5,
            "kept": np.array([False, False, True, True]) if coreset else None,
            "ids": ["r1", "r2", "r3", "r4"],
            "skipped": False,
            "unranked": [],
        }
        records.append(TrainedStep(**(parts | changes)).record())
    return records
