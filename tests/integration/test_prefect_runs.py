"""Runs as Prefect's users have them: a served deployment, started, cancelled and started again through the API, its
pages in a browser, and no secret anywhere.

One server and one tiny pipeline (60 pool rows, two fine-tunings of three steps) serve all tests of this file: the first
run is cancelled while it fine-tunes, the second one finishes what is left. About two minutes on two idle cores.
"""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.integration.prefect_server import PLANTED, ask, end, settled

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NAME = "served"
PATIENCE_SECONDS = 600
CURATION = {
    "ingest",
    "clean",
    "encode",
    "warmup",
    "gradients",
    "attribution",
    "select-bids",
    "export-random",
}  # and more
IN_BLOCK = "PLANTEDinBLOCK"
# a flow of one stage whose process starts another one, and both would go on for ever
ENDLESS = """
import signal, sys
from pathlib import Path
from prefect import flow
from flows.config import load_config
from flows.process import run_logged
from flows.stage_run import run_stage

CHILD = '''import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("worker", worker.pid, flush=True)
time.sleep(600)'''

def work(config):
    run_logged([sys.executable, "-c", CHILD], Path(sys.argv[2]), name="endless")

@flow
def endless():
    run_stage("endless", work, load_config(Path(sys.argv[1])))

signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background has its children ignore it
endless()
"""


def wait_for(condition, what):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen in {PATIENCE_SECONDS} s")


@pytest.fixture(scope="module")
def folder(shared_folder):
    return shared_folder


@pytest.fixture(scope="module")
def environment(shared_environment):
    return shared_environment


@pytest.fixture(scope="module")
def api(shared_api):
    return shared_api


