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

from curate.cleaning.leakage import word_runs

Row = dict[str, Any]
Checks = Callable[[Row, dict[str, Any]], dict[str, Any]]  # of a row and its `extra`

TAG = "equipoise_local"
CHOICES, WRITTEN = "_local_choices", "_local_written"  # shared parts of the task files
LICENCE_FILE = "README.md"


class BuildError(ValueError):
    """The data are not as this script needs them."""


def _gold(row: Row, extra: dict[str, Any]) -> dict[str, Any]:
    return {"answers": extra["answers"]}


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


@dataclass(frozen=True)
class Set:
    """One file of the data and how it becomes a task. Without a scorer it is multiple choice."""

    file: str
    what: str  # for the task file's first lines
    scorer: str | None = None
    tokens: int = 0  # a written answer's length at most
    ask: str = ""  # follows the prompt
    before: str = ""  # stands before it
    one_line: bool = False  # the answer ends with its first line
    checks: Checks | None = None
    leave_out: str | None = None  # a split that is for examples, not for scoring


_NUMBER = "The number that the answer ends with is compared."
_SHORT = "\n\nAnswer with a few words and nothing else."

SETS = {
    "mmlu": Set("knowledge_mmlu", "Exam questions of 57 subjects with four answers (MMLU)", leave_out="dev"),
    "openbookqa": Set("knowledge_openbookqa", "Elementary science questions with four answers (OpenBookQA)"),
    "truthfulqa": Set(
        "knowledge_truthfulqa", "Questions that many people answer wrongly, 2 to 12 answers (TruthfulQA)"
    ),
    "aqua": Set("math_aqua", "Algebra questions with five answers (AQuA-RAT)"),
    "commonsenseqa": Set("reasoning_commonsenseqa", "Commonsense questions with five answers (CommonsenseQA)"),
    "folio": Set("reasoning_folio", "Whether a conclusion follows from premises: True, False or Unknown (FOLIO)"),
    "strategyqa": Set("reasoning_strategyqa", "Yes-or-no questions that need several facts (StrategyQA)"),
    "xcopa": Set("multilingual_xcopa", "The likelier cause or effect of two, in 11 languages (XCOPA)"),
    "gsm8k": Set("math_gsm8k", f"Grade-school word problems (GSM8K). {_NUMBER}", "numeric", 400),
    "svamp": Set("math_svamp", f"One-step word problems (SVAMP). {_NUMBER}", "numeric", 256),
    "mgsm": Set("multilingual_mgsm", f"GSM8K's problems in 10 languages (MGSM). {_NUMBER}", "numeric", 512),
    "math500": Set(
        "math_math500",
        "Competition problems (MATH-500). The LaTeX in the answer's box is compared as mathematics.",
        "math",
        1024,
        ask="\n\nPut the final answer in \\boxed{}.",
    ),
    "nq_open": Set(
        "knowledge_nq_open",
        "Questions that people asked a search engine (NQ-open). Compared with several gold answers.",
        "match",
        32,
        _SHORT,
        one_line=True,
        checks=_gold,
    ),
    "afriqa": Set(
        "multilingual_afriqa",
        "Open questions in nine African languages (AfriQA). Compared with the gold answers.",
        "match",
        48,
        _SHORT,
        one_line=True,
        checks=_gold,
    ),
    "xquad": Set(
        "multilingual_xquad",
        "Questions about a paragraph, in 12 languages (XQuAD). Compared with the gold answers.",
        "match",
        48,
        "\n\nAnswer with a few words of the text and nothing else.",
        one_line=True,
        checks=_gold,
    ),
    "bbh": Set(
        "reasoning_bbh",
        "27 tasks that were hard for language models (BIG-Bench Hard). What follows `the answer is` is compared.",
        "match",
        512,
        "\n\nEnd with a line that begins: The answer is",
    ),
    "conala": Set(
        "code_conala",
        "A line of Python for an intent (CoNaLa). Compared with the reference as a syntax tree.",
        "match",
        96,
        "\n\nAnswer with one line of Python and nothing else.",
        checks=lambda row, extra: {"answers": [row["target"]], "compare": "code"},
    ),
    "ifeval": Set(
        "instruction_ifeval",
        "Prompts with instructions that a program can verify (IFEval), by lm-eval's own checks.",
        "instructions",
        1280,
        checks=_instructions,
    ),
    "humaneval": Set(
        "code_humaneval",
        "Functions from their head and documentation (HumanEval). The answer is run on hidden tests in the sandbox.",
        "code",
        400,
        before="Complete this function. Answer with the whole function in a code block.\n\n```python\n",
        ask="```",
        checks=_humaneval,
    ),
    "mbpp": Set(
        "code_mbpp",
        "Short functions from a sentence and three tests (MBPP). The answer is run on the tests in the sandbox.",
        "code",
        400,
        "\n\nAnswer with the function in a code block.",
        checks=_mbpp,
    ),
}

LEFT_OUT = {
    "instruction_mt_vicuna_bench": "most have no reference, and the others need a judge",
    "instruction_user_oriented": "free texts with one reference each, which equality cannot judge",
    "multilingual_flores200": "translations, which equality cannot judge",
}

_EXPECT = {
    "choices": "One should see: acc near one in the number of answers from a model that does not know.",
    "numeric": "One should see: exact_match about 0 for the embedded model.",
    "match": "One should see: exact_match about 0 for the embedded model.",
    "math": "One should see: exact_match about 0 for the embedded model. Needs the package math-verify.",
    "instructions": "One should see: prompt_strict of a few per cent for the embedded model, by chance.",
    "code": "One should see: pass@1 about 0 for the embedded model. Needs bubblewrap (`apt-get install bubblewrap`).",
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
            item["checks"] = json.dumps(plan.checks(row, extra), ensure_ascii=False)
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
    relative = os.path.relpath(items_file, out)
    options = f"evaluation.tasks=[local_{name}]"
    if out.resolve() != Path("configs/tasks").resolve():
        options += f" --set evaluation.task_folder={out}"
    lines = [f"# .venv/bin/equipoise run configs/demo.yaml --set {options}"]
    lines += [f"# {plan.what}", f"# {count} items. {_EXPECT[plan.scorer or 'choices']}"]
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
