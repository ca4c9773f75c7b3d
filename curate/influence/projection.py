"""Gradients projected to d dimensions, parameter by parameter, inside the per-layer hooks: `out += u S^T`.

Two random S with E[S^T S] = I, both made of counter-based words (`counters`), so S depends on (seed, parameter name,
index) and on nothing else. Either way a cosine near zero is off by about 1/sqrt(d) (influence spec, section 7).

`sketch`: every coordinate goes to one bucket with one random sign (CountSketch: Charikar, Chen, Farach-Colton, 2002).
Here a run of up to d coordinates of a parameter gets *distinct* buckets instead of independent ones: the run is
shuffled, then laid over a cyclic window that starts at a random bucket. Each bucket is still uniform and the signs are
independent, so E[S^T S] = I; coordinates of different runs share a bucket with probability 1/d, those of one run never,
so the noise is slightly lower. No two coordinates of a run meet, so the sum needs no atomics and has the same bits on
every device. Cost: a gather and a signed addition, 0.6 to 1.2 ns a value on one CPU core, and 8 bytes of table a
coordinate. Without the shuffle it would be three times as fast, but heavy columns that recur in every layer then meet
or miss as a whole, and the noise depends on the seed three times as much.

`rademacher`: dense +-1/sqrt(d), as in the published method (LESS, arXiv 2402.04333). O(P d) an example, some 350 times
slower; for parity. S is made anew each time, in blocks of bounded memory: to keep its bits would save a seventh.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, Protocol

import torch

from curate.influence.counters import random_words, stream_number

ProjectionKind = Literal["sketch", "rademacher"]
_SLAB = 1 << 19  # coordinates gathered at once: few launches on a GPU, B * 2 MB of memory


class ProjectionError(ValueError):
    """A projection that does not exist, or a block that it cannot take."""


class Projection(Protocol):
    """A random linear map from all parameters together to d dimensions."""

    @property
    def kind(self) -> ProjectionKind: ...

    @property
    def dimension(self) -> int: ...

    @property
    def seed(self) -> int: ...

    def add(self, out: torch.Tensor, name: str, u: torch.Tensor) -> None:
        """out += u S^T in place. out: (B, d) float32; u: (B, size) float32, the flat blocks of parameter `name`, on
        the same device. Raises `ProjectionError` on any other shape, type or device."""
        ...


def make_projection(kind: str, dimension: int, seed: int) -> Projection:
    """The projection `kind` to `dimension` = d >= 1 rows; equal arguments give equal S on every machine."""
    if kind not in ("sketch", "rademacher"):
        raise ProjectionError(f"projection kind {kind!r} is unknown: use `sketch` or `rademacher`")
    if dimension < 1:
        raise ProjectionError(f"projection dimension {dimension} is below 1: the published value is 8192")
    return SparseSignSketch(dimension, seed) if kind == "sketch" else DenseRademacher(dimension, seed)


@dataclass(frozen=True)
class _Placement:
    """Where the coordinates of one parameter go.

    order: (size,) int32, the coordinate at each place; signs: (size,) float32 +-1, by place. Every full run of d places
    covers buckets 0 to d - 1; what is left over covers a cyclic window of buckets from `window` on.
    """

    order: torch.Tensor
    signs: torch.Tensor
    window: int


@dataclass(frozen=True)
class SparseSignSketch:
    dimension: int
    seed: int
    kind: Literal["sketch"] = field(default="sketch", init=False)
    _placements: dict[tuple[str, int, torch.device], _Placement] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @torch.no_grad()
    def add(self, out: torch.Tensor, name: str, u: torch.Tensor) -> None:
        _check_blocks(out, name, u, self.dimension)
        d, size = self.dimension, u.shape[1]
        place = self._placement(name, size, u.device)
        full = size - size % d
        for start, stop in _slabs(full, d):
            signed = u.index_select(1, place.order[start:stop]).mul_(place.signs[start:stop])
            out.add_(_fold(signed.unflatten(1, (-1, d))))
        if full < size:
            rest, signs = u.index_select(1, place.order[full:]), place.signs[full:]
            head = min(size - full, d - place.window)  # the window goes on at bucket 0
            # +-1 times a float is exact, so a fused multiply-add rounds like an addition
            out[:, place.window : place.window + head].addcmul_(rest[:, :head], signs[:head])
            out[:, : size - full - head].addcmul_(rest[:, head:], signs[head:])

    def _placement(self, name: str, size: int, device: torch.device) -> _Placement:
        key = (name, size, device)
        if key not in self._placements:
            self._placements[key] = _place(self.seed, name, size, self.dimension, device)
        return self._placements[key]


def _place(seed: int, name: str, size: int, d: int, device: torch.device) -> _Placement:
    """One word per coordinate: its lowest bit is the sign, and the coordinates of a run are shuffled by sorting their
    words. Words that tie (never seen: 64 bits) keep the order of their coordinates."""
    stream = stream_number(seed, "sketch", name)
    order = torch.empty(size, dtype=torch.int32, device=device)
    signs = torch.empty(size, dtype=torch.float32, device=device)
    full = size - size % d
    for start, stop in [*_slabs(full, d), (full, size)]:
        words = random_words(stream, start, stop - start, device)
        runs = words.view(-1, d) if stop <= full else words.view(1, -1)
        shuffled, places = torch.sort(runs, dim=1, stable=True)
        first = torch.arange(start, start + runs.shape[0] * d, d, device=device).unsqueeze(1)
        order[start:stop] = (places + first).flatten()
        signs[start:stop] = 1 - 2 * (shuffled & 1).flatten()
    return _Placement(order, signs, stream_number(seed, "sketch window", name) % d)


def _slabs(stop: int, run: int) -> list[tuple[int, int]]:
    """[0, stop) in slabs of whole runs."""
    step = max(1, _SLAB // run) * run
    return [(start, min(start + step, stop)) for start in range(0, stop, step)]


def _fold(runs: torch.Tensor) -> torch.Tensor:
    """(B, n, d) -> (B, d) sum over n by halving, in place: unlike `sum`, one order of additions on every device."""
    while runs.shape[1] > 1:
        half = (runs.shape[1] + 1) // 2
        runs[:, : runs.shape[1] - half] += runs[:, half:]
        runs = runs[:, :half]
    return runs[:, 0]


@dataclass(frozen=True)
class DenseRademacher:
    dimension: int
    seed: int
    kind: Literal["rademacher"] = field(default="rademacher", init=False)

    @torch.no_grad()
    def add(self, out: torch.Tensor, name: str, u: torch.Tensor) -> None:
        _check_blocks(out, name, u, self.dimension)
        precision = torch.get_float32_matmul_precision()
        if precision != "highest":
            raise ProjectionError(
                f"float32 matrix products run at precision {precision!r}, which rounds gradients before they are "
                "projected: call torch.set_float32_matmul_precision('highest'), or use the kind `sketch`"
            )
        stream, size = stream_number(self.seed, "rademacher", name), u.shape[1]
        # 8 MB stay in a CPU's cache; a GPU wants fewer, larger products
        block_bytes = (8 if u.device.type == "cpu" else 32) << 20
        step = max(1, block_bytes // (4 * self.dimension))
        for start in range(0, size, step):
            stop = min(start + step, size)
            rows = _signs(stream, start, stop, self.dimension, u.device)
            out.addmm_(u[:, start:stop], rows, alpha=1 / math.sqrt(self.dimension))


def _signs(stream: int, start: int, stop: int, d: int, device: torch.device) -> torch.Tensor:
    """(stop - start, d) float32 +-1: column r of coordinate i is bit r % 64 of its word r // 64."""
    count, words = stop - start, -(-d // 64)
    bits = random_words(stream, start * words, count * words, device).view(torch.uint8)  # low byte first
    return _byte_signs(device).index_select(0, bits.int()).view(count, 64 * words)[:, :d]


@cache
def _byte_signs(device: torch.device) -> torch.Tensor:
    """(256, 8) float32: +1 where the byte's bit is 1, -1 where it is 0, lowest bit first."""
    byte = torch.arange(256, device=device).unsqueeze(1)
    return (2 * (byte >> torch.arange(8, device=device) & 1) - 1).float()


def _check_blocks(out: torch.Tensor, name: str, u: torch.Tensor, d: int) -> None:
    if u.dtype != torch.float32 or out.dtype != torch.float32:
        raise ProjectionError(
            f"{name}: gradients are {u.dtype} and the projection {out.dtype}; both must be float32, because half "
            "precision loses small values. Call .float() where they are made"
        )
    if u.ndim != 2 or out.shape != (u.shape[0], d):
        raise ProjectionError(
            f"{name}: blocks of shape {tuple(u.shape)} do not fit a projection of shape {tuple(out.shape)}; they must "
            f"be (B, size) and (B, {d})"
        )
    if u.device != out.device:
        raise ProjectionError(f"{name}: gradients are on {u.device}, the projection on {out.device}; use one device")
