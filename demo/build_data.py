"""Build the embedded demo data: a lopsided pool, a few targets and evaluation items per capability.

    python demo/build_data.py --data DIR        # DIR holds pool/*.parquet and eval/*.parquet

The pool is lopsided on purpose (one source makes up over half of it), as scraped instruction pools are. A row belongs
to the demo pool or to the slice that the embedded model was pretrained on by a hash of its id, never to both
(`pretraining_slice`). Targets and evaluation items come from the sources' own test splits and are disjoint by id and
by text: a row that shares its id, its prompt or a run of 13 words of it with another part is left out and named. Takes
a few seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.cleaning.leakage import RUN_WORDS, word_runs

HERE = Path(__file__).parent
SEED = 20261121
TARGETS_PER_CAPABILITY = 16
EVALUATION_PER_CAPABILITY = 120
MAX_CHARACTERS = 560
LETTERS = "ABCDEFGH"

POOL_SIZES = {
    "opentriviaqa": 1_700,
    "ys_llama31": 330,
    "tatoeba_translation": 260,
    "commonsenseqa_train": 170,
    "gsm8k_train": 150,
    "natural_instructions": 130,
    "dolly_3k": 100,
    "openbookqa_train": 90,
    "conala_train": 90,
    "nl2bash": 80,
    "strategyqa_train": 60,
    "xcopa_val": 40,
}
LANGUAGES = ("deu", "fra", "spa", "swa", "ita", "por")


def in_pretraining_slice(row_id: str) -> bool:
    """Whether a pool row belongs to the half of all ids that only the embedded model's pretraining may see."""
    return hashlib.sha256(row_id.encode()).digest()[0] < 128


def read_rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def characters(row: dict) -> int:
    return sum(len(message["content"]) for message in row["messages"])


def build_pool(data: Path, rng: random.Random) -> list[dict]:
    pool = []
    for name, size in POOL_SIZES.items():
        rows = [
            row
            for row in read_rows(data / "pool" / f"{name}.parquet")
            if not in_pretraining_slice(row["id"]) and characters(row) <= MAX_CHARACTERS
        ]
        if name in {"tatoeba_translation", "xcopa_val"}:
            rows = [row for row in rows if row["domain"].split(":")[-1] in LANGUAGES]
        pool += rng.sample(rows, min(size, len(rows)))
    rng.shuffle(pool)
    return pool


def item(row: dict, capability: str, prompt: str, choices: list[str], answer: int) -> dict:
    return {
        "id": row["id"],
        "source": row["source"],
        "capability": capability,
        "license": row["license"],
        "prompt": prompt,
        "choices": choices,
        "answer_index": answer,
        "target": choices[answer],
    }


def with_listed_choices(rows: list[dict], capability: str) -> list[dict]:
    """Multiple choice in the pool's own format: the options stand in the prompt, the answer repeats its letter."""
    items = []
    for row in rows:
        options = [f"({LETTERS[i]}) {choice}" for i, choice in enumerate(row["choices"])]
        items.append(item(row, capability, "\n".join([row["prompt"], *options]), options, row["answer_index"]))
    return items


def with_drawn_choices(
    rows: list[dict], capability: str, answers: list[str], group: list[str], rng: random.Random
) -> list[dict]:
    """Pick the right answer out of four; the three wrong ones answer other questions of the same group."""
    items = []
    for i, row in enumerate(rows):
        others = sorted({answers[j] for j in range(len(rows)) if group[j] == group[i]} - {answers[i]})
        choices = [answers[i], *rng.sample(others, 3)]
        order = rng.sample(range(4), 4)
        items.append(item(row, capability, row["prompt"], [choices[k] for k in order], order.index(0)))
    return items


def build_items(data: Path, rng: random.Random) -> dict[str, list[dict]]:
    """All candidate items per capability, shuffled."""

    def rows(name: str) -> list[dict]:
        return [
            row
            for row in read_rows(data / "eval" / f"{name}.parquet")
            if len(row["prompt"]) + len(row["target"]) <= MAX_CHARACTERS
        ]

    gsm = rows("math_gsm8k")
    solutions = [json.loads(row["extra"])["solution"] for row in gsm]
    short = [i for i, row in enumerate(gsm) if len(row["prompt"]) + len(solutions[i]) <= MAX_CHARACTERS]
    gsm, solutions = [gsm[i] for i in short], [solutions[i] for i in short]
    conala = rows("code_conala")
    flores = [row for row in rows("multilingual_flores200") if row["domain"].split(":")[1] in LANGUAGES[:4]]
    sentences: set[str] = set()
    flores = rng.sample(flores, len(flores))
    flores = [row for row in flores if not (row["prompt"][-60:] in sentences or sentences.add(row["prompt"][-60:]))]
    items = {
        "math": with_drawn_choices(gsm, "math", solutions, ["gsm8k"] * len(gsm), rng),
        "code": with_drawn_choices(conala, "code", [row["target"] for row in conala], ["conala"] * len(conala), rng),
        "reasoning": with_listed_choices(rows("reasoning_commonsenseqa"), "reasoning"),
        "knowledge": with_listed_choices(rows("knowledge_openbookqa"), "knowledge"),
        "multilingual": with_drawn_choices(
            flores, "multilingual", [row["target"] for row in flores], [row["domain"] for row in flores], rng
        ),
    }
    for candidates in items.values():
        rng.shuffle(candidates)
    return items


