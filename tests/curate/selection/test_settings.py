"""What the selection settings accept, and that they survive being handed over as plain values."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from curate.selection.constraints import SourceLimit
from curate.selection.settings import SelectionSettings


def test_every_field_is_described():
    assert all(field.description for field in SelectionSettings.model_fields.values())


def test_constraints_from_plain_values():
    settings = SelectionSettings(
        budget_tokens=0.2, sources={"math": {"min": 0.1, "max": 500}, "code": {"min": 3}}, max_per_cluster=2
    )
    assert settings.constrained
    assert {name: source.limit() for name, source in settings.sources.items()} == {
        "math": SourceLimit(0.1, 500),
        "code": SourceLimit(3, None),
    }
    assert isinstance(settings.sources["code"].min, int) and isinstance(settings.sources["math"].min, float)
    assert SelectionSettings.model_validate(settings.model_dump(mode="json")) == settings
    assert "0.2 (tokens)" in settings.budget_in_words
    assert not SelectionSettings(budget=10).constrained


def test_ids_from_a_file(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("a-1\n\n  b-2 \n", encoding="utf-8")
    assert SelectionSettings(include=str(path)).include == ["a-1", "b-2"]
    assert SelectionSettings(exclude=path).exclude == ["a-1", "b-2"]
    with pytest.raises(ValidationError, match=r"no such file.*did you mean 'ids\.txt'"):
        SelectionSettings(include=str(tmp_path / "id.txt"))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValidationError, match="is not a text file of ids"):
        SelectionSettings(include=str(path))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budget_tokens": 0}, "budget_tokens 0 is neither"),
        ({"budget_tokens": 1.5}, "budget_tokens 1.5 is neither"),
        ({"budget_tokens": 1000, "budget": 50}, "budget and budget_tokens are both given"),
        ({"sources": {"a": {"min": 5, "max": 3}}}, "min 5 is more than max 3"),
        ({"sources": {"a": {"min": 1.2}}}, "min 1.2 is neither"),
        ({"sources": {"a": {"max": -1}}}, "max -1 is neither"),
        ({"sources": {"a": {"least": 1}}}, "Extra inputs are not permitted"),
        ({"include": ["a", "b", "a"]}, "include lists 'a' more than once"),
        ({"include": ["a"], "exclude": ["a"]}, "'a' is in include and in exclude"),
        ({"max_per_cluster": 0}, "greater than or equal to 1"),
        ({"near_duplicate_threshold": 0}, "greater than 0"),
        ({"near_duplicate_threshold": float("nan")}, "less than or equal to 1"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        SelectionSettings(**given)
