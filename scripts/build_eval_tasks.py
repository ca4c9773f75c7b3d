"""Turn a folder of evaluation files into task sets that Equipoise runs: items as Parquet, one task YAML per set.

    python scripts/build_eval_tasks.py --data DIR --out FOLDER             # all sets, all items
    python scripts/build_eval_tasks.py --data DIR --out configs/tasks --items demo/data/tasks --limit 40 \\
        --sets gsm8k ifeval mbpp humaneval nq_open --disjoint-from demo/data/*.parquet demo/data/eval/*.parquet

DIR holds one Parquet file per set with the columns id, source, domain, subset, license, prompt, target, choices,
answer_index, split and extra (a JSON text: tests, gold answers, arguments of checks). How a set is scored follows from
what a right answer to it is: choices by log-likelihood, numbers, gold answers and LaTeX by comparison, instructions by
checks, programs by running them. Sets without an answer that can be verified are left out and named. Takes seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from curate.cleaning.leakage import word_runs

Row = dict[str, Any]

TAG = "equipoise_local"
CHOICES, WRITTEN = "_local_choices", "_local_written"  # shared parts of the task files
LICENCE_FILE = "README.md"


class BuildError(ValueError):
    """The data are not as this script needs them."""


def _gold(row: Row, extra: dict[str, Any]) -> dict[str, Any]:
    return {"answers": list(dict.fromkeys([row["target"], *extra["answers"]]))}


def _instructions(row: Row, extra: dict[str, Any]) -> dict[str, Any]:
    arguments = [{key: value for key, value in one.items() if value is not None} for one in extra["kwargs"]]
    return {"instruction_id_list": extra["instruction_id_list"], "kwargs": arguments}


def _humaneval(row: Row, extra: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "humaneval", "test": extra["test"], "entry_point": extra["entry_point"]}


def _mbpp(row: Row, extra: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "mbpp",
        "test_imports": [],
        "test_setup": extra["test_setup_code"],
        "test_list": extra["test_list"],
    }


def _program(row: Row, extra: dict[str, Any]) -> dict[str, Any]:
    return {"answers": [row["target"]], "compare": "code"}


CHECKS: dict[str, Callable[[Row, dict[str, Any]], dict[str, Any]]] = {  # of a row and its `extra`
    "gold": _gold,
    "program": _program,
    "instructions": _instructions,
    "humaneval": _humaneval,
    "mbpp": _mbpp,
}


@dataclass(frozen=True)
class Set:
    """One file of the data and how it becomes a task, as `eval_task_sets.yaml` explains."""

    file: str
    what: str
    scorer: str | None = None
    tokens: int = 0
    ask: str = ""
    before: str = ""
    one_line: bool = False
    checks: str | None = None
    leave_out: str | None = None


_KNOWN = yaml.safe_load(Path(__file__).with_name("eval_task_sets.yaml").read_text(encoding="utf-8"))
SETS = {name: Set(**fields) for name, fields in _KNOWN["sets"].items()}
LEFT_OUT: dict[str, str] = _KNOWN["left_out"]

_SECONDS_PER_ITEM = 0.5  # of the embedded model, on two busy CPU cores
_LONG = 400  # tokens of an answer that, with some prompts, pass the embedded model's context of 512
_NEEDS = {"math": "the package math-verify", "code": "bubblewrap (`apt-get install bubblewrap`)"}
_EXPECT = {
    "choices": "acc near one in the number of answers from the embedded model.",
    "numeric": "exact_match 0.00 for the embedded model of 4 M parameters, which cannot do this.",
    "match": "exact_match 0.00 for the embedded model of 4 M parameters, which cannot do this.",
    "math": "exact_match 0.00 for the embedded model of 4 M parameters, which cannot do this.",
    "instructions": "prompt_strict about 0.1 for the embedded model: some instructions are followed by chance.",
    "code": "pass@1 0.00 for the embedded model of 4 M parameters, which cannot do this.",
}

_CHOICES_TEXT = f"""\
# Shared by the local multiple-choice tasks (no .yaml ending, so that it is not itself a task).
# The choice with the highest log-likelihood after the prompt is the answer; acc_norm divides by its characters first.
tag: {TAG}
output_type: multiple_choice
dataset_path: parquet
test_split: test
doc_to_text: prompt
doc_to_choice: choices
doc_to_target: answer_index
target_delimiter: ""
num_fewshot: 0
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""

