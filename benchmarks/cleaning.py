"""A million rows through ingest, duplicates, near-duplicates and decontamination on two cores: rows per second, memory
of all processes together, what is found of what was planted, growth with N, and a peer beside it.

    .venv/bin/python benchmarks/cleaning.py million POOL            # bounds: 2 cores, 4 GB
    .venv/bin/python benchmarks/cleaning.py growth POOL             # 10,000 to 300,000 rows
    uv venv peers && uv pip install --python peers/bin/python datatrove spacy rensa
    .venv/bin/python benchmarks/cleaning.py peers POOL --python peers/bin/python

POOL: Parquet files with `messages`. Rows are made of the sentences of its conversations, mixed by a seeded generator, 5
to 12 to a row; every tenth row is planted: an exact copy in other case, a copy with a word changed here and there, or a
row that asks what an item asks. So what should be found is known. Ours runs as the stages run it (`read_into`,
`clean_pool`) in a process of its own; memory is the proportional set size of its whole process tree, sampled twice
a second. Peers are given the same texts as JSON Lines and search near-duplicates only, with 2 workers where they have
any.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from curate.cleaning import Reference
from curate.cleaning.settings import CleaningSettings
from curate.cleaning.shards import clean_pool
from curate.records import ExampleWriter
from curate.sources import SourceSpec, read_into

PLANTED_EVERY = 10
OURS, NAMES = ("ours", "function"), ("function", "rensa", "datatrove")  # the whole stage; its clusters alone
KINDS = ("copy", "near", "leak")
CORES = 2
ITEMS = 500
GROWTH = (10_000, 30_000, 100_000, 300_000)
PEERS = Path(__file__).parent / "peers" / "duplicates.py"
SETTINGS = CleaningSettings.model_validate({"near_match": {}, "near_duplicates": {}})


def sentences(pool: Path) -> list[str]:
    """Different sentences of 5 words and more of all conversations, in order of the files."""
    found: dict[str, None] = {}
    for path in sorted(pool.glob("*.parquet")) if pool.is_dir() else [pool]:
        for row in pq.read_table(path, columns=["messages"])["messages"].to_pylist():
            for turn in row:
                for sentence in re.split(r"(?<=[.!?])\s+|\n+", turn["content"]):
                    if 5 <= len(sentence.split()) <= 40:
                        found[sentence.strip()] = None
    return list(found)


def edited(text: str, rng: random.Random) -> str:
    """About every 35th word is another: Jaccard similarities of word triples of some 0.8 to 0.95."""
    words = text.split()
    for place in range(rng.randrange(10, 35), len(words), 35):
        words[place] = f"edit{rng.randrange(1000)}"
    return " ".join(words)


def rows(known: list[str], items: list[str], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """`count` rows with `planted` (copy, near, leak or none) and `of`, the row or item that a planted one repeats."""
    rng = random.Random(seed)
    kept: list[tuple[str, str, str]] = []
    for number in range(count):
        name, planted, of = f"row-{number}", "none", ""
        if number % PLANTED_EVERY == PLANTED_EVERY - 1 and kept:
            planted = KINDS[number // PLANTED_EVERY % len(KINDS)]
            of, asked, answered = kept[rng.randrange(len(kept))]
            if planted == "copy":
                asked, answered = asked.upper(), "  ".join(answered.split(" "))
            elif planted == "near":
                asked, answered = edited(asked, rng), edited(answered, rng)
            else:
                place = rng.randrange(len(items))
                of, asked, answered = f"item-{place}", f"{rng.choice(known)} {items[place]}", rng.choice(known)
        else:
            drawn = rng.choices(known, k=rng.randint(5, 12))
            asked, answered = " ".join(drawn[:3]), " ".join(drawn[3:])
            if len(kept) < 50_000:
                kept.append((name, asked, answered))
            elif rng.random() < 0.05:
                kept[rng.randrange(len(kept))] = (name, asked, answered)
        yield {"id": name, "planted": planted, "of": of, "messages": _turns(asked, answered)}


def _turns(asked: str, answered: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def write_rows(folder: Path, known: list[str], count: int, seed: int = 17) -> tuple[Path, Path]:
    """(JSON Lines of the rows, JSON of the items)."""
    rng = random.Random(seed)
    held = set(rng.sample(known, 3 * ITEMS))  # no row has a sentence of an item by chance
    known = [sentence for sentence in known if sentence not in held]
    apart = sorted(held)
    items = [" ".join(apart[3 * k : 3 * k + 3]) for k in range(ITEMS)]
    pool = folder / f"rows-{count}.jsonl"
    with pool.open("w", encoding="utf-8") as file:
        for row in rows(known, items, count, seed):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / "items.json").write_text(json.dumps(items))
    return pool, folder / "items.json"


def ours(pool: Path, items: Path, folder: Path, processes: int = CORES) -> dict[str, Any]:
    """Ingest and clean as the stages do; seconds of each, and the removed rows."""
    started = time.perf_counter()
    with ExampleWriter(folder / "ingested.parquet") as writer:
        read_into(writer.write, [SourceSpec(path=str(pool))], "pool")
    ingested = time.perf_counter()
    references = [Reference(f"item-{k}", (text,)) for k, text in enumerate(json.loads(items.read_text()))]
    output = folder / "cleaned.parquet"
    steps, _ = clean_pool(folder / "ingested.parquet", output, references, SETTINGS, processes=processes)
    cleaned = time.perf_counter()
    kept = pq.read_metadata(output).num_rows
    assert writer.written == kept + len(steps.removed)
    return {
        "ingest": ingested - started,
        "clean": cleaned - ingested,
        "rows": writer.written,
        "kept": kept,
        "cpu": processor_seconds(),
        "removed": {row.id: (row.filter, row.matched_id) for row in steps.removed},
        "torch": "torch" in sys.modules,
    }


def processor_seconds() -> float:
    """Of this process and the children that have ended: what a machine that others share does not change."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _into(pipe: Any, *arguments: Any) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    pipe.send(ours(*arguments))


