"""What each optimizer step did: one JSON line a step, and its averages for the Trainer's log and TensorBoard.

Judge a mixture by what was trained, not by what was drawn: a coreset that keeps small sources up-samples them, and
weights move mass between domains. So a line has all three, with losses, counts and what was left out by name. The file
is cut back to the checkpoint on resume, so that it tells each step once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.reweighting import effective_sample_size

SHARES = ("pool", "selected", "trained_tokens", "weight_mass")


@dataclass(frozen=True)
class TrainedStep:
    """One step's arrays. names: (K,) domains; pool_domains: (B,); domains, tokens, weights, losses: (b,) of the core;
    kept: (b,) bool, with coreset; ids: (b,); unranked: candidates the coreset could not rank."""

    step: int
    temperature: float
    probabilities: NDArray[np.float64]
    epochs: NDArray[np.float64]
    names: Sequence[str]
    pool_domains: NDArray[np.int64]
    domains: NDArray[np.int64]
    tokens: NDArray[np.int64]
    weights: NDArray[np.float64]
    losses: NDArray[np.float64]
    weighted_loss: float
    kept: NDArray[np.bool_] | None
    ids: Sequence[str]
    skipped: bool
    unranked: Sequence[str]

    def record(self) -> dict[str, Any]:
        """The line of the log."""
        finite = np.isfinite(self.losses)
        mass = self.weights / (self.weights.sum() or 1.0)
        line: dict[str, Any] = {
            "step": self.step,
            "temperature": self.temperature if np.isfinite(self.temperature) else None,
            "probabilities": self._named(self.probabilities),
            "pool": self._counts(self.pool_domains),
            "selected": self._counts(self.domains),
            "trained_tokens": self._sums(self.tokens),
            "epochs": self._named(self.epochs),
            "weight_mass": self._sums(mass),
            "effective_sample_size": effective_sample_size(self.weights),
            "weights": [float(self.weights.min()), float(self.weights.max())],
            "loss": {
                self.names[k]: float(self.losses[finite & (self.domains == k)].mean())
                for k in np.unique(self.domains[finite])
            },
            "weighted_loss": self.weighted_loss if np.isfinite(self.weighted_loss) else None,
            "skipped": self.skipped,
            "excluded": [self.ids[i] for i in np.flatnonzero(~finite)],
        }
        if self.kept is not None:
            line["kept"] = self._counts(self.domains[self.kept])
            line["quotas"] = self._counts(self.domains[~self.kept])
            line["unranked"] = list(self.unranked)
        return line

    def _named(self, values: NDArray[np.float64]) -> dict[str, float]:
        return {name: float(value) for name, value in zip(self.names, values, strict=True)}

    def _counts(self, domains: NDArray[np.int64]) -> dict[str, int]:
        return {self.names[k]: int(n) for k, n in enumerate(np.bincount(domains, minlength=1)) if n}

    def _sums(self, values: NDArray[Any]) -> dict[str, Any]:
        sums = np.bincount(self.domains, weights=values, minlength=1)
        whole = values.dtype.kind == "i"
        return {self.names[k]: int(sums[k]) if whole else float(sums[k]) for k in np.unique(self.domains)}


class StepLog:
    """The file, and the window of steps since the Trainer last logged. path: None on all but the main process."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._window: list[dict[str, Any]] = []

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size if self.path and self.path.exists() else 0

    def restart(self, size: int) -> None:
        """Cut the file back to its first `size` bytes, as it was at a checkpoint; 0 begins it afresh."""
        self._window.clear()
        if self.path is None:
            return
        if self.bytes < size:
            raise ValueError(
                f"{self.path} has {self.bytes} bytes, {size} when the checkpoint was saved: it was changed; remove the "
                "checkpoints to start afresh"
            )
        with self.path.open("ab") as log:
            log.truncate(size)

    def add(self, step: TrainedStep) -> None:
        record = step.record()
        self._window.append(record)
        if self.path is not None:
            with self.path.open("a") as log:
                log.write(json.dumps(record, sort_keys=True) + "\n")

    def drain(self) -> dict[str, float]:
        """Averages over the window, flat, as loggers take them; empties it."""
        window, self._window = self._window, []
        return summary(window) if window else {}


def totals(records: Sequence[Mapping[str, Any]], key: str) -> Counter[str]:
    """A key's values per domain, over these steps."""
    total: Counter[str] = Counter()
    for record in records:
        total.update(record[key])
    return total


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`mixture/temperature`, `share_pool/DOMAIN`, `loss/DOMAIN`, ... over some steps; sums where a count is meant."""
    last = records[-1]
    flat: dict[str, float] = {}
    if last["temperature"] is not None:
        flat["mixture/temperature"] = last["temperature"]
    for kind in SHARES:
        total = totals(records, kind)
        whole = sum(total.values()) or 1
        flat |= {f"share_{kind}/{name}": value / whole for name, value in sorted(total.items())}
    flat |= {f"epochs/{name}": value for name, value in last["epochs"].items()}
    for name in sorted({name for record in records for name in record["loss"]}):
        flat[f"loss/{name}"] = float(np.mean([r["loss"][name] for r in records if name in r["loss"]]))
    weighted = [r["weighted_loss"] for r in records if r["weighted_loss"] is not None]
    if weighted:
        flat["weighted_loss"] = float(np.mean(weighted))
    flat["weights/effective_sample_size"] = float(np.mean([r["effective_sample_size"] for r in records]))
    flat["weights/min"] = min(r["weights"][0] for r in records)
    flat["weights/max"] = max(r["weights"][1] for r in records)
    for kind in ("kept", "quotas"):
        if kind in last:
            flat[f"coreset/{kind}"] = float(np.mean([sum(r[kind].values()) for r in records]))
    flat["steps_skipped"] = sum(r["skipped"] for r in records)
    flat["rows_excluded"] = sum(len(r["excluded"]) for r in records)
    return flat
