"""Random words that are a function of (seed, names, index) alone, the same bits on every device.

A counter-based generator (splitmix64: Steele, Lea and Flood, OOPSLA 2014, with Stafford's finaliser "Mix13") needs no
state, so a projection's table never depends on the batch, the shard, the order of parameters or the device, as it would
with torch's own generators. Integer arithmetic only: about 8 ns a word on one CPU core.
"""

from __future__ import annotations

import hashlib
import json

import torch


def _signed(value: int) -> int:
    """The int64 with the same 64 bits; torch has no unsigned multiplication, and the wrapped product has the same
    bits."""
    value &= 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >> 63 else value


_STEP = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def stream_number(seed: int, *names: str) -> int:
    """A number in [0, 2^256) for this seed and these names; names never run together."""
    return int.from_bytes(hashlib.sha256(json.dumps([int(seed), *names]).encode()).digest(), "big")


def random_words(stream: int, start: int, count: int, device: torch.device) -> torch.Tensor:
    """(count,) int64 words, 64 random bits each: words `start`, `start` + 1, ... of the stream `stream`."""
    z = torch.arange(start + 1, start + count + 1, dtype=torch.int64, device=device)
    z.mul_(_STEP).add_(_signed(stream))
    _xor_shifted(z, 30).mul_(_FIRST)
    _xor_shifted(z, 27).mul_(_SECOND)
    return _xor_shifted(z, 31)


def _xor_shifted(z: torch.Tensor, bits: int) -> torch.Tensor:
    """z ^= z >>> bits; the mask clears what torch's arithmetic shift copies from the sign."""
    return z.bitwise_xor_((z >> bits).bitwise_and_((1 << (64 - bits)) - 1))
