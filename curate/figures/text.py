"""How much of a text is new: distinct n-grams, compression, overlap between rows. All grow or shrink with the amount of
text, so compare them on equal amounts only (`curate.figures.groups`)."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

Words = Sequence[str]


def ngrams(words: Words, n: int) -> Iterator[tuple[str, ...]]:
    """The runs of `n` words of one row; none where it is shorter."""
    return zip(*(words[i:] for i in range(n)), strict=False)


def distinct(rows: Iterable[Words], n: int, size: int) -> float:
    """Distinct n-grams per n-gram among the first `size` n-grams of the rows, none across two rows (distinct-n, Li et
    al., arXiv 1510.03055); NaN without any."""
    seen: set[tuple[str, ...]] = set()
    count = 0
    for gram in islice((gram for row in rows for gram in ngrams(row, n)), size):
        seen.add(gram)
        count += 1
    return len(seen) / count if count else float("nan")


def compression(texts: Iterable[str], size: int) -> float:
    """Bytes per byte that is left of the first `size` UTF-8 bytes, by zlib (deflate, which looks 32 KiB back); NaN
    without any."""
    data = bytearray()
    for text in texts:
        data += text.encode("utf-8") + b"\n"
        if len(data) >= size:
            break
    kept = bytes(data[:size])
    return len(kept) / len(zlib.compress(kept, 9)) if kept else float("nan")


def overlap(rows: Sequence[Words], n: int) -> float:
    """Share of a row's distinct n-grams that another of the rows has too, mean over rows that have any; NaN where none
    has."""
    own = [set(ngrams(row, n)) for row in rows]
    holders = Counter(gram for grams in own for gram in grams)
    shares = [sum(holders[gram] > 1 for gram in grams) / len(grams) for grams in own if grams]
    return sum(shares) / len(shares) if shares else float("nan")