_WRITTEN_TEXT = f"""\
# Shared by the local tasks in which the model writes its answer (no .yaml ending, so that it is not itself a task).
# The key `scorer` of each names the module of eval/scorers that judges the answers.
tag: {TAG}
output_type: generate_until
dataset_path: parquet
test_split: test
doc_to_text: prompt
doc_to_target: target
target_delimiter: ""
num_fewshot: 0
metadata:
  version: 1.0
"""


def capability_of(domain: str) -> tuple[str, str | None]:
    """`multilingual:swa` → capability and language."""
    capability, _, language = domain.partition(":")
    return capability, language or None


def read_set(data: Path, name: str) -> list[Row]:
    """The items of a set, with the columns that its task needs."""
    plan = SETS[name]
    path = data / f"{plan.file}.parquet"
    if not path.is_file():
        raise BuildError(f"{path}: no such file; --data must hold one file per set")
    items: list[Row] = []
    for row in pq.read_table(path).to_pylist():
        if row["split"] == plan.leave_out:
            continue
        capability, language = capability_of(row["domain"])
        item = {"id": row["id"], "source": row["source"], "license": row["license"], "capability": capability}
        item |= {"language": language} if language else {}
        item |= {"subject": row["subset"], "prompt": row["prompt"], "target": row["target"]}
        if plan.scorer is None:
            choices, answer = row["choices"], row["answer_index"]
            if not choices or answer is None or choices[answer] != row["target"]:
                raise BuildError(f"{path}: row {row['id']}: its target is not the choice that answer_index names")
            item |= {"choices": choices, "answer_index": answer}
        if plan.checks is not None:
            extra = json.loads(row["extra"]) if row["extra"] else {}
            item["checks"] = json.dumps(CHECKS[plan.checks](row, extra), ensure_ascii=False)
        items.append(item)
    return items


def draw(items: list[Row], limit: int | None, seed: int, name: str) -> list[Row]:
    """At most `limit` items by a hash of seed, set and id, in the order of the file."""
    if limit is None or len(items) <= limit:
        return items
    ranks = {row["id"]: hashlib.sha256(f"{seed}/{name}/{row['id']}".encode()).digest() for row in items}
    kept = set(sorted(ranks, key=ranks.__getitem__)[:limit])
    return [row for row in items if row["id"] in kept]


def texts_of(paths: Iterable[Path]) -> tuple[set[str], set[str], set[tuple[str, ...]]]:
    """Ids, prompts and runs of 13 words of the prompts of other files: chats (`messages`) or items (`prompt`)."""
    ids: set[str] = set()
    prompts: set[str] = set()
    runs: set[tuple[str, ...]] = set()
    for path in paths:
        for row in pq.read_table(path).to_pylist():
            ids.add(row["id"])
            turns = [turn["content"] for turn in row.get("messages") or [] if turn["role"] == "user"]
            for text in turns or [row["prompt"]]:
                prompts.add(text.strip())
                runs.update(word_runs(text))
    return ids, prompts, runs


def disjoint(items: list[Row], others: Iterable[Path]) -> list[Row]:
    """The items that share no id, prompt or run of 13 words of a prompt with the other files."""
    ids, prompts, runs = texts_of(others)
    return [
        row
        for row in items
        if row["id"] not in ids and row["prompt"].strip() not in prompts and runs.isdisjoint(word_runs(row["prompt"]))
    ]


