"""A warmed-up tiny model, once for all tests of this folder."""

from __future__ import annotations

import pytest

from tests.tiny_warmup import Warmup, make_warmup


@pytest.fixture(scope="package")
def warmup(tmp_path_factory) -> Warmup:
    return make_warmup(tmp_path_factory.mktemp("warmup"))
