"""Keep tokens out of what is written down: values of secret environment variables are replaced in every line.

A variable is secret by its name (`HF_TOKEN`, `AWS_SECRET_ACCESS_KEY`, `..._PASSWORD`), or because `EQUIPOISE_SECRETS`
lists it. A value in another form (base64, cut in two) is not recognised.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

LISTED = "EQUIPOISE_SECRETS"  # names of further secret variables, separated by commas
MASK = "***"
SHORTEST = 6  # characters; a shorter value would be found in innocent words
_SECRET_NAME = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|API_?KEY|ACCESS_KEY)(_ID)?$", re.IGNORECASE)


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """Values that must not be written down, longest first: one may hold another."""
    listed = set(filter(None, environment.get(LISTED, "").split(",")))
    values = {
        value.strip()
        for name, value in environment.items()
        if (name in listed or _SECRET_NAME.search(name)) and len(value.strip()) >= SHORTEST
    }
    return sorted(values, key=lambda value: (-len(value), value))


def masker(environment: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """A function that replaces the secrets of `environment` (by default this process's) in a text."""
    values = secret_values(os.environ if environment is None else environment)
    if not values:
        return lambda text: text
    pattern = re.compile("|".join(map(re.escape, values)))
    return lambda text: pattern.sub(MASK, text)
