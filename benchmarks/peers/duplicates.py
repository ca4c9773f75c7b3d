"""Near-duplicates of a folder of JSON Lines by ours or by one peer, in this interpreter: seconds, and the ids removed.

    PYTHONPATH=. python benchmarks/peers/duplicates.py ours|function|datatrove|rensa TEXTS OUTPUT SCRATCH

Each is set to a Jaccard similarity of 0.8 of word 3-grams, two workers where it has any (rensa has none). datatrove's
signatures have 17 buckets of 7 hashes, ours for that threshold; it does not verify a match. rensa's index proposes with
the same bands and its estimate from 119 permutations decides.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

WORKERS, BANDS, PER_BAND = 2, 17, 7


def read(texts: Path) -> list[tuple[str, str]]:
    lines = (line for path in sorted(texts.glob("*.jsonl")) for line in path.open(encoding="utf-8"))
    return [(row["id"], row["text"]) for row in map(json.loads, lines)]


def ours(texts: Path, scratch: Path) -> list[str]:
    """As the clean stage runs it, from the ingested file; that no other filter runs is the only difference."""
    from curate.cleaning import shards
    from curate.cleaning.settings import CleaningSettings
    from curate.records import Example, ExampleWriter, Message

    with ExampleWriter(scratch / "in.parquet") as writer:
        for name, text in read(texts):
            turns = (Message("user", text), Message("assistant", "."))
            writer.write(Example(name, "s", turns, "l", "d", "f:1"))
    found, _ = shards.clean_pool(
        scratch / "in.parquet",
        scratch / "out.parquet",
        [],
        CleaningSettings.model_validate({"near_duplicates": {}}),
        processes=WORKERS,
    )
    return [row.id for row in found.removed]


def function(texts: Path, scratch: Path) -> list[str]:
    """Our clusters alone, in this process, of texts in memory."""
    from curate.cleaning.near_duplicates import near_duplicate_clusters

    rows, seen, removed = read(texts), set[int](), list[str]()
    labels = near_duplicate_clusters((text for _, text in rows), 0.8).tolist()
    for (name, _), label in zip(rows, labels, strict=True):
        if label in seen:
            removed.append(name)
        seen.add(label)
    return removed


def datatrove(texts: Path, scratch: Path) -> list[str]:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig

    config = MinhashConfig(
        hash_config=HashConfig(precision=64), num_buckets=BANDS, hashes_per_bucket=PER_BAND, n_grams=3
    )
    at = {name: str(scratch / name) for name in ("signatures", "buckets", "ids", "removed", "kept")}
    stages = [
        [JsonlReader(str(texts)), MinhashDedupSignature(at["signatures"], config)],
        [MinhashDedupBuckets(at["signatures"], at["buckets"], config=config)],
        [MinhashDedupCluster(at["buckets"], at["ids"], config=config)],
        [
            JsonlReader(str(texts)),
            MinhashDedupFilter(at["ids"], exclusion_writer=JsonlWriter(at["removed"], compression=None)),
            JsonlWriter(at["kept"], compression=None),
        ],
    ]
    tasks = [WORKERS, BANDS, 1, WORKERS]
    for number, (stage, count) in enumerate(zip(stages, tasks, strict=True)):
        workers = min(count, WORKERS)
        LocalPipelineExecutor(stage, tasks=count, workers=workers, logging_dir=str(scratch / f"log{number}")).run()
    return [name for name, _ in read(scratch / "removed")]


def rensa(texts: Path, scratch: Path) -> list[str]:
    import re

    from rensa import RMinHash, RMinHashLSH

    word = re.compile(r"\w+")
    index = RMinHashLSH(threshold=0.8, num_perm=BANDS * PER_BAND, num_bands=BANDS)
    kept, removed = dict[int, RMinHash](), list[str]()
    for number, (name, text) in enumerate(read(texts)):
        words = word.findall(text.casefold())
        signature = RMinHash(num_perm=BANDS * PER_BAND, seed=1)
        signature.update([" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))])
        if any(signature.jaccard(kept[other]) >= 0.8 for other in index.query(signature)):
            removed.append(name)
        else:
            kept[number] = signature
            index.insert(number, signature)
    return removed


def main() -> None:
    name, texts, output, scratch = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    scratch.mkdir(parents=True)
    started = time.perf_counter()
    removed = {"ours": ours, "function": function, "datatrove": datatrove, "rensa": rensa}[name](texts, scratch)
    output.write_text(json.dumps({"seconds": time.perf_counter() - started, "removed": removed}))


if __name__ == "__main__":
    main()
