"""The selector: from the pool of one optimizer step to the core that is trained.

Two calls, so that features are computed only where they can matter: `plan` settles kept examples and quotas from source
labels alone, `select` ranks the remaining candidates inside each source. feature "random" makes the same plan and picks
at random, the control that shows what the ranking adds. Cost: milliseconds for pools of a few hundred; with the
"last_layer" feature the moments hold two float64 per coordinate. Limit: rows without a usable feature shrink the core
when nothing is left to replace them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from train.coreset.composition import (
    QUOTA_METHODS,
    CoresetError,
    floor_share,
    kept_count,
    kept_order,
    quotas,
    small_sources,
)
from train.coreset.facility import facility_location
from train.coreset.moments import adam_normalised, masked, updated_history
from train.mixture.generators import keyed_generator

FORMAT = 2
FEATURES = ("spsa", "last_layer", "random")
DEFAULT_MASK_SIZE = 2560  # of 327,680 coordinates in the paper


@dataclass(frozen=True)
class Plan:
    """What a step needs before any feature is computed. Positions index the pool.

    kept: (K,) ascending, always trained. candidates: (N,) ordered by (class, row), the examples of big sources with a
    quota; compute features for these, in this order, when needs_features. classes: (B,) what is compared with each
    other: the source, or 0 for all with quota method "none". quotas: (c,) picks per class. small_order: all
    small-source examples, the kept ones first. core_size: b.
    """

    step: int
    kept: NDArray[np.int64]
    candidates: NDArray[np.int64]
    quotas: NDArray[np.int64]
    needs_features: bool
    core_size: int
    small_order: NDArray[np.int64]
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class Core:
    """The examples to train. positions: (b,) ascending pool positions, so that kept ones are spread over the ranks.

    kept: (b,) bool, from a small source. cluster_sizes: (b,) int64, 1 for kept and random picks. quotas: (c,) picks per
    class. excluded: pool positions of candidates whose feature was not finite or all zero.
    """

    positions: NDArray[np.int64]
    kept: NDArray[np.bool_]
    cluster_sizes: NDArray[np.int64]
    quotas: NDArray[np.int64]
    excluded: NDArray[np.int64]


class CoresetSelector:
    """Selects floor(ratio * B) of every pool. Source: arXiv 2407.19580; spec "coreset", sections 3 to 6.

    ratio: core share of the pool. kappa: largest share of the core that small sources may fill. feature: "spsa" (m
    directional derivatives per example), "last_layer" (exact gradient values, masked per source) or "random".
    mask_size: coordinates kept per source, last_layer only. metric, quota_method: as in `facility_location`, `quotas`,
    or "none": medoids of all big sources together. small: source indices that are always kept, instead of the rule.
    """

    def __init__(
        self,
        ratio: float = 0.5,
        kappa: float = 0.75,
        feature: str = "spsa",
        mask_size: int = DEFAULT_MASK_SIZE,
        seed: int = 0,
        metric: str = "l1",
        quota_method: str = "proportional",
        small: Sequence[int] | None = None,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
    ) -> None:
        if not 0 < ratio <= 1 or not 0 <= kappa <= 1:
            raise CoresetError(f"ratio {ratio} must lie in (0, 1] and kappa {kappa} in [0, 1]")
        if feature not in FEATURES:
            raise CoresetError(f"feature {feature!r} is unknown; choose one of {', '.join(FEATURES)}")
        if mask_size < 1:
            raise CoresetError(f"mask_size is {mask_size}; it must be at least 1")
        if metric not in ("l1", "cosine"):
            raise CoresetError(f"metric {metric!r} is unknown; choose l1 or cosine")
        if quota_method not in (*QUOTA_METHODS, "none"):
            raise CoresetError(f"quota method {quota_method!r} is unknown; choose {', '.join(QUOTA_METHODS)} or none")
        self._settings: dict[str, Any] = {
            "ratio": float(ratio), "kappa": float(kappa), "feature": feature, "mask_size": int(mask_size),
            "seed": int(seed), "metric": metric, "quota_method": quota_method,
            "small": None if small is None else sorted(int(source) for source in small),
            "beta1": float(beta1), "beta2": float(beta2), "eps": float(eps),
        }  # fmt: skip
        self.updates = 0
        self.m_hist: NDArray[np.float64] | None = None
        self.v_hist: NDArray[np.float64] | None = None
        self._shape: tuple[int, int] | None = None  # pool size and number of sources, fixed by the first plan

    @property
    def feature(self) -> str:
        """Kind of feature this selector ranks by."""
        return self._settings["feature"]

    def plan(self, step: int, sources: ArrayLike, probabilities: ArrayLike, rows: ArrayLike | None = None) -> Plan:
        """Settle kept examples, candidates and quotas of one step; changes nothing in the history.

        sources: (B,) source index of each pool example. probabilities: (c,) current sampling distribution, which
        decides which sources are small. rows: (B,) dataset index; with it pool order does not change the choice.
        """
        s = np.asarray(sources, dtype=np.int64)
        q = np.asarray(probabilities, dtype=np.float64)
        r = np.arange(s.size) if rows is None else np.asarray(rows, dtype=np.int64)
        if s.ndim != 1 or r.shape != s.shape or s.size == 0 or s.min() < 0 or s.max() >= q.size:
            raise CoresetError(f"sources {s.shape} and rows {r.shape} must match and name one of {q.size} sources each")
        if self._shape not in (None, (s.size, q.size)):
            raise CoresetError(
                f"pool size and source count were {self._shape}, now {(s.size, q.size)}; keep both fixed"
            )
        core_size = floor_share(self._settings["ratio"], s.size)
        if core_size < 1:
            raise CoresetError(f"ratio {self._settings['ratio']} of a pool of {s.size} is no example; raise either")
        self._shape = (s.size, q.size)
        small = small_sources(q)
        if self._settings["small"] is not None:
            small = np.isin(np.arange(q.size), self._settings["small"])
        order = kept_order(s, small, r, keyed_generator(self._settings["seed"], "keep", step))
        kept = kept_count(order.size, s.size, core_size, self._settings["kappa"])
        classes = np.zeros_like(s) if self._settings["quota_method"] == "none" else s
        big = ~small[s]
        shares = self._quotas(step, np.bincount(classes[big], minlength=q.size), core_size - kept)
        candidates = np.flatnonzero(big & (shares[classes] > 0))
        candidates = candidates[np.lexsort((r[candidates], classes[candidates]))]
        needs = self.feature != "random" and candidates.size > 0
        return Plan(step, np.sort(order[:kept]), candidates, shares, needs, core_size, order, classes)

    def _quotas(self, step: int, sizes: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
        """Picks per class, (c,)."""
        method = self._settings["quota_method"]
        generator = keyed_generator(self._settings["seed"], "quotas", step) if method == "balanced" else None
        return quotas(sizes, budget, "proportional" if method == "none" else method, generator)

    def select(self, plan: Plan, features: ArrayLike | None = None) -> Core:
        """Pick the core and update the history. features: (N, p) or (N,), rows as plan.candidates; None for "random".

        Candidates with a non-finite or all-zero feature are excluded and quotas recomputed over the rest; where too few
        remain, small-source examples that the cap had dropped return.
        """
        values, usable = self._checked_features(plan, features)
        candidates, shares, kept = plan.candidates[usable], plan.quotas, plan.kept
        if not usable.all():
            kept = np.sort(plan.small_order[: max(plan.kept.size, plan.core_size - candidates.size)])
            sizes = np.bincount(plan.classes[candidates], minlength=plan.quotas.size)
            shares = self._quotas(plan.step, sizes, max(plan.core_size - kept.size, 0))
        picks, clusters = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        used = np.flatnonzero(usable)
        for each in np.flatnonzero(shares):
            inside = np.flatnonzero(plan.classes[candidates] == each)
            chosen, cluster = self._pick(plan.step, int(each), int(shares[each]), values, used[inside])
            picks.append(inside[chosen])
            clusters.append(cluster)
        picked = np.concatenate(picks)
        if values is not None and picked.size:
            self._update_history(values[used[picked]])
        positions = np.concatenate([kept, candidates[picked]])
        order = np.argsort(positions)
        is_kept = np.arange(positions.size) < kept.size
        cluster_sizes = np.concatenate([np.ones(kept.size, dtype=np.int64), *clusters])
        excluded = np.sort(plan.candidates[~usable])
        return Core(positions[order], is_kept[order], cluster_sizes[order], shares, excluded)

    def _pick(
        self, step: int, each: int, count: int, values: NDArray | None, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Picks (indices into `rows`) and cluster sizes of one class."""
        cfg = self._settings
        if values is None:
            chosen = keyed_generator(cfg["seed"], "random core", step, each).permutation(rows.size)[:count]
            return chosen, np.ones(count, dtype=np.int64)
        m, v = self._history(values.shape[1])
        u = adam_normalised(values[rows], m, v, self.updates + 1, cfg["beta1"], cfg["beta2"], cfg["eps"])
        u = masked(u, cfg["mask_size"] if self.feature == "last_layer" else None)
        chosen, _, sizes = facility_location(u, count, cfg["metric"])
        return chosen, sizes

    def _checked_features(self, plan: Plan, features: ArrayLike | None) -> tuple[NDArray | None, NDArray[np.bool_]]:
        """Feature rows (N, p) of the candidates, and which of them can be ranked."""
        everyone = np.ones(plan.candidates.size, dtype=bool)
        if not plan.needs_features:
            return None, everyone
        values = np.asarray(features if features is not None else [])
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or values.shape[0] != plan.candidates.size or values.shape[1] == 0:
            raise CoresetError(
                f"features has shape {values.shape}; give one row for each of {everyone.size} candidates"
            )
        if self.m_hist is not None and self.m_hist.size != values.shape[1]:
            raise CoresetError(f"features have {values.shape[1]} coordinates, the history {self.m_hist.size}")
        return values, np.isfinite(values).all(axis=1) & values.any(axis=1)

    def _history(self, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.m_hist is None or self.v_hist is None:
            return np.zeros(width), np.zeros(width)
        return self.m_hist, self.v_hist

    def _update_history(self, selected: NDArray) -> None:
        m, v = self._history(selected.shape[1])
        self.m_hist, self.v_hist = updated_history(selected, m, v, self._settings["beta1"], self._settings["beta2"])
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Settings, history and pool shape as plain JSON values; floats keep every bit."""
        return {
            "format": FORMAT,
            "settings": dict(self._settings),
            "shape": None if self._shape is None else list(self._shape),
            "updates": self.updates,
            "m_hist": None if self.m_hist is None else self.m_hist.tolist(),
            "v_hist": None if self.v_hist is None else self.v_hist.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`. CoresetError when it was made with other settings."""
        if state.get("format") != FORMAT:
            raise CoresetError(f"selector state has format {state.get('format')!r}; this version reads {FORMAT}")
        saved = state["settings"]
        changed = [k for k, v in self._settings.items() if saved.get(k) != v]
        if changed:
            what = "; ".join(f"{k}: state {saved.get(k)!r}, now {self._settings[k]!r}" for k in changed)
            raise CoresetError(f"selector state was made with other settings ({what}); restore them or start afresh")
        shape = state["shape"]
        self._shape = None if shape is None else (int(shape[0]), int(shape[1]))
        self.updates = int(state["updates"])
        self.m_hist = None if state["m_hist"] is None else np.array(state["m_hist"], dtype=np.float64)
        self.v_hist = None if state["v_hist"] is None else np.array(state["v_hist"], dtype=np.float64)