def measured(pool: Path, items: Path, folder: Path) -> dict[str, Any]:
    """`ours` in a process of its own, with the peak memory of its tree in bytes."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_into, args=(sender, pool, items, folder))
    process.start()
    with Memory(int(process.pid or 0)) as memory:
        found = receiver.recv()
        process.join()
    return found | {"peak": memory.peak}


class Memory:
    """The largest proportional set size of a process and all its children together, sampled."""

    def __init__(self, process: int):
        self._process, self._stop = process, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self.peak = max(self.peak, sum(map(_bytes_of, _tree(self._process))))


def _tree(process: int) -> list[int]:
    try:
        lists = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children")]
    except OSError:
        return []
    return [process, *(one for text in lists for child in text.split() for one in _tree(int(child)))]


def _bytes_of(process: int) -> int:
    try:
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def found_of_planted(pool: Path, removed: dict[str, Any], kinds: Sequence[str] = KINDS) -> str:
    """Share of the planted rows that were removed, by kind, and of the removed that were planted or repeat one."""
    planted, sources, got = dict.fromkeys(KINDS, 0), set[str](), dict.fromkeys(KINDS, 0)
    names = set[str]()
    with pool.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if row["planted"] != "none":
                planted[row["planted"]] += 1
                got[row["planted"]] += row["id"] in removed
                names.add(row["id"])
                sources.add(row["of"])
    true = sum(name in names for name in removed)
    recall = ", ".join(f"{kind} {got[kind] / max(1, planted[kind]):.4f}" for kind in kinds if planted[kind])
    return f"recall: {recall}; precision {true / max(1, len(removed)):.4f} of {len(removed):,} removed"


def show(name: str, count: int, found: dict[str, Any]) -> None:
    seconds = found["ingest"] + found["clean"]
    print(
        f"{name:<12} {count:>9,} rows  ingest {found['ingest']:7.1f} s  clean {found['clean']:7.1f} s  "
        f"{count / seconds:8,.0f} rows/s  {found['cpu']:7.1f} s of processor  peak {found['peak'] / 1e9:5.2f} GB",
        flush=True,
    )


def run_sizes(pool: Path, sizes: tuple[int, ...], folder: Path) -> None:
    known = sentences(pool)
    print(f"{len(known):,} sentences; {CORES} cores", flush=True)
    for count in sizes:
        made, items = write_rows(folder, known, count)
        found = measured(made, items, folder)
        show("ours", count, found)
        print(
            f"  {made.stat().st_size / 1e9:.2f} GB of JSON Lines; {found_of_planted(made, found['removed'])}",
            flush=True,
        )
        made.unlink()


def run_peers(pool: Path, count: int, python: Path, rounds: int, names: Sequence[str], folder: Path) -> None:
    """Near-duplicates alone, ours and the peers' in turns; agreement of the rows removed."""
    known = sentences(pool)
    made, _ = write_rows(folder, known, count)
    texts = folder / "texts"
    texts.mkdir()
    parts = [(texts / f"part-{part}.jsonl").open("w", encoding="utf-8") for part in range(CORES)]
    with made.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            row = json.loads(line)
            said = "\n".join(turn["content"] for turn in row["messages"])
            parts[number * CORES // count].write(json.dumps({"id": row["id"], "text": said}) + "\n")
    for part in parts:
        part.close()
    removed: dict[str, set[str]] = {}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for turn in range(rounds):
        for name in names:
            interpreter = sys.executable if name in OURS else str(python)
            output = folder / f"{name}.json"
            command = [interpreter, str(PEERS), name, str(texts), str(output), str(folder / f"{name}-{turn}")]
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with Memory(process.pid) as memory:
                _, status, used = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{name} failed")
            cpu = used.ru_utime + used.ru_stime
            found = json.loads(output.read_text())
            rate, peak = count / found["seconds"], memory.peak / 1e9
            print(
                f"round {turn + 1} {name:<10} {found['seconds']:7.1f} s {rate:8,.0f} rows/s  {cpu:7.1f} s of "
                f"processor  peak {peak:.2f} GB",
                flush=True,
            )
            removed.setdefault(name, set(found["removed"]))
    for name, gone in removed.items():
        both = len(gone & removed[names[0]])
        print(f"{name:<10} {found_of_planted(made, dict.fromkeys(gone), KINDS[:2])}")
        print(f"{'':<10} {both:,} in common with {names[0]}; {len(gone) - both:,} here only")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("million", "growth", "peers"))
    parser.add_argument("pool", type=Path, help="folder of Parquet files, or one")
    parser.add_argument("--rows", type=int, help="another number of rows (million: 1,000,000, peers: 100,000)")
    parser.add_argument("--python", type=Path, help="interpreter with the peers (peers)")
    parser.add_argument("--names", nargs="+", default=["ours", *NAMES], choices=["ours", *NAMES], help="who (peers)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (peers)")
    parser.add_argument("--folder", type=Path, help="where to write some 5 GB; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        if options.what == "peers":
            if options.python is None:
                parser.error("peers needs --python")
            run_peers(options.pool, options.rows or 100_000, options.python, options.rounds, options.names, folder)
        else:
            sizes = GROWTH if options.what == "growth" else (options.rows or 1_000_000,)
            run_sizes(options.pool, sizes, folder)


if __name__ == "__main__":
    main()
