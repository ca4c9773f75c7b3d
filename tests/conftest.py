"""What tests need that pip does not install: a skip with the remedy on a developer's machine, a failure in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def pytest_runtest_setup(item):
    if item.get_closest_marker("sandbox") is None or shutil.which("bwrap"):
        return
    told = "bubblewrap is not installed: `apt-get install bubblewrap`"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(told)
    pytest.skip(told)
