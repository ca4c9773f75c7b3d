"""A pool cleaned in shards and processes has the result of the pool cleaned in memory, whatever their number."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curate.cleaning import Reference
from curate.cleaning.contract import Gone
from curate.cleaning.settings import CleaningSettings
from curate.cleaning.shards import SCRATCH, _decided, clean_pool
from curate.cleaning.steps import Planned, run_filters
from curate.records import Example, ExampleWriter, Message, read_examples
from tests.tiny import save_base

ROOT = Path(__file__).parents[3]
SENTENCES = [
    "The river rises in the hills and reaches the sea after a long way through the plain.",
    "Der Fluss entspringt in den Bergen und erreicht nach einem langen Weg endlich das Meer.",
    "Add the two numbers and write down the sum before you divide it by three.",
    "A recipe needs flour, butter and two eggs, and half an hour in the oven.",
    "Le train part à huit heures et arrive à midi dans la grande gare du nord.",
    "Write a function that returns the largest element of a list of whole numbers.",
]
ALL = {
    "near_match": {"threshold": 0.7},
    "language": {"wanted": ["en", "de"]},
    "quality": {"equalise": "language"},
    "personal_data": {},
    "near_duplicates": {"threshold": 0.7},
    "balance": {"by": ["source", "domain", "language"]},
}


LEAKED = [f"leaked{k}" for k in range(25)]


def pool(rows, seed):
    """Like and unlike rows of three languages, and planted in between: copies, and rows that ask what an item asks."""
    rng = random.Random(seed)
    made = []
    for k in range(rows):
        if k % 20 == 19:
            planted = [
                made[-1].messages[0].content.upper(),
                "same as the item",
                "Please: " + " ".join(LEAKED[:14]),
                " ".join([*LEAKED[:12], "edited", *LEAKED[13:]]),  # no 13 words in a row are left
            ][k // 20 % 4]
            answered = made[-1].messages[1]
            made.append(Example(f"r{k:03}", "s0", (Message("user", planted), answered), "MIT", "d0", f"f:{k + 1}"))
            continue
        said = " ".join(rng.choices(SENTENCES, k=rng.randint(1, 6)))
        words = f"{said} number {rng.randrange(rows // 3)}".split()
        if rng.random() < 0.3:
            words[rng.randrange(len(words))] = rng.choice(["other", "a@host.org", "ÉTÉ"])
        answer = "I cannot assist with that." if rng.random() < 0.1 else rng.choice(SENTENCES)
        asked, answered = Message("user", " ".join(words)), Message("assistant", answer)
        made.append(Example(f"r{k:03}", f"s{k % 3}", (asked, answered), "MIT", f"d{k % 2}", f"f:{k + 1}"))
    return made


@pytest.fixture(scope="module")
def rows():
    return pool(200, 1)


@pytest.fixture(scope="module")
def references():
    return [Reference("item", (" ".join(LEAKED),)), Reference("same", ("Same as the item",))]


def cleaned_in_shards(rows, references, settings, folder: Path, size, **options):
    folder.mkdir()
    with ExampleWriter(folder / "in.parquet", rows=size) as writer:
        for row in rows:
            writer.write(row)
    steps, rates = clean_pool(folder / "in.parquet", folder / "out.parquet", references, settings, **options)
    assert not (folder / SCRATCH).exists()
    return read_examples(folder / "out.parquet"), steps.steps, rates


@pytest.mark.parametrize("size", [7, 64, 1000])
def test_any_size_of_shards_gives_what_one_list_gives(rows, references, tmp_path, size):
    settings = CleaningSettings.model_validate(ALL)
    expected, rates = run_filters(rows, references, settings)
    found = cleaned_in_shards(rows, references, settings, tmp_path / "x", size, processes=1)
    assert found == (expected.kept, expected.steps, rates)
    by_filter = {step.filter: len(step.removed) for step in expected.steps}
    del by_filter["personal_data"]  # it masks
    assert all(by_filter.values()), by_filter  # else this would test nothing
    assert expected.changed and len(expected.kept) > 20


def test_the_number_of_processes_changes_no_byte(rows, references, tmp_path):
    settings = CleaningSettings.model_validate(ALL)
    found = {}
    for processes in (1, 2, 3):
        folder = tmp_path / f"{processes}"
        found[processes] = cleaned_in_shards(rows, references, settings, folder, 40, processes=processes)
    assert found[1] == found[2] == found[3]
    files = {(tmp_path / f"{processes}" / "out.parquet").read_bytes() for processes in (1, 2, 3)}
    assert len(files) == 1
    assert pq.read_metadata(tmp_path / "1" / "out.parquet").num_row_groups > 1


def test_filters_with_a_model_see_the_same_rows(rows, tmp_path):
    save_base(tmp_path / "model")
    semantic = {"model": str(tmp_path / "model"), "threshold": 0.98}
    for equalise in (None, "source"):
        settings = CleaningSettings.model_validate({"semantic_duplicates": semantic | {"equalise": equalise}})
        expected, rates = run_filters(rows[:80], [], settings)
        found = cleaned_in_shards(rows[:80], [], settings, tmp_path / f"{equalise}", 30, processes=1)
        assert found == (expected.kept, expected.steps, rates)
        assert expected.steps[-1].removed


def test_an_empty_pool_stays_empty(tmp_path):
    kept, steps, rates = cleaned_in_shards([], [], CleaningSettings.model_validate(ALL), tmp_path / "x", 10)
    assert kept == [] and rates == [] and [step.seen for step in steps] == [0] * 8


class Twice:
    def decide(self, sketches):
        return [Gone(0, -1, "a"), Gone(0, -1, "b")]


def test_a_pool_wide_filter_that_removes_a_row_twice_is_caught(rows, tmp_path):
    from curate.cleaning.shards import Count, Shard, Task, _Worker

    with ExampleWriter(tmp_path / "in.parquet") as writer:
        writer.write(rows[0])
    worker = _Worker(CleaningSettings(), [])
    worker.run(Task(0, Shard(str(tmp_path / "in.parquet"), 0), (), 0, 0, str(tmp_path)))
    with pytest.raises(RuntimeError, match="removed a row twice"):
        _decided(Planned("twice", Twice), Twice(), 1, tmp_path, Count())


def test_a_script_without_the_main_guard_can_clean_in_processes(rows, tmp_path):
    with ExampleWriter(tmp_path / "in.parquet", rows=80) as writer:
        for row in rows:
            writer.write(row)
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from curate.cleaning.settings import CleaningSettings\n"
        "from curate.cleaning.shards import clean_pool\n"
        "steps, _ = clean_pool(Path('in.parquet'), Path('out.parquet'), [], CleaningSettings(), processes=2)\n"
        "print(len(steps.removed))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    expected, _ = run_filters(rows, [], CleaningSettings())
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(expected.removed))]
