"""What test files share: one finished small run, with the parent it was forked from, for all tests that damage, kill,
lock or move a store; one Prefect server for all tests of deployments, runs and stages."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from tests.integration.prefect_server import PLANTED, own_environment, started_server
from tests.integration.small_run import Forker, write_config

ROOT = Path(__file__).parents[2]
# a library that shows what it should not, in every process that a stage starts
LEAK = """
import os
if "EQUIPOISE_SECRETS" in os.environ:
    print("leaking", os.environ["HF_TOKEN"], os.environ["TEAM_PASSPHRASE"], flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Finished:
    """folder: has the data; config: of the run, whose store is `store`; forker: runs it again."""

    folder: Path
    config: dict
    store: Path
    forker: Forker


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """What tests change of the store they make good again."""
    folder = tmp_path_factory.mktemp("small-run")
    store = folder / "store"
    config = write_config(folder, store)
    forker = Forker(folder)
    try:
        code, log = forker.run(config)
        assert code == 0, log
        yield Finished(folder, config, store, forker)
    finally:
        forker.close()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="session")
def shared_environment(shared_folder):
    (shared_folder / "site").mkdir()
    (shared_folder / "site/sitecustomize.py").write_text(LEAK)
    path = os.pathsep.join([str(shared_folder / "site"), str(ROOT)])
    own = {"HF_TOKEN": PLANTED, "PYTHONPATH": path, "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    return own_environment(shared_folder) | own


@pytest.fixture(scope="session")
def shared_api(shared_folder, shared_environment):
    """The address of the API of a server that lives as long as the tests."""
    with started_server(shared_folder, shared_environment) as address:
        yield address
