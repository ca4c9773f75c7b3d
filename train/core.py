"""The examples of one optimizer step that are trained: the whole pool, or its coreset with features from the model.

Every process plans the same step from the same arrays; only the features of candidates are shared out and put together
again, so the core is the same everywhere without anything else being sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from train.coreset import CoresetError, CoresetSelector
from train.encoding import Encoded
from train.mixture import MixtureSampler
from train.selection_pass import SelectionPass, directions, last_layer_features, spsa_features
from train.settings import CoresetSettings
from train.sharing import share_by_tokens

# (this process's rows, their positions, how many there are in all) -> the rows of all processes
Together = Callable[[torch.Tensor, NDArray[np.int64], int], torch.Tensor]


@dataclass(frozen=True)
class StepCore:
    """rows: (b,) positions in the data set. kept: (b,) bool, None without a coreset. losses: (b,), NaN where unknown,
    or None when no selection pass ran. unranked: ids of candidates whose feature was not finite or zero."""

    rows: NDArray[np.int64]
    kept: NDArray[np.bool_] | None
    cluster_sizes: NDArray[np.int64]
    losses: NDArray[np.float64] | None
    unranked: list[str]


def whole_pool(pool: NDArray[np.int64]) -> StepCore:
    """Train everything that was drawn."""
    return StepCore(pool, None, np.ones(pool.size, dtype=np.int64), None, [])


class CoreChooser:
    """Chooses each step's core. process, processes: this process's number, and how many there are."""

    def __init__(
        self,
        settings: CoresetSettings,
        mixture: MixtureSampler,
        rows: Sequence[Encoded],
        selection: SelectionPass | None,
        seed: int,
        process: int,
        processes: int,
        together: Together,
    ) -> None:
        self.mixture, self.rows, self.selection = mixture, rows, selection
        self.process, self.processes, self.together = process, processes, together
        self.settings = settings
        self.selector = CoresetSelector(
            ratio=settings.ratio,
            kappa=settings.kappa,
            feature=settings.feature,
            mask_size=settings.mask_size,
            seed=seed,
            quota_method=settings.quotas,
            small=named_sources(settings.small_sources, mixture.names),
        )
        self.along: list[torch.Tensor] = []
        if selection is not None and settings.feature == "spsa":
            shape = tuple(selection.value_map.module.weight.shape)
            self.along = directions(shape, settings.directions, seed)

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must share beside the selector's own settings."""
        return {
            "feature": self.settings.feature,
            "directions": self.settings.directions,
            "epsilon": self.settings.epsilon,
            "tensor": self.selection.value_map.name if self.selection else None,
        }

    def choose(self, step: int, pool: NDArray[np.int64], *, with_losses: bool) -> StepCore:
        """The core of a pool (B,) of row positions. with_losses: also forward the kept rows, for their losses."""
        plan = self.selector.plan(step, self.mixture.codes[pool], self.mixture.probabilities(step), pool)
        features, losses = None, None
        if plan.needs_features:
            # the kept rows need no feature: they follow the candidates only where their losses are asked for
            wanted = np.concatenate([plan.candidates, plan.small_order]) if with_losses else plan.candidates
            every, measured = self._features([self.rows[pool[i]] for i in wanted])
            features = every[: plan.candidates.size].numpy()
            if with_losses:
                losses = np.full(pool.size, np.nan)
                losses[wanted] = measured.double().numpy()
        core = self.selector.select(plan, features)
        return StepCore(
            pool[core.positions],
            core.kept,
            core.cluster_sizes,
            None if losses is None else losses[core.positions],
            [self.rows[pool[i]].id for i in core.excluded],
        )

    def _features(self, rows: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, p) features and (n,) losses of all rows; each process computes its share."""
        assert self.selection is not None
        mine = share_by_tokens([len(row.input_ids) for row in rows], self.processes)[self.process]
        part = [rows[i] for i in mine]
        if self.settings.feature == "spsa":
            features, losses = spsa_features(self.selection, part, self.along, self.settings.epsilon)
        else:
            features, losses = last_layer_features(self.selection, part)
        everyone = self.together(torch.cat([features, losses[:, None]], dim=1), mine, len(rows))
        return everyone[:, :-1], everyone[:, -1]


def named_sources(names: Sequence[str] | None, known: Sequence[str]) -> list[int] | None:
    """Indices of `coreset.small_sources`. Raises `CoresetError` for one that has no rows."""
    if names is None:
        return None
    missing = sorted(set(names) - set(known))
    if missing:
        raise CoresetError(
            f"coreset.small_sources names {', '.join(missing)}, of which there are no rows; the sources are "
            f"{', '.join(known)}"
        )
    return [list(known).index(name) for name in names]
