"""The whole pipeline with its real parts: the command, a Prefect server, LoRA training and the vLLM engine.

A slice of the demo (120 pool rows, 2 capabilities, a handful of steps) plus three rows that must not come through: one
that is no conversation, one copy of a pool row and one that repeats a target. One run serves all tests of this file;
about four minutes on two idle cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from flows.lineage import ends, stories
from flows.runs import find_run
from tests.integration.prefect_server import ask, own_environment, settled, settled_logs, started_server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NAME = "tiny"
METHODS = ("bids", "bm25", "random")
CAPABILITIES = ["code", "knowledge"]
POOL_ROWS, BUDGET, LIMIT = 120, 12, 4
STAGES = [
    *("ingest", "guard", "clean", "encode", "warmup", "gradients", "attribution"),
    *("select-bids", "export-bids", "similarity-bm25", "select-bm25", "export-bm25", "select-random", "export-random"),
    "analysis",
    "figures",
    *(f"finetune-{method}" for method in METHODS),
    *("evaluate", "report"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def environment(folder):
    return own_environment(folder)


@pytest.fixture(scope="module")
def api(folder, environment):
    """The address of a real Prefect server on this machine."""
    with started_server(folder, environment, "--no-ui") as address:
        yield address


def odd_rows():
    """One row that is no conversation, one copy of a pool row under another id, one that repeats a target."""
    copied = pq.read_table(ROOT / "demo/data/pool.parquet").slice(3, 1).to_pylist()[0]
    leaked = pq.read_table(ROOT / "demo/data/targets.parquet").slice(0, 1).to_pylist()[0]
    return [
        {"id": "broken", "messages": [{"role": "user", "content": "Nobody answers."}]},
        {"id": "copy", "messages": copied["messages"]},
        {"id": "leak", "messages": leaked["messages"]},
    ]


@pytest.fixture(scope="module")
def config(folder):
    raw = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    (folder / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in odd_rows()))
    raw |= {"name": NAME, "store": str(folder / "store"), "max_length": 192}
    raw["data"]["pool"] = [{"path": "demo/data/pool.parquet", "limit": POOL_ROWS}, {"path": str(folder / "odd.jsonl")}]
    raw["warmup"] = {
        "fraction": 0.2,
        "checkpoints": 2,
        "optimizer": {"learning_rate": 2e-3, "epochs": 1, "batch_size": 8},
    }
    raw["selection"] = {"methods": list(METHODS), "budget": BUDGET}
    raw["finetune"]["optimizer"] = {"learning_rate": 2e-3, "epochs": 1, "batch_size": 4}
    raw["evaluation"] |= {
        "items": [f"demo/data/eval/{name}.parquet" for name in CAPABILITIES],
        "tasks": [f"demo_{name}" for name in CAPABILITIES],
        "limit": LIMIT,
        "max_model_len": 512,
        "resamples": 200,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def equipoise(*arguments, environment, api):
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment | {"PREFECT_API_URL": api}, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


@pytest.fixture(scope="module")
def first(config, environment, api):
    """What the first run printed."""
    return equipoise("run", config, environment=environment, api=api)


@pytest.fixture(scope="module")
def outputs(first, folder):
    """Stage, or stage and method -> folder of the store, by the manifests alone."""
    found = {}
    for path in (folder / "store").glob("*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        arm = next((manifest["params"][name] for name in ("method", "arm", "kind") if name in manifest["params"]), None)
        found["-".join(filter(None, (manifest["stage"], arm)))] = path.parent
    return found


def test_every_flow_and_every_stage_is_a_completed_run(first, api):
    names = {flow["id"]: flow["name"] for flow in ask(api, "flows")}
    # runs of later tests have other names or came later: the first run's parent is the oldest
    parent = min((run for run in ask(api, "flow_runs") if run["name"] == NAME), key=lambda run: run["start_time"])
    assert names[parent["flow_id"]] == "pipeline"
    children = [run for run in ask(api, "flow_runs") if run["start_time"] <= parent["end_time"]]
    assert {(names[run["flow_id"]], run["state_name"]) for run in children} == {
        (name, "Completed") for name in ("pipeline", "curate", "finetune", "evaluate")
    }
    runs = [run["id"] for run in children]
    tasks = settled(
        api,
        "task_runs",
        lambda found: len(found) == len(STAGES) + 3 and all(task["state_name"] == "Completed" for task in found),
        flow_runs={"id": {"any_": runs}},
    )
    # a flow called by a flow has a task run of its own, which points at it
    stages = [task["name"] for task in tasks if not task["state"]["state_details"]["child_flow_run_id"]]
    assert sorted(stages) == sorted(STAGES)
    assert {task["state_name"] for task in tasks} == {"Completed"}


def test_the_tables_are_artifacts_of_the_run(first, api):
    artifacts = {artifact["key"]: artifact for artifact in ask(api, "artifacts") if artifact["key"]}
    for method in METHODS:
        rows = json.loads(artifacts[f"{NAME}-sources-{method}"]["data"])
        assert sum(row["selected"] for row in rows) == BUDGET
        trained = json.loads(artifacts[f"{NAME}-mixture-{method}"]["data"])
        assert {row["source"] for row in trained} <= {row["source"] for row in rows}
    sources = {row["source"] for row in json.loads(artifacts[f"{NAME}-sources-bids"]["data"])}
    assert {row["source"] for row in json.loads(artifacts[f"{NAME}-influence"]["data"])} == sources
    assert set(METHODS) <= {row["method"] for row in json.loads(artifacts[f"{NAME}-balance"]["data"])}
    assert [row["method"] for row in json.loads(artifacts[f"{NAME}-confidence"]["data"])] == list(METHODS)
    for picture in ("sources", "influence", "coverage"):
        assert artifacts[f"{NAME}-{picture}-picture"]["data"].startswith("![")
    evaluation = artifacts[f"{NAME}-evaluation"]["data"]
    assert "held-out bits per byte" in evaluation
    assert "accuracy" in evaluation
    assert {row["stage"] for row in json.loads(artifacts[f"{NAME}-stages"]["data"])} == set(STAGES)


def test_every_stage_says_in_the_server_s_log_what_it_did(first, api):
    def untold(logs):
        messages = [log["message"] for log in logs]
        return [stage for stage in STAGES if not any(text.startswith(f"{stage}: done in ") for text in messages)]

    logs = settled_logs(api, lambda found: not untold(found))
    assert untold(logs) == []


def test_every_row_is_accounted_for_in_every_manifest(outputs):
    assert set(outputs) == {*STAGES, "scoring"}  # what the guard and the cleaning compare with
    counted = 0
    for stage, path in outputs.items():
        rows = json.loads((path / "manifest.json").read_text())["rows"]
        if rows:
            counted += 1
            rest = sum(count for name, count in rows.items() if name not in ("rows_in", "rows_out"))
            assert rows["rows_in"] == rows["rows_out"] + rest, (stage, rows)
    # all but warmup, figures, the fine-tunings, evaluate and report, which make no rows
    assert counted == len(STAGES) - len(METHODS) - 4


def test_every_source_line_has_one_end_and_a_story(outputs, folder):
    run = find_run(NAME, str(folder / "store"))
    found = ends(run)
    by_end = Counter(end.end for end in found)
    targets = sum(end.kind == "target" for end in found)
    assert len({end.origin for end in found}) == len(found) == POOL_ROWS + 3 + targets
    assert by_end["rejected"] == 1 and by_end["removed"] == 2 and by_end["selected"] >= BUDGET
    (told,) = stories(run, next(end.id for end in found if end.end == "selected"))
    stages = [event.stage for event in told.events]
    assert stages[0] == "ingest" and stages[-1].startswith("finetune-") and any(s.startswith("export-") for s in stages)


def test_the_rows_that_must_not_come_through_are_named_with_their_reasons(outputs):
    (rejected,) = pq.read_table(outputs["ingest"] / "rejected.parquet").to_pylist()
    assert rejected["id"] == "broken"
    assert rejected["origin"].endswith("odd.jsonl:1")
    removed = {row["id"]: row for row in pq.read_table(outputs["clean"] / "removed.parquet").to_pylist()}
    pool = pq.read_table(ROOT / "demo/data/pool.parquet", columns=["id"])["id"].to_pylist()
    targets = pq.read_table(ROOT / "demo/data/targets.parquet", columns=["id"])["id"].to_pylist()
    assert removed["copy"]["matched_id"] == pool[3]
    assert removed["leak"]["matched_id"] == targets[0]
    left = set(pq.read_table(outputs["clean"] / "pool.parquet", columns=["id"])["id"].to_pylist())
    assert left == {*pool[:POOL_ROWS]} - set(removed)


@pytest.mark.parametrize("method", METHODS)
def test_the_exported_folder_opens_as_a_dataset(outputs, method, tmp_path):
    import datasets

    opened = datasets.load_dataset(str(outputs[f"export-{method}"] / "dataset"), cache_dir=str(tmp_path))["train"]
    assert len(opened) == BUDGET
    selected = pq.read_table(outputs[f"select-{method}"] / "selection.parquet").to_pylist()
    assert opened["id"] == [row["id"] for row in selected]
    assert len(set(opened["id"])) == BUDGET
    assert all(row["messages"][-1]["role"] == "assistant" for row in opened)


def test_bids_picks_for_every_capability(outputs):
    selected = pq.read_table(outputs["select-bids"] / "selection.parquet").to_pylist()
    capabilities = {row["capability"] for row in pq.read_table(ROOT / "demo/data/targets.parquet").to_pylist()}
    assert {row["task"] for row in selected} <= capabilities
    assert len({row["task"] for row in selected}) >= 3


def test_the_models_were_scored_by_the_real_engine_on_the_same_items(outputs):
    engine = json.loads((outputs["evaluate"] / "engine.json").read_text())
    assert engine["backend"] == "vllm"
    items = pq.read_table(outputs["evaluate"] / "items.parquet").to_pylist()
    models = ("base", *METHODS)
    accuracy = Counter((row["model"], row["capability"]) for row in items if row["metric"] == "acc")
    assert accuracy == {(model, name): LIMIT for model in models for name in CAPABILITIES}
    bits = {
        model: {row["id"] for row in items if row["metric"] == "bits_per_byte" and row["model"] == model}
        for model in models
    }
    assert bits["base"] == bits["bids"] == bits["random"]
    assert len(bits["base"]) > 100
    # training moved the models
    means = [
        sum(row["value"] for row in items if row["metric"] == "bits_per_byte" and row["model"] == m) for m in models
    ]
    assert len(set(means)) == len(models)


def test_the_report_is_there_and_whole(outputs, first):
    page = outputs["report"] / "report.html"
    assert str(page) in first
    text = page.read_text(encoding="utf-8")
    assert text.rstrip().endswith("</html>")
    assert text.count("<svg") >= 6
    assert f"<title>{NAME} · Equipoise</title>" in text


def test_a_second_run_finds_everything_in_the_store(outputs, config, environment, api):
    before = {path: path.stat().st_mtime_ns for path in outputs["report"].parents[1].rglob("manifest.json")}
    printed = equipoise("run", config, environment=environment, api=api)
    assert f"Nothing was recomputed: all {len(STAGES)} stages were in the store." in printed
    after = {path: path.stat().st_mtime_ns for path in outputs["report"].parents[1].rglob("manifest.json")}
    assert after == before


def test_a_fresh_store_gives_the_same_selections_byte_for_byte(outputs, config, environment, api, folder):
    other = folder / "other-store"
    printed = equipoise("curate", config, "--set", f"store={other}", environment=environment, api=api)
    curation = len(STAGES) - len(METHODS) - 2  # all but the fine-tunings, evaluate and report
    assert f"{curation} of {curation} stages computed" in printed
    for method in METHODS:
        first = outputs[f"select-{method}"]
        again = other / "select" / first.name / "selection.parquet"
        assert again.read_bytes() == (first / "selection.parquet").read_bytes()
    scores = (outputs["attribution"] / "scores.npy").read_bytes()
    assert (other / "attribution" / outputs["attribution"].name / "scores.npy").read_bytes() == scores
