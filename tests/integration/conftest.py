"""One finished small run, and the parent it was forked from, for all tests that damage, kill, lock or move a store."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.integration.small_run import Forker, write_config


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
