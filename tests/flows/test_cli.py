"""The command as a user runs it: quick help, one message and the right exit code for a mistake, never a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.tiny import make_base
from train.models import attach_lora, save_adapter
from train.settings import LoraSettings

ROOT = Path(__file__).parents[2]
MESSAGES = [{"role": "user", "content": "What is two and two?"}, {"role": "assistant", "content": "Four."}]


def equipoise(*arguments, home, **variables):
    """Run the command with its own Prefect home and without the network."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "OMP_NUM_THREADS": "1",
    }
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE"):
        environment.pop(name, None)
    environment |= variables
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture
def config(tmp_path):
    """Writes the demo's configuration with one small pool of our own, changed by dotted keys."""

    def write(rows=({"id": "good", "messages": MESSAGES},), **changes):
        pool = tmp_path / "pool.jsonl"
        pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
        raw = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
        raw |= {"store": str(tmp_path / "store"), **changes}
        raw["data"]["pool"] = [{"path": str(pool)}]
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(raw))
        return path

    return write


def told(done, code):
    """What a user reads of a failed command."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


def test_help_names_every_command_and_loads_nothing_heavy(tmp_path):
    code = (
        "import sys\n"
        "from flows.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'prefect', 'transformers', 'datasets', 'numpy', 'pyarrow', 'vllm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("run", "demo", "validate", "curate", "select", "train", "trace", "eval", "serve", "doctor"):
        assert re.search(rf"^\W*{command}\b", done.stdout, re.MULTILINE), command


def test_validate_answers_with_an_estimate(config, tmp_path):
    done = equipoise("validate", "configs/demo.yaml", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "configs/demo.yaml is valid." in done.stdout
    assert re.search(r"pool: [\d,]+ rows, about [\d,]+ tokens; model: [\d,]+ parameters", done.stdout)
    for stage in ("ingest", "gradients", "finetune", "evaluate", "whole run"):
        assert re.search(rf"\b{stage} .*\b(s|min|h)\b.*iB.*iB", done.stdout), stage


def test_every_unknown_key_is_named_with_exit_code_2(config, tmp_path):
    done = equipoise("validate", config(), "--set", "warmup.fractoin=0.1", "--set", "sede=1", home=tmp_path)
    message = told(done, 2)
    assert "configuration error: " in message
    assert "2 problem(s)" in message
    assert "warmup.fractoin: unknown key, did you mean 'fraction'?" in message
    assert "sede: unknown key, did you mean 'seed'?" in message


@pytest.mark.parametrize("command", ["validate", "run", "curate"])
def test_a_missing_configuration_file(tmp_path, command):
    message = told(equipoise(command, "configs/dmo.yaml", home=tmp_path), 2)
    assert "no such configuration file: configs/dmo.yaml, did you mean 'demo.yaml'?" in message


def test_a_missing_data_file(tmp_path):
    done = equipoise("run", "configs/demo.yaml", "--set", "data.pool.0.path=demo/data/pol.parquet", home=tmp_path)
    assert "no such file or folder: demo/data/pol.parquet, did you mean 'pool.parquet'?" in told(done, 2)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("demo/modle", "model: no such file or folder: demo/modle, did you mean 'model'?"),
        ("no-such-owner/no-such-model", "cannot load the model 'no-such-owner/no-such-model'"),
        ("configs", "cannot load the folder 'configs'"),
    ],
    ids=["folder that is not there", "hub id out of reach", "folder without a model"],
)
def test_a_model_that_cannot_be_loaded_fails_before_any_work(config, tmp_path, model, expected):
    message = told(equipoise("run", config(), "--set", f"model={model}", home=tmp_path), 2)
    assert expected in message
    assert not (tmp_path / "store").exists()


def test_a_dataset_that_is_no_folder(config, tmp_path):
    message = told(equipoise("train", config(), "--dataset", "bids=no/such/folder", home=tmp_path), 2)
    assert "--dataset 'bids=no/such/folder': expected name=folder with an existing folder" in message


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["evaluation.tasks=[demo_mth]"], "evaluation: tasks: 'demo_mth' is neither in configs/tasks nor built into"),
        (["evaluation.tasks=[local_mbpp]"], "evaluation: tasks: local_mbpp run programs .* set run_code: true"),
        (
            ["evaluation.tasks=[local_mbpp]", "evaluation.run_code=true"],
            "local_mbpp run programs that the model writes, but bubblewrap.* is not installed: `apt-get install",
        ),
        (["evaluation.task_folder={folder}"], r"evaluation: .*broken\.yaml, line \d+: not valid YAML"),
        (["evaluation.items=[{folder}/items.parquet]"], r"items\.parquet, row 0, id 'a': prompt must be a text"),
    ],
    ids=["unknown task", "programs without leave", "no sandbox", "malformed task file", "item without a prompt"],
)
def test_an_evaluation_that_cannot_be_done_fails_before_any_work(config, tmp_path, overrides, expected):
    (tmp_path / "broken.yaml").write_text("task: [\n")
    item = {"id": "a", "capability": "c", "prompt": None, "target": "x"}
    pq.write_table(pa.Table.from_pylist([item]), tmp_path / "items.parquet")
    sets = [part for text in overrides for part in ("--set", text.format(folder=tmp_path))]
    message = told(equipoise("validate", config(), *sets, home=tmp_path, PATH=str(tmp_path)), 2)
    assert re.search(expected, message), message


def test_a_report_of_a_run_that_is_not_there(tmp_path):
    message = told(equipoise("report", "nope", "--store", tmp_path, home=tmp_path), 2)
    assert "no run 'nope' in the store" in message


@pytest.mark.slow
def test_an_adapter_of_another_base_is_one_message(config, tmp_path):
    adapter = tmp_path / "adapter"
    save_adapter(attach_lora(make_base("gpt2"), LoraSettings(r=2, targets=["c_attn"]), seed=1), adapter)
    message = told(equipoise("eval", config(), "--model", f"x={adapter}", home=tmp_path / "prefect"), 2)
    assert "model 'x': the adapter" in message and "was trained on another base model" in message


def test_serve_without_a_server_says_how_to_start_one(config, tmp_path):
    message = told(equipoise("serve", config(), "--cron", "0 2 * * *", home=tmp_path), 2)
    assert "prefect server start" in message
    assert "PREFECT_API_URL" in message


def test_doctor_reports_this_machine_and_a_server_that_does_not_answer(tmp_path):
    done = equipoise("doctor", home=tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api")  # nothing listens there
    assert done.returncode == 1, done.stderr
    assert "127.0.0.1:9/api does not answer" in done.stdout and "unset PREFECT_API_URL" in done.stdout
    for name in ("python", "memory", "disk", "torch", "gpu", "vllm", "prefect server", "evaluation would use"):
        assert re.search(rf"^(ok|problem) +{name}: ", done.stdout, re.MULTILINE), name
    assert done.returncode == int("problem" in done.stdout)


@pytest.mark.slow
def test_too_many_bad_rows_stop_the_run_and_are_kept_with_their_reasons(config, tmp_path):
    good = [{"id": f"good-{number}", "messages": MESSAGES} for number in range(8)]
    bad = [{"id": "bad-1", "messages": []}, {"id": "bad-2", "messages": [MESSAGES[0]]}]
    path = config([*good[:4], *bad, *good[4:]])
    done = equipoise("curate", path, home=tmp_path / "prefect", PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="300")
    message = told(done, 1)
    assert f"{tmp_path / 'pool.jsonl'}:5: messages is missing or empty" in message
    assert "2 of 10 rows were rejected (20.0%; max_rejected is 1.0%)" in message
    (named,) = re.findall(r"All of them: (\S+rejected\.parquet)", message)
    rejected = pq.read_table(named).to_pylist()
    assert [row["id"] for row in rejected] == ["bad-1", "bad-2"]
    assert [row["reason"] for row in rejected] == ["messages is missing or empty", "no assistant turn"]