def task_text(name: str, count: int, items_file: Path, out: Path) -> str:
    """The task's YAML file."""
    plan = SETS[name]
    relative, way = os.path.relpath(items_file, out), plan.scorer or "choices"
    options = [f"evaluation.tasks=[local_{name}]"]
    if out.resolve() != Path("configs/tasks").resolve():
        options.append(f"evaluation.task_folder={out}")
    options += ["evaluation.run_code=true"] if way == "code" else []
    options += ["evaluation.overflow=cut"] if plan.tokens >= _LONG else []
    lines = [f"# .venv/bin/equipoise run configs/demo.yaml {' '.join(f'--set {option}' for option in options)}"]
    lines += [f"# {plan.what}"]
    lines += [
        f"# {count:,} items: about {max(count * _SECONDS_PER_ITEM, 10):,.0f} s for the embedded model "
        "beside the engine's start (30 to 60 s) on 2 busy CPU cores."
    ]
    lines += [f"# One should see: {_EXPECT[way]}" + (f" Needs {_NEEDS[way]}." if way in _NEEDS else "")]
    lines += [f"task: local_{name}", f"include: {CHOICES if plan.scorer is None else WRITTEN}"]
    if plan.scorer is not None:
        lines.append(f"scorer: {plan.scorer}")
    if plan.scorer == "code":
        lines.append("unsafe_code: true   # the harness asks for this; programs run in eval/sandbox.py alone")
    lines += ["dataset_kwargs:", "  data_files:", f"    test: {relative}   # relative to this file"]
    if plan.before or plan.ask:
        lines.append(f"doc_to_text: {json.dumps(plan.before + '{{prompt}}' + plan.ask)}")
    if plan.scorer is not None:
        until = '["\\n"]' if plan.one_line else "[]"
        lines += ["generation_kwargs:", f"  until: {until}", "  do_sample: false", f"  max_gen_toks: {plan.tokens}"]
    return "\n".join(lines) + "\n"


def licence_text(written: dict[str, list[Row]], seed: int) -> str:
    """The table of sources and licences that goes beside the items."""
    lines = ["# Task items", "", f"Written by `scripts/build_eval_tasks.py` (seed {seed}) from public evaluation sets;"]
    lines += ["every row keeps its source and licence. They are for scoring only: never train on them.", ""]
    lines += ["| file | capability | source | licence | items |", "| --- | --- | --- | --- | ---: |"]
    for name, items in written.items():
        for (capability, source, licence), count in sorted(
            Counter((row["capability"], row["source"], row["license"]) for row in items).items()
        ):
            lines.append(f"| `{name}.parquet` | {capability} | {source} | {licence} | {count:,} |")
    return "\n".join(lines) + "\n"


def build(
    data: Path,
    out: Path,
    items_folder: Path,
    names: Iterable[str] = tuple(SETS),
    limit: int | None = None,
    seed: int = 0,
    others: Iterable[Path] = (),
) -> dict[str, list[Row]]:
    """Write items, task files and the table of licences; the items written, by set."""
    others = list(others)
    out.mkdir(parents=True, exist_ok=True)
    items_folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, list[Row]] = {}
    for name in names:
        shared, text = (CHOICES, _CHOICES_TEXT) if SETS[name].scorer is None else (WRITTEN, _WRITTEN_TEXT)
        (out / shared).write_text(text, encoding="utf-8")
        items = draw(disjoint(read_set(data, name), others), limit, seed, name)
        path = items_folder / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(items), path, compression="zstd")
        (out / f"local_{name}.yaml").write_text(task_text(name, len(items), path, out), encoding="utf-8")
        written[name] = items
    (items_folder / LICENCE_FILE).write_text(licence_text(written, seed), encoding="utf-8")
    return written


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with one Parquet file per evaluation set")
    parser.add_argument("--out", type=Path, required=True, help="folder for the task YAML files")
    parser.add_argument("--items", type=Path, help="folder for the items (default: OUT/items)")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET", help="default: all")
    parser.add_argument("--limit", type=int, help="items per set at most (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="which items a limit keeps")
    parser.add_argument("--disjoint-from", type=Path, nargs="+", default=[], metavar="FILE", help="share no item with")
    given = parser.parse_args(arguments)
    if given.limit is not None and given.limit < 1:
        parser.error(f"--limit must be 1 or more (got {given.limit})")
    try:
        items_folder = given.items or given.out / "items"
        written = build(given.data, given.out, items_folder, given.sets, given.limit, given.seed, given.disjoint_from)
    except (BuildError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{'task':<22}{'capability':<14}{'items':>7}  {'scored by':<16}licences")
    for name, items in written.items():
        capabilities, licences = (", ".join(sorted({row[key] for row in items})) for key in ("capability", "license"))
        print(
            f"local_{name:<16}{capabilities:<14}{len(items):>7}  {SETS[name].scorer or 'log-likelihood':<16}{licences}"
        )
    for file, reason in LEFT_OUT.items():
        if (given.data / f"{file}.parquet").is_file():
            print(f"left out: {file} ({reason})")
    unknown = (
        {path.stem for path in given.data.glob("*.parquet")} - {plan.file for plan in SETS.values()} - set(LEFT_OUT)
    )
    for file in sorted(unknown):
        print(f"left out: {file} (this script does not know it)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
