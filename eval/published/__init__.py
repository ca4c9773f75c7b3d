"""The published benchmarks by the names people use, for machines that reach a hub.

A name stands for one of lm-evaluation-harness's own tasks or groups and gives it a capability, so that a table can
average over capabilities. HumanEval and MBPP are our own definitions in this folder: the harness's would run the
model's programs in this process, without a sandbox, as soon as they are loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent


class Published(NamedTuple):
    """task: the harness's name, or that of a file of `FOLDER`."""

    task: str
    capability: str


PUBLISHED = {
    "mmlu": Published("mmlu", "knowledge"),
    "bbh": Published("bbh", "reasoning"),
    "gsm8k": Published("gsm8k", "math"),
    "gsm_plus": Published("gsm_plus", "math"),
    "math": Published("hendrycks_math", "math"),
    "ifeval": Published("ifeval", "instruction"),
    "humaneval": Published("published_humaneval", "code"),
    "mbpp": Published("published_mbpp", "code"),
    "mgsm": Published("mgsm_direct", "multilingual"),
}
