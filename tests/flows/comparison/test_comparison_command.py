"""`equipoise compare` as a user runs it: the tables on the terminal, four files, and one message for a mistake."""

from __future__ import annotations

import shutil

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tests.flows.comparison.small_runs import finish, write_data


def equipoise(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture
def store(tmp_path):
    data = write_data(tmp_path / "data")
    finish(tmp_path / "store", data)
    finish(tmp_path / "store", data, name="other", influence=1)
    finish(tmp_path / "store", data, name="lonely", methods=["bids"])
    return tmp_path / "store"


def test_tables_and_files(store, tmp_path):
    folder = tmp_path / "deep" / "out"
    done = equipoise("small", "other", "--store", store, "--output", folder, "--control", "random")
    assert done.exit_code == 0, done.output
    assert "## Configuration\n\nNo setting differs." in done.stdout
    assert "| small:bids ∩ other:bids |" in done.stdout and "other:bids − small:random" in done.stdout
    assert done.stdout.endswith("".join(f"{folder}/comparison.{end}\n" for end in ("md", "csv", "json", "html")))
    assert (folder / "comparison.md").read_text() in done.stdout
    # records need no store, and what is written does not depend on how runs are named
    records = [next((store / "runs" / name).glob("*.json")) for name in ("small", "other")]
    again = equipoise(*records, "--output", tmp_path / "again", "--control", "random")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again" / "comparison.json").read_text() == (folder / "comparison.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lonely"], "name another run"),
        (["small", "othr"], "did you mean 'other'"),
        (["small", "other", "--control", "bm25"], "there are small:bids, small:random"),
    ],
)
def test_a_mistake_gets_one_message(store, tmp_path, arguments, message):
    done = equipoise(*arguments, "--store", store, "--output", tmp_path / "out")
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_a_run_whose_evaluation_is_gone(store, tmp_path):
    shutil.rmtree(store / "evaluate")
    done = equipoise("small", "other", "--store", store, "--output", tmp_path / "out")
    assert done.exit_code == 2 and "run its configuration again" in done.stderr


def test_a_folder_that_is_a_file(store, tmp_path):
    (tmp_path / "out").write_text("")
    done = equipoise("small", "other", "--store", store, "--output", tmp_path / "out")
    assert done.exit_code == 2 and "name another folder" in done.stderr
