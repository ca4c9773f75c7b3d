"""The figures stage on a slice of the demo: real rows, model and adapter."""

import csv
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.figures import FIGURES
from flows.config import validate
from flows.stages.data import clean, ingest
from flows.stages.encoding import encode
from flows.stages.figures import FIGURES_CSV, LOSSES, figures, read_figures
from flows.stages.selection import SELECTION
from flows.store import StageOutput, StageStore
from train.models import attach_lora, load_base
from train.settings import LoraSettings

ROWS, READ = 80, 12


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Configuration, store, cleaned and encoded pool, an adapter, and two selections, one of which names tasks."""
    folder = tmp_path_factory.mktemp("figures")
    given = {
        "name": "small",
        "store": str(folder / "store"),
        "model": "demo/model",
        "max_length": 128,
        "audit": {"min_rows": 0, "max_lost_labels": 1},
        "figures": {"rows": READ, "draws": 5},
        "data": {
            "pool": [{"path": "demo/data/pool.parquet", "limit": ROWS}],
            "targets": [{"path": "demo/data/targets.parquet", "limit": 20}],
        },
        "evaluation": {"items": ["demo/data/eval/code.parquet"]},
    }
    config = validate(given)
    store = StageStore(config.store)
    ingested = ingest(config, store)
    cleaned = clean(config, store, ingested)
    encoded = encode(config, store, ingested, cleaned)
    attach_lora(load_base(config.model), LoraSettings(r=2), seed=1).save_pretrained(folder / "warmup/checkpoint-3")
    ids = pq.read_table(encoded.path / "pool.parquet", columns=["id"])["id"].to_pylist()
    selected = {}
    for name, chosen, task in (("bids", ids[:30], "math"), ("random", ids[20:60], None)):
        (folder / name).mkdir()
        table = pa.table({"id": chosen, "task": pa.array([task] * len(chosen), pa.string())})
        pq.write_table(table, folder / name / SELECTION)
        selected[name] = StageOutput("select", f"key-{name}", folder / name, False, 0.0)
    return config, store, cleaned, encoded, StageOutput("warmup", "key-w", folder / "warmup", False, 0.0), selected


@pytest.fixture(scope="module")
def output(made):
    return figures(*made)


def test_every_group_has_every_figure_it_can_have(made, output):
    found = read_figures(output.path)
    assert found["rows"]["pool"] == {"all": made[3].rows["rows_out"], "counted": made[3].rows["rows_out"], "read": READ}
    assert [found["rows"][name]["all"] for name in ("bids", "random")] == [30, 40]
    for figure in FIGURES:
        groups = {"bids"} if figure.name == "tasks" else {"pool", "bids", "random"}
        assert set(found["figures"][figure.name]) == groups, figure.name
        for value, low, high in found["figures"][figure.name].values():
            assert math.isfinite(value) and low <= high


def test_the_lengths_are_those_of_the_rows(made, output):
    ids = set(pq.read_table(made[5]["bids"].path / SELECTION)["id"].to_pylist())
    rows = [row for row in pq.read_table(made[3].path / "pool.parquet").to_pylist() if row["id"] in ids]
    found = read_figures(output.path)["figures"]
    answers = [sum(label != -100 for label in row["labels"]) for row in rows]
    assert found["answer_tokens"]["bids"][0] == pytest.approx(np.mean(answers))
    assert found["truncated"]["bids"][0] == pytest.approx(np.mean([row["truncated"] for row in rows]))


def test_the_files_say_the_same(output):
    found = read_figures(output.path)["figures"]
    with (output.path / FIGURES_CSV).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["figure"], row["group"]): float(row["value"]) for row in rows} == {
        (name, group): values[0] for name, groups in found.items() for group, values in groups.items()
    }
    losses = pq.read_table(output.path / LOSSES).to_pylist()
    assert READ <= len(losses) <= 3 * READ and all(row["loss"] > 0 and row["ifd"] > 0 for row in losses)


def test_without_a_model_the_text_figures_stay(made, output):
    config = made[0].model_copy(update={"figures": made[0].figures.model_copy(update={"rows": 0})})
    found = read_figures(figures(config, *made[1:]).path)["figures"]
    assert not found["loss"] and not found["vendi"] and not found["ifd"]
    assert found["distinct_2"] == read_figures(output.path)["figures"]["distinct_2"]
