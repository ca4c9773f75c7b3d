"""Which errors are told to the user in one message, and with which exit code."""

from __future__ import annotations

import pytest

from curate.sources import SourceError, TooManyRejectedError
from eval.items import ItemError
from eval.request import EvaluationError
from flows.config import ConfigError
from flows.errors import CONFIGURATION, FAILED, exit_code
from flows.process import ProcessError
from flows.store import StoreError
from train.models import ModelError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a"), CONFIGURATION),
        (SourceError("a"), CONFIGURATION),
        (ItemError("a"), CONFIGURATION),
        (ModelError("a"), CONFIGURATION),
        (TooManyRejectedError("a", []), FAILED),  # a SourceError too, but the run had begun
        (ProcessError("a"), FAILED),
        (StoreError("a"), FAILED),
        (EvaluationError("a"), FAILED),
        (OSError("disk full"), FAILED),
        (KeyError("a bug of ours"), None),
        (TypeError("a bug of ours"), None),
        (RuntimeError("a bug of ours"), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_exit_codes(error, code):
    assert exit_code(error) == code


def test_the_codes_are_the_documented_ones():
    assert (CONFIGURATION, FAILED) == (2, 1)