class Parts:
    """Which part owns which id, prompt and run of words of a prompt; a row that clashes with another part is left
    out."""

    def __init__(self) -> None:
        self.owner: dict[object, str] = {}

    def claim(self, part: str, row_id: str, prompt: str) -> bool:
        keys = {row_id, " ".join(re.findall(r"\w+", prompt.lower())), *word_runs(prompt)}
        clash = next((key for key in keys if self.owner.get(key, part) != part), None)
        if clash is not None:
            print(f"left out of {part}: {row_id} shares {clash!r} with {self.owner[clash]}")
            return False
        self.owner.update(dict.fromkeys(keys, part))
        return True


def licence_table(rows: list[dict]) -> str:
    counts = Counter((row["source"], row["license"]) for row in rows)
    lines = ["| source | licence | rows |", "| --- | --- | ---: |"]
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return "\n".join([*lines, *(f"| {source} | {licence} | {count:,} |" for (source, licence), count in ordered)])


def write_readme(out: Path, pool: list[dict], targets: list[dict], evaluation: dict[str, list[dict]]) -> None:
    items = [row for part in evaluation.values() for row in part]
    largest = Counter(row["source"] for row in pool).most_common(1)[0]
    capabilities = "\n".join(
        f"| {name} | {', '.join(sorted({row['source'] for row in part}))} "
        f"| {sum(t['capability'] == name for t in targets)} | {len(part)} |"
        for name, part in evaluation.items()
    )
    (out / "README.md").write_text(f"""# The demo's data

Written by `demo/build_data.py` (seed {SEED}) from public data sets; every row keeps its source and licence.

* `pool.parquet`: {len(pool):,} chats, lopsided on purpose: {largest[1] / len(pool):.0%} are from {largest[0]}.
* `targets.parquet`: {len(targets)} chats that steer the selection, {TARGETS_PER_CAPABILITY} per capability.
* `eval/*.parquet`: {len(items)} items that score it (`prompt`, `target`, four or five `choices`).

No id, no prompt and no run of {RUN_WORDS} words of a prompt is shared between the three, and none of the pool was
in the embedded model's pretraining. Where a data set has no choices (math, code, multilingual) the three wrong ones
answer other items of the same data set and, for translations, of the same language.

| capability | evaluation data | targets | items |
| --- | --- | ---: | ---: |
{capabilities}

## Licences: pool

{licence_table(pool)}

## Licences: targets and evaluation

{licence_table([*targets, *items])}

`ys_llama31` was written by Llama 3.1 (*Built with Llama*). Tatoeba sentences: tatoeba.org, CC BY 2.0 FR.
""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with pool/ and eval/")
    data = parser.parse_args().data
    rng = random.Random(SEED)

    parts = Parts()
    targets, evaluation = [], {}
    for capability, candidates in build_items(data, rng).items():
        targets += [
            row for row in candidates[:TARGETS_PER_CAPABILITY] if parts.claim("targets", row["id"], row["prompt"])
        ]
        rest = (
            row for row in candidates[TARGETS_PER_CAPABILITY:] if parts.claim("evaluation", row["id"], row["prompt"])
        )
        evaluation[capability] = list(islice(rest, EVALUATION_PER_CAPABILITY))
    pool = [row for row in build_pool(data, rng) if parts.claim("pool", row["id"], row["messages"][0]["content"])]

    out = HERE / "data"
    (out / "eval").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(pool), out / "pool.parquet", compression="zstd")
    pq.write_table(
        pa.Table.from_pylist(
            [
                {
                    **{key: t[key] for key in ("id", "source", "capability", "license")},
                    "messages": [
                        {"role": "user", "content": t["prompt"]},
                        {"role": "assistant", "content": t["target"]},
                    ],
                }
                for t in targets
            ]
        ),
        out / "targets.parquet",
        compression="zstd",
    )
    for capability, part in evaluation.items():
        pq.write_table(pa.Table.from_pylist(part), out / "eval" / f"{capability}.parquet", compression="zstd")
    write_readme(out, pool, targets, evaluation)
    print(f"pool {len(pool)} rows, targets {len(targets)}, evaluation {sum(map(len, evaluation.values()))}")


if __name__ == "__main__":
    main()