@pytest.fixture(scope="module")
def config(folder):
    optimizer = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 4}
    raw = {
        "name": NAME,
        "store": str(folder / "store"),
        "model": "demo/model",
        "max_length": 256,
        "data": {
            "pool": [{"path": "demo/data/pool.parquet", "limit": 60}],
            "targets": [{"path": "demo/data/targets.parquet", "limit": 20}],
        },
        "warmup": {"fraction": 0.2, "checkpoints": 1, "optimizer": optimizer},
        "selection": {"methods": ["bids", "random"], "budget": 20},
        "finetune": {"optimizer": optimizer},
        "evaluation": {"items": ["demo/data/eval/code.parquet"], "resamples": 100},
        "execution": {"secrets": {"TEAM_PASSPHRASE": "team-passphrase"}, "retry_delay_seconds": 0.1},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture(scope="module")
def block(api, folder, environment):
    code = f"from prefect.blocks.system import Secret; Secret(value={IN_BLOCK!r}).save('team-passphrase')"
    subprocess.run([sys.executable, "-c", code], env=environment | {"PREFECT_API_URL": api}, check=True, timeout=300)


@pytest.fixture(scope="module")
def served(api, config, folder, environment, block):
    """The process that serves, and the deployment of `pipeline`."""
    command = [sys.executable, "-m", "flows.cli", "serve", str(config), "--cron", "0 2 * * *"]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment | {"PREFECT_API_URL": api},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def deployed():
        assert process.poll() is None, (folder / "serve.log").read_text()
        found = {one["entrypoint"].rpartition(".")[2]: one for one in ask(api, "deployments") if one["name"] == NAME}
        return found if len(found) == 3 else None

    try:
        yield process, wait_for(deployed, "the deployment")["pipeline_flow"]
    finally:
        end(process)


def start(api, deployment, **sections):
    """A run with some settings changed, as the form of a custom run sends it: all parameters, as JSON."""
    parameters = json.loads(json.dumps(deployment["parameters"]))
    for section, changes in sections.items():
        parameters["config"][section] |= changes
    return httpx.post(
        f"{api}/deployments/{deployment['id']}/create_flow_run", json={"parameters": parameters}, timeout=60
    )


def read_run(api, run):
    return httpx.get(f"{api}/flow_runs/{run}", timeout=60).raise_for_status().json()


def final(api, run):
    finals = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
    return wait_for(lambda: (found := read_run(api, run))["state_type"] in finals and found, "the end of the run")


def family(process):
    """What runs below the process that serves, beside Prefect's own."""
    return [each for each in process.children(recursive=True) if each.is_running()]


def trainers(process):
    found = []
    for each in family(psutil.Process(process.pid)):
        try:
            if "/finetune/" in " ".join(each.cmdline()):
                found.append(each)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def cancelled(api, served):
    """A run that is cancelled while it fine-tunes: the run at its end, and the processes it had then."""
    process, deployment = served
    run = start(api, deployment, selection={"budget": 12}).raise_for_status().json()["id"]

    def training():
        assert read_run(api, run)["state_type"] not in {"COMPLETED", "FAILED", "CRASHED"}
        return len(found := trainers(process)) > 1 and found  # the launcher and its worker

    training = wait_for(training, "the fine-tuning")
    state = {"type": "CANCELLING", "name": "Cancelling"}
    httpx.post(f"{api}/flow_runs/{run}/set_state", json={"state": state}, timeout=60).raise_for_status()
    psutil.wait_procs(training, timeout=60)
    return final(api, run), training


@pytest.fixture(scope="module")
def finished(api, served, cancelled):
    """The same run once more, to its end."""
    _, deployment = served
    run = start(api, deployment, selection={"budget": 12}).raise_for_status().json()["id"]
    return final(api, run)


def children_of(api, run):
    """Subflow name -> run of a pipeline run."""
    found = ask(api, "flow_runs", flow_runs={"parent_flow_run_id": {"any_": [run["id"]]}})
    return {one["name"]: one for one in found}


def tasks_of(api, run, count=1):
    runs = {"id": {"any_": [run["id"]]}}
    finals = {"COMPLETED", "FAILED", "CRASHED"}
    return settled(
        api,
        "task_runs",
        lambda found: len(found) >= count and all(task["state_type"] in finals for task in found),
        flow_runs=runs,
    )


@pytest.mark.parametrize(
    ("section", "change", "told"),
    [
        ("selection", {"budget": "many"}, "config.selection.budget"),
        ("finetune", {"seeds": ["first"]}, "config.finetune.seeds"),
        ("selection", {"bugdet": 3}, "'bugdet' was unexpected"),
        ("execution", {"retries": 99}, "99 is greater than the maximum of 20"),
    ],
)
def test_the_server_refuses_a_wrong_value_and_says_which(api, served, section, change, told):
    answer = start(api, served[1], **{section: change})
    assert answer.status_code == 409
    assert told in answer.json()["detail"]


def test_cancelling_ends_the_training_and_keeps_what_was_finished(cancelled, folder):
    run, training = cancelled
    assert run["state_name"] == "Cancelled"
    assert not [each for each in training if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert len(list((folder / "store").glob("export/*/manifest.json"))) == 2
    assert not list((folder / "store").glob("finetune/*/manifest.json"))


def test_the_next_run_finds_the_finished_stages_and_makes_the_rest(api, cancelled, finished):
    assert finished["state_name"] == "Completed", finished["state"]["message"]
    children = children_of(api, finished)
    assert set(children) == {f"{flow}-{NAME}" for flow in ("curate", "finetune", "evaluate")}
    before = tasks_of(api, children_of(api, cancelled[0])[f"curate-{NAME}"])
    after = tasks_of(api, children[f"curate-{NAME}"], len(before))
    assert {task["name"] for task in before} >= CURATION
    assert {task["state_name"] for task in before} == {"Completed"}
    assert sorted(task["name"] for task in after) == sorted(task["name"] for task in before)
    assert {task["state_name"] for task in after} == {"Cached"}
    trained = tasks_of(api, children[f"finetune-{NAME}"], 2)
    assert {(task["name"], task["state_name"]) for task in trained} == {
        ("finetune-bids", "Completed"),
        ("finetune-random", "Completed"),
    }


def test_the_edited_budget_was_used(api, finished, folder):
    artifacts = {one["key"]: one for one in ask(api, "artifacts/latest")}
    assert [row["rows"] for row in json.loads(artifacts[f"{NAME}-selection"]["data"])] == [12, 12]
    assert finished["parameters"]["config"]["selection"]["budget"] == 12


def test_quality_diversity_and_complexity_stand_side_by_side(api, finished):
    artifacts = {one["key"]: one for one in ask(api, "artifacts/latest")}
    rows = json.loads(artifacts[f"{NAME}-figures"]["data"])
    assert {"figure", "higher means", "pool", "bids", "random"} == set(rows[0]) and len(rows) > 10


def test_long_stages_tell_how_far_they_are(api, finished):
    artifacts = {one["key"]: one for one in ask(api, "artifacts/latest")}
    for stage in ("warmup", "gradients", "finetune-bids", "finetune-random", "evaluate"):
        progress = artifacts[f"{NAME}-{stage}-progress"]
        assert progress["type"] == "progress"
        assert progress["data"] == 100.0
        assert progress["description"].startswith(f"{stage}: done")


def test_the_processes_lines_are_in_the_run_s_log_and_their_bars_are_not(api, finished):
    def lines(found):
        return [one["message"] for one in found]

    logs = settled(
        api,
        "logs",
        lambda found: any(re.match(r"loss [\d.]+, learning rate", line) for line in lines(found)),
        logs={"flow_run_id": {"any_": [children_of(api, finished)[f"finetune-{NAME}"]["id"]]}},
        limit=200,
    )
    assert any(re.match(r"loss [\d.]+, learning rate", line) for line in lines(logs))
    assert not any("%|" in line for line in lines(logs))


def test_no_secret_is_written_anywhere(api, finished, folder):
    logs = list((folder / "store").rglob("train.log"))
    assert logs
    assert all("leaking *** ***" in log.read_text() for log in logs)  # it was shown, and masked
    secrets = (PLANTED.encode(), IN_BLOCK.encode())
    database = next((folder / "prefect").glob("*.db"))
    with closing(sqlite3.connect(database)) as opened:
        told = "\n".join(opened.iterdump())
    assert "leaking" in told
    assert not any(secret.decode() in told for secret in secrets)
    searched = 0
    for path in folder.rglob("*"):
        if path.is_file():
            searched += 1
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets), path
    assert searched > 50
    for what in ("artifacts", "logs", "flow_runs", "task_runs", "deployments", "block_documents"):
        answer = json.dumps(ask(api, what))
        assert not any(secret.decode() in answer for secret in secrets), what


def test_the_pages_show_stages_and_results(api, finished):
    playwright = pytest.importorskip("playwright.sync_api")
    if not Path("/usr/bin/chromium").exists():
        pytest.skip("chromium is not installed: `apt-get install chromium`")
    pages = api.removesuffix("/api")
    curate = children_of(api, finished)[f"curate-{NAME}"]["id"]
    artifacts = {one["key"]: one["latest_id"] for one in ask(api, "artifacts/latest")}
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{pages}/runs/flow-run/{curate}")
        page.get_by_text("Task Runs", exact=True).first.click()
        for stage in ("analysis", "warmup", "ingest", "export-bids"):
            page.get_by_text(stage, exact=True).first.wait_for()
        page.get_by_text("Cached", exact=True).first.wait_for()
        page.goto(f"{pages}/artifacts/artifact/{artifacts[f'{NAME}-overview']}")
        for text in ("held-out bits per byte", "against random", "selected by bids", "targets to steer by"):
            page.get_by_text(text).first.wait_for()
        page.get_by_alt_text("what became of the rows").wait_for()
        browser.close()


def test_the_file_for_workers_registers_its_deployments(api, environment):
    httpx.post(f"{api}/work_pools/", json={"name": "equipoise", "type": "process"}, timeout=60).raise_for_status()
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=ROOT,
        env=environment | {"PREFECT_API_URL": api},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    declared = [one for one in ask(api, "deployments") if one["name"].startswith("demo")]
    assert sorted(one["name"] for one in declared) == ["demo", "demo", "demo-nightly"]
    assert {one["parameters"]["config"]["selection"]["budget"] for one in declared} == {0.1}
    assert not any(schedule["active"] for one in declared for schedule in one["schedules"])


def test_ctrl_c_and_sigterm_end_a_run_s_processes(api, config, folder, environment, block):
    runs = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        log = folder / f"endless-{number}.log"
        command = [sys.executable, "-c", ENDLESS, str(config), str(log)]
        own = environment | {"PREFECT_API_URL": api}
        with (folder / f"terminal-{number}.log").open("w") as terminal:
            runs[number] = subprocess.Popen(command, cwd=ROOT, env=own, stdout=terminal, stderr=terminal), log
    for number, (process, log) in runs.items():
        terminal = folder / f"terminal-{number}.log"

        def worker(process=process, log=log, terminal=terminal):
            assert process.poll() is None, terminal.read_text()
            return log.exists() and re.search(r"worker (\d+)\n", log.read_text())

        found = psutil.Process(int(wait_for(worker, "the worker")[1]))
        below = family(psutil.Process(process.pid))
        assert found in below
        process.send_signal(number)
        assert process.wait(60) != 0
        _, alive = psutil.wait_procs(below, timeout=10)
        assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
