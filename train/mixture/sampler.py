"""The sampler: which rows each optimizer step draws, exact to less than one example per domain and step.

Counts come from rounding B * p (categorical draws would scatter by sqrt(B p (1 - p))) and rows from one
permutation per domain and epoch, so every row of a domain is seen once before any is seen twice. A plan depends only on
seed, settings and step, never on the number of ranks. Cost: 8 bytes per row for its permutation, well under a
millisecond per step; loading a state replays the counts of the steps before it (about 0.1 ms each).
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from train.mixture.domains import domain_codes, domain_measures, static_vector
from train.mixture.generators import keyed_generator
from train.mixture.probabilities import MixtureError, scalarization_weights
from train.mixture.rounding import ROUNDINGS, carry_counts, systematic_counts
from train.mixture.schedules import ConstantSchedule, Schedule
from train.mixture.segments import Segment, cap_segments, schedule_taus, segment_epochs, segment_probabilities

FORMAT = 2
MODES = ("sampling", "scalarization", "none")


class MixtureSampler:
    """Draws the pool of every optimizer step without replacement inside a domain's epoch. Checkpointable.

    Source: spec "mixture", section 4. Domains are ordered by name, whatever the order of the rows; `names`, `sizes`,
    `probabilities(t)` and every (K,) counter follow that order. `codes` (N,) is the domain index of each row.

    domains: N row labels. pool_size: B examples per step over all ranks. total_steps: T planned optimizer steps.
    schedule: progress -> tau (unused in mode "none"). max_epochs: cap on the passes over any domain.
    mode: "sampling" draws with p(.; tau_t); "scalarization" draws proportionally and weights the loss by
    `domain_weights(t)`; "none" is tau 1 without weights.
    static: domain name -> probability, replaces the schedule (DoReMi, DoGE, UniMax results).
    rounding: "systematic", unbiased in every pool, or "carry", within about one example over the whole run.
    row_sizes: (N,) what a row adds to its domain's size in the temperature, such as its tokens (default: 1 each);
    epochs always count rows.
    """

    def __init__(
        self,
        domains: Sequence[str],
        pool_size: int,
        total_steps: int,
        schedule: Schedule | None,
        seed: int,
        max_epochs: float | None = None,
        mode: str = "sampling",
        static: Mapping[str, float] | None = None,
        rounding: str = "systematic",
        row_sizes: ArrayLike | None = None,
    ) -> None:
        for name, value, known in (("mode", mode, MODES), ("rounding", rounding, ROUNDINGS)):
            if value not in known:
                raise MixtureError(f"{name} {value!r} is unknown; choose one of {', '.join(known)}")
        if pool_size < 1:
            raise MixtureError(f"pool_size is {pool_size}; it must be at least 1")
        if static is not None and mode != "sampling":
            raise MixtureError(f"static probabilities need mode sampling, not {mode}")
        if mode == "none":
            schedule = ConstantSchedule(1.0)
        if (schedule is None) == (static is None):
            raise MixtureError("give either a schedule or static probabilities, not both and not neither")
        self.names, self.codes = domain_codes(domains)
        self.rows = [np.flatnonzero(self.codes == k) for k in range(len(self.names))]
        self.sizes = np.array([rows.size for rows in self.rows], dtype=np.int64)
        self.measures = self.sizes.astype(np.float64) if row_sizes is None else domain_measures(row_sizes, self.codes)
        self.pool_size, self.total_steps, self.seed, self.mode = int(pool_size), int(total_steps), int(seed), mode
        if schedule is not None:
            self._taus = schedule_taus(schedule, total_steps)
            drawn_at = self._taus if mode == "sampling" else np.ones(self.total_steps)
            self.segments = segment_probabilities(self.sizes, drawn_at, self.pool_size, max_epochs, self.measures)
        elif static is not None:
            self._taus = schedule_taus(lambda progress: float("nan"), total_steps)
            whole_run = Segment(0, self.total_steps, float("nan"), static_vector(static, self.names))
            self.segments = cap_segments(self.sizes.astype(np.float64), [whole_run], self.pool_size, max_epochs)
        self._segment_of = np.repeat(np.arange(len(self.segments)), [s.stop - s.start for s in self.segments])
        self._carried = None
        if rounding == "carry":
            stretches = [(s.probabilities, s.stop - s.start) for s in self.segments]
            self._carried = carry_counts(stretches, self.pool_size)
        self._settings = {
            "seed": self.seed,
            "pool_size": self.pool_size,
            "total_steps": self.total_steps,
            "mode": mode,
            "schedule": repr(schedule),
            "static": None if static is None else {name: float(static[name]) for name in self.names},
            "max_epochs": None if max_epochs is None else float(max_epochs),
            "rounding": rounding,
            "measures": None if row_sizes is None else self.measures.tolist(),
        }
        self._permutations: dict[int, tuple[int, NDArray[np.int64]]] = {}
        self._duplicates: dict[int, int] = {}
        self._restart(0, np.zeros(len(self.names), dtype=np.int64), 0)

    def _restart(self, t: int, drawn: NDArray[np.int64], duplicates: int) -> None:
        self.next_step = t
        self.drawn = drawn.copy()
        self._origin = (t, drawn.copy(), duplicates)
        self._permutations.clear()
        self._duplicates.clear()

    # What the run will do and has done

    def tau(self, t: int) -> float:
        """Temperature of step t (NaN with static probabilities)."""
        return float(self._taus[self._checked_step(t)])

    def probabilities(self, t: int) -> NDArray[np.float64]:
        """Probabilities (K,) that step t draws with, after the epoch cap."""
        return self.segments[self._segment_of[self._checked_step(t)]].probabilities

    def domain_weights(self, t: int) -> NDArray[np.float64]:
        """Loss weight (K,) per domain at step t: all 1 unless the mode is scalarization."""
        if self.mode == "scalarization":
            return scalarization_weights(self.measures, self.tau(t))
        return np.ones(len(self.names))

    def expected_epochs(self) -> NDArray[np.float64]:
        """Passes (K,) over each domain that the whole run will make."""
        return segment_epochs(self.sizes, self.segments, self.pool_size)

    @property
    def epoch(self) -> NDArray[np.int64]:
        """Index (K,) of the pass each domain is in; a pass begins with its first row."""
        return np.maximum(self.drawn - 1, 0) // self.sizes

    @property
    def wraps(self) -> NDArray[np.int64]:
        """How often (K,) each domain has started over."""
        return self.epoch

    @property
    def duplicates_in_pool(self) -> int:
        """Rows drawn a second time inside one pool, summed over the steps so far."""
        return self._origin[2] + sum(self._duplicates.values())

    # Drawing

    def counts(self, t: int) -> NDArray[np.int64]:
        """Examples (K,) of each domain in the pool of step t; depends on t and the settings only."""
        if self._carried is not None:
            return self._carried[self._checked_step(t)].copy()
        u = keyed_generator(self.seed, "counts", t).random()
        return systematic_counts(self.probabilities(t), self.pool_size, u)

    def plan(self, t: int) -> NDArray[np.int64]:
        """Row positions (B,) int64 of step t, the same on every rank. Must be called for t = 0, 1, 2, ... in turn."""
        if t != self.next_step:
            raise MixtureError(f"step {t} was asked for, but the sampler is at step {self.next_step}; load its state")
        counts = self.counts(t)
        pool = np.concatenate([self._take(k, int(n)) for k, n in enumerate(counts)])
        repeated = pool.size - np.unique(pool).size
        if repeated:
            if not self.duplicates_in_pool:
                warnings.warn(f"step {t} draws {repeated} rows twice in one pool: a domain is small", stacklevel=2)
            self._duplicates[t] = repeated
        self.drawn += counts
        self.next_step += 1
        return keyed_generator(self.seed, "order", t).permutation(pool)

    def _take(self, k: int, n: int) -> NDArray[np.int64]:
        """The next n rows of domain k; the caller advances `drawn`."""
        parts, at, size = [], int(self.drawn[k]), int(self.sizes[k])
        while n:
            epoch, cursor = divmod(at, size)
            part = self._permutation(k, epoch)[cursor : cursor + n]
            parts.append(part)
            at, n = at + part.size, n - part.size
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def _permutation(self, k: int, epoch: int) -> NDArray[np.int64]:
        held = self._permutations.get(k)
        if held is None or held[0] != epoch:
            rows = keyed_generator(self.seed, "perm", self.names[k], epoch).permutation(self.rows[k])
            held = self._permutations[k] = (epoch, rows)
        return held[1]

    def _checked_step(self, t: int) -> int:
        if not 0 <= t < self.total_steps:
            raise MixtureError(f"step {t} is outside the planned {self.total_steps} steps")
        return int(t)

    # Resume

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """State after `consumed` steps (default: all planned so far), as plain JSON values.

        A loader that prefetches must pass the number of steps *trained*, or the resumed run would skip the rest.
        """
        first, base, duplicates = self._origin
        t = self.next_step if consumed is None else int(consumed)
        if not first <= t <= self.next_step:
            raise MixtureError(f"consumed is {t}; it must lie between {first} and the {self.next_step} steps planned")
        drawn = self.drawn if t == self.next_step else self._drawn_after(first, base, t)
        epoch = np.maximum(drawn - 1, 0) // self.sizes
        return {
            "format": FORMAT,
            "numpy": np.__version__,
            "t": t,
            "settings": dict(self._settings),
            "rows_digest": self._rows_digest(),
            "origin": {"t": first, "drawn": base.tolist()},
            "duplicates_in_pool": duplicates + sum(n for step, n in self._duplicates.items() if step < t),
            "domains": [
                {
                    "name": name,
                    "size": int(self.sizes[k]),
                    "epoch": int(epoch[k]),
                    "cursor": int(drawn[k] - epoch[k] * self.sizes[k]),
                    "wraps": int(epoch[k]),
                    "drawn": int(drawn[k]),
                }
                for k, name in enumerate(self.names)
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any], allow_changed_data: bool = False) -> None:
        """Continue from `state`. MixtureError names every setting or domain that differs.

        With `allow_changed_data`, domains may appear, vanish or change size (and total_steps with them): unchanged
        domains keep their cursor, the others start at their first row.
        """
        if state.get("format") != FORMAT:
            raise MixtureError(f"sampler state has format {state.get('format')!r}; this version reads {FORMAT}")
        free = {"total_steps", "measures"} if allow_changed_data else set()
        saved = state["settings"]
        changed = [k for k, v in self._settings.items() if k not in free and saved.get(k) != v]
        if changed:
            what = "; ".join(f"{k}: state {saved.get(k)!r}, now {self._settings[k]!r}" for k in changed)
            raise MixtureError(f"sampler state was made with other settings ({what}); restore them or start afresh")
        t = int(state["t"])
        if not 0 <= t <= self.total_steps:
            raise MixtureError(f"sampler state is at step {t}, outside the planned {self.total_steps} steps")
        if state["numpy"] != np.__version__:
            warnings.warn(f"state from numpy {state['numpy']}, now {np.__version__}: draws may differ", stacklevel=2)
        before = {d["name"]: d for d in state["domains"]}
        after = dict(zip(self.names, self.sizes.tolist(), strict=True))
        differing = [n for n in sorted({*before, *after}) if n not in after or _size(before, n) != after[n]]
        same_rows = not differing and state["rows_digest"] == self._rows_digest()
        if not same_rows and not allow_changed_data:
            raise MixtureError(
                f"the data changed since the sampler state was saved "
                f"(domains: {differing or 'same sizes, other rows'}); restore it or set allow_changed_data"
            )
        drawn = np.array([before[n]["drawn"] if _size(before, n) == after[n] else 0 for n in self.names], np.int64)
        duplicates = int(state["duplicates_in_pool"])
        if not same_rows or saved["total_steps"] != self.total_steps:
            self._restart(t, drawn, duplicates)  # counts are replayed from here on
            return
        first, base = int(state["origin"]["t"]), np.array(state["origin"]["drawn"], dtype=np.int64)
        epoch = np.maximum(drawn - 1, 0) // self.sizes
        stored = [(d["epoch"], d["cursor"], d["wraps"]) for d in (before[n] for n in self.names)]
        cursors = [
            (e, d - e * s, e) for e, d, s in zip(epoch.tolist(), drawn.tolist(), self.sizes.tolist(), strict=True)
        ]
        if stored != cursors or not np.array_equal(self._drawn_after(first, base, t), drawn):
            raise MixtureError(f"sampler state is damaged: its cursors do not follow from steps {first} to {t}")
        self._restart(t, drawn, duplicates)
        self._origin = (first, base, duplicates)

    def _drawn_after(self, first: int, base: NDArray[np.int64], t: int) -> NDArray[np.int64]:
        return base + sum((self.counts(step) for step in range(first, t)), np.zeros_like(base))

    def _rows_digest(self) -> str:
        return hashlib.sha256(self.codes.tobytes()).hexdigest()


def _size(domains: Mapping[str, Any], name: str) -> int | None:
    return domains[name]["size"] if name in domains else None
