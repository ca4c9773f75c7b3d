"""JSON as its standard has it: a key once per object, no NaN, no Infinity.

Python's reader keeps the last of two equal keys and takes NaN, so that a row could lose its answer without a word.
Flaws are noted while a value is read and told at its end, so that one entry of a list costs itself and not the list.
A hook runs per object, which makes reading some two times slower; it stays far from being the slow part.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")


class JsonError(ValueError):
    """Text that is not JSON, or holds what must not be in it; the message is the reason a row is rejected for."""


class JsonReader:
    """Reads values one after the other; not for use by two threads at once."""

    def __init__(self) -> None:
        self._flaw: str | None = None
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constant)

    def value(self, text: str) -> Any:
        """The one value of `text`; `JsonError` for everything else."""
        found, end = self._next(text, _after_space(text, 0))
        if _after_space(text, end) < len(text):
            raise JsonError("not valid JSON")
        if isinstance(found, JsonError):
            raise found
        return found

    def entries(self, text: str) -> Iterator[Any]:
        """The entries of a list, a flawed one as the `JsonError` that tells its flaw; `JsonError` is raised where the
        text is no list any more."""
        at = _after_space(text, 0)
        if text[at : at + 1] != "[":
            raise JsonError("not a list")
        at = _after_space(text, at + 1)
        ends = text[at : at + 1] == "]"
        while not ends:
            found, end = self._next(text, at)
            yield found
            at = _after_space(text, end)
            ends = text[at : at + 1] == "]"
            if not ends:
                if text[at : at + 1] != ",":
                    raise JsonError("not valid JSON")
                at = _after_space(text, at + 1)
        if _after_space(text, at + 1) < len(text):
            raise JsonError("not valid JSON")

    def _next(self, text: str, at: int) -> tuple[Any, int]:
        self._flaw = None
        try:
            found, end = self._decoder.raw_decode(text, at)
        except RecursionError as error:
            raise JsonError("nested too deeply") from error
        except ValueError as error:
            raise JsonError("not valid JSON") from error
        return (found if self._flaw is None else JsonError(self._flaw)), end

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            self._flaw = self._flaw or f"the key {repr(twice)[:80]} stands twice in one object"
        return made

    def _constant(self, name: str) -> None:
        self._flaw = self._flaw or f"{name} is not JSON; write null or leave the field out"


def parse_json(text: str) -> Any:
    """The value of `text`; `JsonError` for everything else."""
    return JsonReader().value(text)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
